"""A look at all training samples between epochs: complete, ordered, and without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import Subset

from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.training.dataset_pass import sweep
from framework.utilities.randomness import capture_rng
from tests.helpers.runs import differences
from tests.helpers.tiny import TinyModule, tiny_trainer

ROWS = [12, 3, 5, 0, 7, 9, 1]
IMAGE = torch.rand(13, 5, generator=torch.Generator().manual_seed(0))
LABEL = torch.arange(13) % 3


class Part(DataModule):
    """Seven of thirteen samples, in an order of their own."""

    train_set = Subset(ArrayDataset(image=IMAGE, label=LABEL), ROWS)

    def __init__(self) -> None:
        super().__init__(batch_size=3)


class Look(Callback):
    """Sweeps at the end of every epoch and remembers what it saw."""

    def __init__(self, rows: list[int] | None = None, fails: bool = False) -> None:
        self.rows = rows
        self.fails = fails
        self.found: dict[str, Tensor] = {}
        self.seen: list[dict[str, Any]] = []
        self.modes: list[dict[str, bool]] = []
        self.generators: list[Any] = []

    def compute(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(
            {
                "rows": len(batch["index"]),
                "training": any(part.training for part in self.module.modules()),
                "grad": torch.is_grad_enabled(),
                "default dtype": torch.get_default_dtype(),
            }
        )
        if self.fails:
            raise RuntimeError("stop")
        image = batch["image"]
        first = image[:, 0] > 0.5
        return {"twice": 2 * image, "first": first, "logits": self.module(image)}

    def on_train_epoch_end(self, trainer: Any, pl_module: TinyModule) -> None:
        self.module = pl_module
        for _ in range(2):
            self.modes.append({n: part.training for n, part in pl_module.named_modules()})
            self.generators.append(capture_rng())
            if not self.found:
                self.look()

    def look(self) -> None:
        try:
            self.found = sweep(self.module, self.compute, self.rows)
        except RuntimeError as error:
            assert self.fails
            self.found = {"error": torch.tensor(str(error) == "stop")}


class WithRest(TinyModule):
    """Has a part that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.resting = nn.Dropout(0.5)
        self.optimizer = lambda groups: SGD(groups, lr=0.1)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.resting.eval()


def fit(folder: Path, *callbacks: Callback, **settings: Any) -> TinyModule:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = WithRest()
    settings = {"max_epochs": 1, "limit_val_batches": 0, **settings}
    tiny_trainer(folder, list(callbacks), False, **settings).fit(module, Part())
    return module


def test_every_sample_once_in_the_order_of_its_index(tmp_path: Path) -> None:
    look = Look()
    module = fit(tmp_path, look)
    index = torch.tensor(sorted(ROWS))
    assert torch.equal(look.found["index"], index)
    assert torch.equal(look.found["twice"], 2 * IMAGE[index])
    assert torch.equal(look.found["first"], IMAGE[index, 0] > 0.5)
    torch.testing.assert_close(look.found["logits"], module(IMAGE[index]).detach())
    # batches as in evaluation
    assert [seen["rows"] for seen in look.seen] == [3, 3, 1]


def test_some_rows_are_positions_in_the_training_set(tmp_path: Path) -> None:
    look = Look(rows=[6, 0, 2, 3])
    fit(tmp_path, look)
    assert look.found["index"].tolist() == [0, 1, 5, 12]
    assert torch.equal(look.found["twice"], 2 * IMAGE[[0, 1, 5, 12]])


@pytest.mark.parametrize("fails", [False, True])
def test_it_evaluates_without_gradient_and_leaves_every_mode_as_it_was(
    tmp_path: Path, fails: bool
) -> None:
    look = Look(fails=fails)
    module = fit(tmp_path, look)
    assert ("error" in look.found) == fails
    assert {(seen["training"], seen["grad"]) for seen in look.seen} == {(False, False)}
    before, after = look.modes
    assert before == after
    assert before[""]
    assert before["network"]
    assert not before["resting"]
    assert torch.is_grad_enabled()
    assert all(not value.requires_grad for value in look.found.values())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_training_and_the_generators_do_not_notice(tmp_path: Path) -> None:
    look = Look()
    watched = fit(tmp_path, look, max_epochs=3)
    before, after = look.generators[:2]
    assert differences(before, after) == []
    assert differences(watched.state_dict(), fit(tmp_path, max_epochs=3).state_dict()) == []


def found_on_this_rank(folder: Path, rows: list[int] | None, **settings: Any) -> dict[str, Tensor]:
    look = Look(rows)
    fit(folder, look, **settings)
    return look.found | {"rows": torch.tensor([seen["rows"] for seen in look.seen])}


@pytest.mark.parametrize(
    ("rows", "parts"), [(None, [[2, 2, 1], [1, 1, 0]]), ([4], [[1], [0]]), ([6, 1], [[1], [1]])]
)
def test_two_ranks_find_what_one_process_finds(
    two_ranks, tmp_path: Path, rows: list[int] | None, parts: list[list[int]]
) -> None:
    here = found_on_this_rank(tmp_path, rows)
    ranks = two_ranks(found_on_this_rank, tmp_path, rows, devices=2, strategy="ddp")
    for there, part in zip(ranks, parts, strict=True):
        assert there.pop("rows").tolist() == part
        for name in ("index", "twice", "first"):
            assert torch.equal(there[name], here[name])
        torch.testing.assert_close(there["logits"], here["logits"])


def test_it_runs_in_the_precision_of_the_run(tmp_path: Path) -> None:
    look = Look()
    fit(tmp_path, look, precision="64-true")
    assert {seen["default dtype"] for seen in look.seen} == {torch.float64}
    assert look.found["twice"].dtype == look.found["logits"].dtype == torch.float64
    look = Look()
    fit(tmp_path, look, precision="bf16-mixed")
    assert look.found["twice"].dtype == torch.float32
    assert look.found["logits"].dtype == torch.bfloat16


class Noting(ArrayDataset):
    """Notes the default dtypes under which it is read."""

    seen: ClassVar[set[torch.dtype]] = set()

    def batch(self, rows: Any) -> Batch:
        self.seen.add(torch.get_default_dtype())
        return super().batch(rows)


def test_data_is_read_outside_the_precision_of_the_run(tmp_path: Path, monkeypatch) -> None:
    data = Noting(image=IMAGE, label=LABEL)
    monkeypatch.setattr(Part, "train_set", data)
    fit(tmp_path, look := Look(), precision="64-true")
    assert look.found["twice"].dtype == torch.float64
    assert data.seen == {torch.float32}


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sweep: there are no rows to look at"):
        fit(tmp_path, Look(rows=[]))
    with pytest.raises(ValueError, match="Row 7 lies outside the training set of 7 samples"):
        fit(tmp_path, Look(rows=[7]))
