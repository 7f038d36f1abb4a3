"""Accumulated batches take the step of one batch that has all their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def fit(folder: Path, batch_size: int, accumulate: int, **settings: Any) -> Tensor:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = TinyModule()
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
    data = TinyData()
    data.batch_size = batch_size
    settings = {"accumulate_grad_batches": accumulate, "precision": "64-true", **settings}
    trainer = tiny_trainer(folder, [], False, limit_val_batches=0, **settings)
    trainer.fit(module, data)
    return module.network.weight.detach()


def fit_on_rank(folder: Path) -> Tensor:
    return fit(folder, 5, 3, devices=2, strategy="ddp")


# 24 rows: full windows, a window cut short, a last batch that is smaller, and both
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 3), (4, 4), (5, 5), (5, 3), (7, 4)])
def test_the_step_is_that_of_the_union(batch_size: int, accumulate: int, tmp_path: Path) -> None:
    accumulated = fit(tmp_path, batch_size, accumulate)
    union = fit(tmp_path, batch_size * accumulate, 1)
    assert torch.allclose(accumulated, union, rtol=0, atol=1e-14)


def test_ranks_take_the_same_step(two_ranks: Any, tmp_path: Path) -> None:
    for weight in two_ranks(fit_on_rank, tmp_path):
        assert torch.allclose(weight, fit(tmp_path, 5, 3), rtol=0, atol=1e-14)
