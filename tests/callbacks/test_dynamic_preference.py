"""The callback that holds data out and steers by it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import DynamicPreference
from framework.gradients import Combination, GradientCombiner, GradientFacts, HeldOutGuidedLP
from framework.objectives.errors import IncompatibleError
from framework.runs.run_checkpoint import RunCheckpoint
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Watched(GradientCombiner):
    """Remembers what it was told."""

    guided = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.facts: list[GradientFacts] = []

    def combination(self, facts: GradientFacts) -> Combination:
        self.facts.append(facts)
        size = len(facts.names)
        return Combination(torch.full((size,), 1 / size, dtype=torch.float64), size)


class Seen(TinyModule):
    """Remembers the rows of the guide and of training, and the mode of the guide."""

    def __init__(self) -> None:
        super().__init__()
        self.guided: list[list[int]] = []
        self.trained: list[list[int]] = []

    def objectives(self, batch):
        (self.trained if self.training else self.guided).append(batch["index"].tolist())
        return super().objectives(batch)


def fit(
    folder: Path,
    combiner: GradientCombiner,
    *callbacks: Callback,
    module: LightningModule | None = None,
    held_out: float = 0.25,
    batch_size: int | None = None,
    data: Any = None,
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> Any:
    torch.manual_seed(0)
    module = Seen() if module is None else module
    preference = DynamicPreference(combiner, held_out, batch_size)
    trainer = tiny_trainer(folder, [preference, *callbacks], False, **kwargs)
    trainer.fit(module, datamodule=TinyData() if data is None else data, ckpt_path=ckpt_path)
    return module


def test_the_guide_sees_only_what_is_not_trained(tmp_path):
    data = TinyData()
    whole = data.train_set
    module = fit(tmp_path, combiner := Watched(), data=data, limit_val_batches=0)
    guided, trained = [
        sorted({i for b in rows for i in b}) for rows in (module.guided, module.trained)
    ]
    assert len(guided) == 6
    assert sorted([*guided, *trained]) == list(range(24))
    # 18 rows in batches of 4, twice
    assert len(combiner.facts) == len(module.trained) == len(module.guided) == 10
    # 6 rows in batches of 4: a pass is two batches
    assert [len(rows) for rows in module.guided[:4]] == [4, 2, 4, 2]
    assert sorted(i for rows in module.guided[:2] for i in rows) == guided
    # what was held out is given back
    assert data.train_set is whole
    assert data.guide_set is None
    assert module.guide_batch is None


def test_the_guides_value_is_the_plain_sum_on_its_batch(tmp_path):
    module = Seen()
    first = {n: p.detach().clone() for n, p in module.named_parameters()}
    torch.manual_seed(0)
    fit(tmp_path, combiner := Watched(), module=module, max_steps=1)
    fresh = Seen()
    fresh.load_state_dict(first)
    rows = torch.tensor(module.guided[0])
    fields = TinyData().train_set.fields
    batch = {name: value[rows] for name, value in fields.items()} | {"index": rows}
    terms = fresh.objectives(batch).per_sample
    expected = (terms["classification"] + 0.5 * terms["size"]).mean()
    assert combiner.facts[0].guide_loss == pytest.approx(float(expected.detach()), rel=1e-6)


def test_every_n_steps_draws_every_n_steps(tmp_path):
    module = fit(tmp_path, combiner := Watched(every_n_steps=3), limit_val_batches=0)
    assert [facts.step for facts in combiner.facts] == [0, 3, 6, 9]
    assert len(module.guided) == 4


def saver(folder: Path) -> RunCheckpoint:
    return RunCheckpoint(dirpath=folder, filename="last", monitor=None, every_n_train_steps=1)


@pytest.mark.parametrize("kill_at", [3, 5, 7])
def test_a_resumed_run_goes_on_with_the_guides_stream(kill_at, tmp_path):
    whole = fit(tmp_path / "whole", HeldOutGuidedLP(), limit_val_batches=0)
    first = fit(
        tmp_path, HeldOutGuidedLP(), saver(tmp_path), max_steps=kill_at, limit_val_batches=0
    )
    last = tmp_path / "last.ckpt"
    module = fit(tmp_path, HeldOutGuidedLP(), saver(tmp_path), ckpt_path=last, limit_val_batches=0)
    assert [*first.guided, *module.guided] == whole.guided
    assert [*first.trained, *module.trained] == whole.trained
    for name, value in whole.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


class Moved(TinyData):
    """Data that are read in ``setup``, from a place and in an order of the classes."""

    def __init__(self, origin: str, class_names: tuple[str, ...] = TinyData.class_names) -> None:
        super().__init__()
        self.origin, self.class_names = origin, class_names
        self.whole, self.train_set = self.train_set, None

    def setup(self, stage: str | None = None) -> None:
        self.train_set = self.whole


@pytest.mark.parametrize("class_names", [TinyData.class_names, ("square", "circle", "triangle")])
def test_what_is_held_out_stays_so_where_the_data_moved(class_names, tmp_path):
    options: dict[str, Any] = {"limit_val_batches": 0}
    held = fit(
        tmp_path, HeldOutGuidedLP(), saver(tmp_path), data=Moved("here"), max_steps=5, **options
    )
    data, last = Moved("there", class_names), tmp_path / "last.ckpt"
    module = fit(tmp_path, HeldOutGuidedLP(), saver(tmp_path), data=data, ckpt_path=last, **options)
    trained, guided = (
        {i for rows in (*one, *other) for i in rows}
        for one, other in ((held.trained, module.trained), (held.guided, module.guided))
    )
    assert (len(trained), len(guided)) == (18, 6)
    assert trained.isdisjoint(guided)
    assert data.train_set is data.whole


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match=r"held_out must lie in \(0, 1\), got 1"):
        DynamicPreference(held_out=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        DynamicPreference(batch_size=0)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(
        IncompatibleError,
        match="which BoringModel is not: return what",
    ):
        fit(tmp_path, Watched(), module=BoringModel())
    module = Seen()
    module.gradient_combiner = Watched()
    with pytest.raises(IncompatibleError, match="Watched already combines the gradients of Seen"):
        fit(tmp_path, HeldOutGuidedLP(), module=module)
    module = Seen()
    module.gradient_combiner = HeldOutGuidedLP()
    trainer = tiny_trainer(tmp_path, [], False)
    with pytest.raises(IncompatibleError, match="the callback DynamicPreference"):
        trainer.fit(module, datamodule=TinyData())


def test_a_second_fit_begins_anew(tmp_path):
    module, data = Seen(), TinyData()
    fit(tmp_path, Watched(), module=module, data=data, limit_val_batches=0)
    assert module.gradient_combiner is None
    first = module.guided
    module.guided, module.trained = [], []
    fit(tmp_path, Watched(), module=module, data=data, limit_val_batches=0)
    assert module.guided == first
    module.trained = []
    torch.manual_seed(0)
    tiny_trainer(tmp_path, [], False, limit_val_batches=0).fit(module, datamodule=data)
    assert sorted({i for rows in module.trained for i in rows}) == list(range(24))


class Failing(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise RuntimeError("broken off")


def test_what_was_held_out_is_given_back_after_an_error(tmp_path):
    module, data = Seen(), TinyData()
    whole = data.train_set
    with pytest.raises(RuntimeError, match="broken off"):
        fit(tmp_path, Watched(), Failing(), module=module, data=data)
    assert data.train_set is whole
    assert data.guide_set is None
    assert module.gradient_combiner is None


def test_copies_of_a_module_share_the_guide(tmp_path):
    class Copy(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args: Any) -> None:
            assert deepcopy(pl_module).guide_batch is pl_module.guide_batch

    fit(tmp_path, Watched(), Copy(), max_steps=1)


def guided_rows(folder: Path) -> list[list[int]]:
    module = fit(folder, Watched(), limit_val_batches=0, devices=2, strategy="ddp", max_steps=2)
    return module.guided


def test_ranks_share_the_batches_of_the_guide(tmp_path, two_ranks):
    alone = fit(tmp_path, Watched(), limit_val_batches=0, max_steps=2).guided
    first, second = two_ranks(guided_rows, tmp_path)
    assert [a + b for a, b in zip(first, second, strict=True)] == alone


def test_a_learning_rate_may_be_scaled_by_group(tmp_path):
    class Scaled(TinyModule):
        def parameter_groups(self):
            groups = super().parameter_groups()
            groups[0]["lr_scale"] = 0.1
            return groups

    module = Scaled()
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
    trainer = tiny_trainer(tmp_path, [], False, max_steps=1)
    trainer.fit(module, datamodule=TinyData())
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.05, 0.5]
