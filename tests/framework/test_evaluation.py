"""An evaluation whose metrics mean nothing yet."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.tiny import TinyData, TinyModule, tiny_trainer


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
