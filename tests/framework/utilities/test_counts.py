"""Counts without a look at the numbers."""

import torch

from framework.utilities.counts import count_values


def test_counts_are_those_of_bincount() -> None:
    values = torch.randint(7, (100,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(count_values(values, 9), values.bincount(minlength=9))
    among = values % 2 == 0
    assert torch.equal(count_values(values, 9, among), values[among].bincount(minlength=9))
    assert count_values(values[:0], 2).tolist() == [0, 0]
