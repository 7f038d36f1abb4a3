"""Accumulated batches take the step of one batch that has all their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.data.datasets import ArrayDataset, Batch
from framework.losses import CompSumLoss
from framework.objectives.objectives import Objectives
from framework.training.accumulation import AccumulationWindow
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class OneTerm(TinyModule):
    """A single term whose mean is not over rows."""

    def __init__(self, loss: nn.modules.loss._Loss) -> None:
        super().__init__()
        self.loss = loss

    def objectives(self, batch: Batch) -> Objectives:
        objectives = Objectives(
            predictions=self(batch["image"]), targets=batch["label"], index=batch["index"]
        )
        self.add_term(objectives, "classification", self.loss)
        return objectives


class IgnoredRows(TinyData):
    """Ten of 24 rows do not count, among them the first six."""

    def __init__(self) -> None:
        super().__init__()
        fields = self.train_set.fields
        ignored = torch.arange(24) < 6
        ignored |= torch.arange(24) % 5 == 4
        label = fields["label"].masked_fill(ignored, -100)
        self.train_set = ArrayDataset(image=fields["image"], label=label)


def fit(
    folder: Path,
    batch_size: int,
    accumulate: int,
    loss: nn.modules.loss._Loss | None = None,
    **settings: Any,
) -> Tensor:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = TinyModule() if loss is None else OneTerm(loss)
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
    data = TinyData() if loss is None else IgnoredRows()
    data.batch_size = batch_size
    settings = {"accumulate_grad_batches": accumulate, "precision": "64-true", **settings}
    trainer = tiny_trainer(folder, [], False, limit_val_batches=0, **settings)
    trainer.fit(module, data)
    return module.network.weight.detach()


def fit_on_rank(folder: Path, loss: nn.modules.loss._Loss | None = None) -> Tensor:
    return fit(folder, 5, 3, loss, devices=2, strategy="ddp")


# 24 rows: full windows, a window cut short, a last batch that is smaller, and both
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 3), (4, 4), (5, 5), (5, 3), (7, 4)])
def test_the_step_is_that_of_the_union(batch_size: int, accumulate: int, tmp_path: Path) -> None:
    accumulated = fit(tmp_path, batch_size, accumulate)
    union = fit(tmp_path, batch_size * accumulate, 1)
    assert torch.allclose(accumulated, union, rtol=0, atol=1e-14)


def test_ranks_take_the_same_step(two_ranks: Any, tmp_path: Path) -> None:
    for weight in two_ranks(fit_on_rank, tmp_path):
        assert torch.allclose(weight, fit(tmp_path, 5, 3), rtol=0, atol=1e-14)


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 300.0, 7.0], dtype=torch.float64))


@pytest.mark.parametrize("loss", [WEIGHTED, nn.CrossEntropyLoss(), CompSumLoss(1.7)])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(3, 4), (5, 3), (3, 3)])
def test_the_union_counts_as_the_loss_counts(
    loss: nn.modules.loss._Loss, batch_size: int, accumulate: int, tmp_path: Path
) -> None:
    accumulated = fit(tmp_path, batch_size, accumulate, loss)
    union = fit(tmp_path, batch_size * accumulate, 1, loss)
    assert torch.allclose(accumulated, union, rtol=0, atol=1e-13)


def test_ranks_count_the_same_union(two_ranks: Any, tmp_path: Path) -> None:
    for weight in two_ranks(fit_on_rank, tmp_path, WEIGHTED):
        assert torch.allclose(weight, fit(tmp_path, 5, 3, WEIGHTED), rtol=0, atol=1e-13)


def test_batches_of_which_nothing_counts_change_nothing() -> None:
    window, weight = AccumulationWindow(), nn.Parameter(torch.zeros(1))
    for normalizers in ([0.0, 2.0], [torch.tensor(0.0), torch.tensor(2.0)]):
        factors = [float(window.add(value, batch)) for batch, value in enumerate(normalizers)]
        assert factors == [0, 2]
        weight.grad = torch.tensor([2 * 3.0]) / 2
        window.close([weight], batches=2)
        assert weight.grad == 3
    window.add(torch.tensor(0.0), 0)
    weight.grad = torch.zeros(1)
    window.close([weight], batches=2)
    assert weight.grad == 0


class Told(nn.CrossEntropyLoss):
    """Notes when it is called."""

    needs = ("step", "micro_batch")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def forward(self, predictions: Tensor, targets: Tensor, **when: int) -> Tensor:
        if torch.is_grad_enabled():
            self.calls.append((when["step"], when["micro_batch"]))
        return super().forward(predictions, targets)


def test_a_loss_is_told_which_batch_of_a_step_it_sees(tmp_path: Path) -> None:
    loss = Told()
    fit(tmp_path, 5, 3, loss, max_epochs=2)
    # five batches an epoch: a full window, and one that the epoch's end cuts short
    of_an_epoch = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert loss.calls == [(step + 2 * epoch, k) for epoch in (0, 1) for step, k in of_an_epoch]
    alone = Told()
    fit(tmp_path, 12, 1, alone, max_epochs=2)
    assert alone.calls == [(step, 0) for step in range(4)]
