"""What a dashboard shows of a domain: its panels, as data that every logger can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Self

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

Direction = Literal["min", "max"]
STEP = "trainer/global_step"
EPOCH = "epoch"
EVALUATIONS = ("val", "test")


@dataclass(frozen=True)
class Panel:
    """One chart of a dashboard.

    Args:
        title: Title of the chart.
        metrics: Patterns of the names in it, such as ``train/*_epoch``; ``accuracy`` stands for
            ``val/accuracy`` and ``test/accuracy``.
        unit: Unit of the values, for the axis.
        best: Direction in which the values are better; None where neither is.
        axis: Metric that they are drawn against.

    Example:
        >>> panel = Panel("Accuracy", ("accuracy*",), "share of the samples", best="max")
        >>> panel.shows("val/accuracy_top5"), panel.shows("train/accuracy")
        (True, False)
    """

    title: str
    metrics: tuple[str, ...]
    unit: str = ""
    best: Direction | None = None
    axis: str = EPOCH

    def shows(self, name: str) -> bool:
        """Return whether a metric is in this chart."""
        stage, _, rest = name.partition("/")
        names = (name, rest) if stage in EVALUATIONS else (name,)
        return any(fnmatchcase(one, pattern) for pattern in self.metrics for one in names)


STANDARD = (
    Panel("Loss of a step", ("train/loss",), axis=STEP),
    Panel("Loss of an epoch", ("train/loss_epoch", "loss"), best="min"),
    Panel("Terms of the loss, by epoch", ("train/*_epoch",)),
    Panel("Learning rate", ("lr-*",), axis=STEP),
    Panel("Weights of the terms", ("train/preference/weight/*",), "weight", axis=STEP),
    Panel("Cosines between terms", ("train/preference/cosine/*",), "cosine", axis=STEP),
    Panel("Gradients of the terms", ("train/preference/*",), axis=STEP),
    Panel("Training, by step", ("train/*",), axis=STEP),
    Panel("Evaluation", ("val/*", "test/*")),
    Panel("Further values", ("*",), axis=STEP),
)
"""Panels of every domain, after its own."""


@dataclass(frozen=True)
class Layout:
    """The panels of a run: which chart a metric is in, and when its value is a better one.

    Args:
        panels: Charts; a metric is in the first that takes it.
        monitored: Directions of the metrics that choose checkpoints.
        validates_in_epochs: Whether there are several validations in an epoch, which are then
            drawn against the step.
    """

    panels: Sequence[Panel] = STANDARD
    monitored: Mapping[str, Direction] = field(default_factory=dict)
    validates_in_epochs: bool = False

    @classmethod
    def of(cls, module: LightningModule) -> Self:
        """Return the layout of a module and the callbacks of its Trainer."""
        trainer = module.trainer
        callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
        own = [panel for part in (module, *callbacks) for panel in getattr(part, "panels", ())]
        monitored: dict[str, Direction] = {
            one.monitor: "max" if one.mode == "max" else "min"
            for one in callbacks
            if isinstance(one, ModelCheckpoint) and one.monitor is not None
        }
        # it has none where validations go by time; 1 is after every batch, 1.0 after every epoch
        interval = getattr(trainer, "val_check_interval", 0)
        inside = isinstance(interval, int) or interval != 1.0
        return cls((*own, *STANDARD), monitored, inside)

    def panel(self, name: str) -> Panel | None:
        """Return the chart that a metric is in, or None for one that is an axis."""
        if name in (EPOCH, STEP):
            return None
        return next((panel for panel in self.panels if panel.shows(name)), None)

    def axis(self, name: str) -> str:
        """Return the metric that another is drawn against."""
        panel = self.panel(name)
        measured_at_steps = self.validates_in_epochs and name.startswith("val/")
        return STEP if panel is None or measured_at_steps else panel.axis

    def direction(self, name: str) -> Direction | None:
        """Return in which direction a metric of validation is better, or None."""
        if name in self.monitored:
            return self.monitored[name]
        panel = self.panel(name)
        return panel.best if panel is not None and name.startswith("val/") else None

    def by_panel(self, names: Iterable[str]) -> dict[Panel, list[str]]:
        """Return the charts that have any of some metrics, in order, and these metrics."""
        found: dict[Panel, list[str]] = {panel: [] for panel in self.panels}
        for name in names:
            if (own := self.panel(name)) is not None:
                found[own].append(name)
        return {panel: shown for panel, shown in found.items() if shown}
