"""Regression of one or several real numbers from a row of numbers."""
