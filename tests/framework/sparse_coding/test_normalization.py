"""The common size of activations, and the way back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.sparse_coding.normalization import Normalization

X = 3 + 5 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_constant_makes_the_mean_norm_the_root_of_d() -> None:
    unit = Normalization.fitted("constant", X)
    torch.testing.assert_close(unit(X).norm(dim=1).mean() ** 2, torch.tensor(6.0).double())
    torch.testing.assert_close(unit(X) / X, torch.full_like(X, unit.scale))


def test_layernorm_standardizes_every_row() -> None:
    found = Normalization("layernorm")(X)
    torch.testing.assert_close(found.mean(1), torch.zeros(50).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.std(1), torch.ones(50).double(), atol=1e-4, rtol=0)


@given(mode=st.sampled_from(["none", "constant", "layernorm"]), scale=st.floats(1e-3, 1e3))
def test_restore_undoes_it(mode, scale) -> None:
    unit = Normalization(mode, scale)
    torch.testing.assert_close(unit.restore(unit(X), X), X)
    # what a reconstruction misses is missed in the original's own unit
    half = unit.restore(unit(X) / 2, X)
    expected = (X + X.mean(1, keepdim=True)) / 2 if mode == "layernorm" else X / 2
    torch.testing.assert_close(half, expected)


def test_activations_of_nothing_but_zeros_keep_their_size() -> None:
    assert Normalization.fitted("constant", torch.zeros(3, 2)).scale == 1


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"normalization must be one of .* got 'batchnorm'"):
        Normalization("batchnorm")  # type: ignore[arg-type]
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"scale must be (finite and )?positive"):
            Normalization("constant", scale)
