"""Errors of parts that do not fit together."""

from __future__ import annotations


class IncompatibleError(ValueError):
    """A combination of parts that cannot be trained, refused at start-up."""
