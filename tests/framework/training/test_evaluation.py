"""Evaluations that say nothing yet: metrics without meaning, and the check before training."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback

from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class LateMetrics(TinyModule):
    """Its metrics mean something from the second epoch on."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1)
        self.logged: list[set[str]] = []

    @property
    def has_metrics(self) -> bool:
        return self.current_epoch > 0

    def evaluate(self, batch):
        objectives = self.objectives(batch)
        if self.has_metrics:
            self.metrics.update(objectives.predictions.softmax(-1), batch["label"])
        return objectives

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.logged.append(set(self.metric_values))


def test_metrics_without_meaning_are_neither_computed_nor_logged(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    module = LateMetrics()
    # a metric that is computed before its first update would warn
    tiny_trainer(tmp_path, [], False).fit(module, TinyData())
    losses = {"loss", "classification", "size"}
    assert module.logged == [losses, losses | {"accuracy", "confusion"}]
    assert module.metric_values["confusion"].sum() == 9


class AfterTheCheck(Callback):
    def on_sanity_check_end(self, trainer, pl_module):
        self.logged = dict(trainer.callback_metrics)
        self.known = set(pl_module.metric_values)


def test_the_check_before_training_is_not_logged(tmp_path: Path) -> None:
    module, seen = TinyModule(), AfterTheCheck()
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1)
    trainer = tiny_trainer(tmp_path, [seen], False, num_sanity_val_steps=1, max_epochs=1)
    trainer.fit(module, TinyData())
    assert seen.logged == {}
    assert {"loss", "accuracy"} <= seen.known
    assert "val/accuracy" in trainer.callback_metrics
    # of all nine rows, not of those of the check too
    assert module.metric_values["confusion"].sum() == 9


def test_a_fit_follows_an_evaluation_in_one_process(tmp_path: Path) -> None:
    module = TinyModule()
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1)
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=1)
    for step in ("validate", "test", "fit", "validate"):
        getattr(trainer, step)(module, TinyData(), **({} if step == "fit" else {"verbose": False}))
        assert module.metric_values["confusion"].sum() == (15 if step == "test" else 9)
