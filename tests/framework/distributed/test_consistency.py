"""A single bit that differs between ranks is found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.distributed.collectives import rank
from framework.distributed.consistency import check_equal_on_all_ranks, checksum


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_checksum_sees_every_bit_and_its_place(dtype: torch.dtype) -> None:
    base = torch.arange(6, dtype=dtype).reshape(2, 3)
    nudged = base.clone()
    nudged[1, 2] = torch.nextafter(nudged[1, 2], torch.tensor(9.0, dtype=dtype))
    swapped = base.flatten()[[1, 0, 2, 3, 4, 5]]
    values = {int(checksum(x)) for x in (base, nudged, swapped, -base)}
    assert len(values) == 4
    assert int(checksum(base.T.contiguous().T)) == int(checksum(base))
    assert int(checksum(base[:0])) == 0


def message(name: str | None, value: float) -> str:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    if name is not None and rank() == 1:
        module.get_parameter(name).data.view(-1)[0] = value
    try:
        check_equal_on_all_ranks(module)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "value"), [("0.bias", 3.0), ("1.weight", float("nan")), ("1.bias", -0.0)]
)
def test_a_parameter_that_differs_is_named_on_every_rank(two_ranks, name, value) -> None:
    for text in two_ranks(message, name, value):
        assert "1 parameters differ" in text
        assert repr(name) in text


def test_equal_ranks_pass(two_ranks) -> None:
    assert two_ranks(message, None, 0.0) == ["", ""]
    check_equal_on_all_ranks(nn.Linear(2, 2))  # without a process group
