"""A choice of what makes code of traced networks: the usual compiler takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from tests.helpers.runs import Record, fit, fit_on_two_ranks


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Let ``torch.compile`` hand what it traces to another backend."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=name))
        if name != "inductor":
            # they need no C++ compiler, which this machine may not have
            monkeypatch.setenv("CXX", sys.executable)
        yield


def fit_traced(args: list[str], **recorder: Any) -> Record:
    """Fit with traced networks, and run what was traced as it is."""
    with backend("eager"):
        return fit([*args, "--model.compile=true"], **recorder)


def fit_traced_on_two_ranks(args: list[str], **recorder: Any) -> Record:
    """Fit likewise on this rank of a pair that is already connected."""
    with backend("eager"):
        return fit_on_two_ranks([*args, "--model.compile=true"], **recorder)
