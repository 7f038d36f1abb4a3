"""What ranks send each other in a step beside gradients: nothing that all of them know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from framework.layers.sync_batchnorm import convert_sync_batchnorm
from framework.training.equal_buffers import has_equal_buffers
from tests.helpers.configs import arguments
from tests.helpers.runs import DDP, fit


class Looks(Callback):
    """Notes at the end of each step how many broadcasts there were, and what DDP sends."""

    def __init__(self) -> None:
        self.calls = 0
        self.steps: list[tuple[int, bool]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        model: Any = trainer.strategy.model
        self.steps.append((self.calls, model.broadcast_buffers))


def look(args: list[str], own_buffer: bool = False) -> list[tuple[int, bool]]:
    """Fit on this rank of a connected pair."""
    looks, broadcast = Looks(), dist.broadcast

    def counted(*args: Any, **options: Any) -> Any:
        looks.calls += 1
        return broadcast(*args, **options)

    class AddsBuffer(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            pl_module.register_module("foreign", Foreign())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "broadcast", counted)
        fit([*args, *DDP], [looks, *([AddsBuffer()] if own_buffer else [])])
    return looks.steps


class Foreign(nn.Module):
    """A module that may count what this rank alone saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))


ARGS = [*arguments("classifier"), "--trainer.max_steps=3", "--trainer.logger=false"]


def test_nothing_is_broadcast_in_a_step(tmp_path: Path, two_ranks: Any) -> None:
    for steps in two_ranks(look, [*ARGS, f"--run_folder={tmp_path}"]):
        assert len(steps) == 3
        assert len(set(steps)) == 1
        assert not steps[0][1]


@pytest.mark.parametrize(
    ("options", "foreign"), [(["--model.sync_batchnorm=false"], False), ([], True)]
)
def test_buffers_that_may_differ_are_sent(
    options: list[str], foreign: bool, tmp_path: Path, two_ranks: Any
) -> None:
    args = [*ARGS, *options, f"--run_folder={tmp_path}"]
    for steps in two_ranks(look, args, own_buffer=foreign):
        assert all(sends for _, sends in steps)


def test_which_buffers_are_equal_by_themselves() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert not has_equal_buffers(network)
    assert has_equal_buffers(convert_sync_batchnorm(network))
    assert not has_equal_buffers(nn.Sequential(network, Foreign()))
