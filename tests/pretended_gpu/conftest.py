"""Fixtures of everything that runs on the pretended GPU."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(autouse=True)
def _lightnings_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
