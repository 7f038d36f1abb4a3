"""Figures: style, learning curves, tables."""
