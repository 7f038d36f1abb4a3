"""The quantile of magnitudes is the entry that sorting finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.optim.magnitude_quantile import magnitude_quantile

entries = st.lists(
    st.one_of(st.just(0.0), st.integers(-3, 3).map(float), st.floats(width=32, allow_nan=False)),
    min_size=1,
    max_size=40,
)


@given(entries, entries, st.integers(0, 20).map(lambda k: k / 20))
def test_it_is_the_entry_that_sorting_finds(first, second, share):
    found = magnitude_quantile([torch.tensor(first), torch.tensor(second)], share)
    sizes = sorted(abs(x) for x in first + second if x != 0)
    if not sizes:
        assert found == 0
        return
    place = max(1, math.ceil(round(share * len(sizes), 9)))
    assert found == np.float32(sizes[place - 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layouts_and_dtypes(dtype):
    x = (
        torch.arange(-24, 24)
        .view(2, 3, 2, 4)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    assert magnitude_quantile([x, torch.empty(0, dtype=dtype)], 0.5) == 12.0
    assert magnitude_quantile([], 0.5) == 0.0
