"""What counts keeps its type where the rest of a network goes to half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from framework.sparse_coding.fvu import FractionVarianceUnexplained
from framework.utilities.precision import FullPrecision, FullPrecisionDict


class Counter(FullPrecision):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.full((), 4096.0))
        self.register_buffer("share", torch.full((), 1 / 3, dtype=torch.float64))
        self.gain = nn.Parameter(torch.ones(()))
        self.part = nn.Linear(1, 1)


class Named(Counter):
    full_precision = ("count",)


def types(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: value.dtype for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.bfloat16(),
        lambda module: module.half(),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to(dtype=torch.float16),
    ],
)
def test_half_precision_changes_nothing(convert) -> None:
    counter = Counter()
    before = types(counter)
    parent = nn.Sequential(counter, nn.Linear(1, 1))
    convert(parent)
    assert types(counter) == before
    assert counter.gain is dict(counter.named_parameters())["gain"]
    assert parent[1].weight.dtype in (torch.bfloat16, torch.float16)


def test_named_buffers_alone() -> None:
    found = types(Named().bfloat16())
    assert found.pop("count") == torch.float32
    assert set(found.values()) == {torch.bfloat16}


def test_other_types_and_devices_are_taken_on() -> None:
    for counter in (Counter(), Named()):
        assert set(types(counter.double()).values()) == {torch.float64}
        counter.to("meta")
        assert {value.device.type for value in counter.state_dict().values()} == {"meta"}


def test_metrics() -> None:
    metrics = FullPrecisionDict({"mean": MeanMetric(), "fvu": FractionVarianceUnexplained(2)})
    nn.Sequential(metrics).to(torch.bfloat16)
    metrics["mean"].update(torch.full((1000,), 0.001))
    assert float(metrics["mean"].compute()) == pytest.approx(0.001)
    assert metrics["fvu"].error.dtype == torch.float64
