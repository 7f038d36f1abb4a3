"""Which curves of a run share a panel, and what each is called there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

TRAIN_STEP = "train, each step"
TRAIN_EPOCH = "train, epoch mean"
ROLES = {"train": TRAIN_STEP, "val": "validation", "test": "test"}
RATE = "learning rate"


class Curve(NamedTuple):
    """Values of a metric and when they were known.

    Args:
        steps: Optimizer steps done (N,).
        values: Values (N,).
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> Curve:
        """The part of it that can be drawn."""
        kept = np.isfinite(self.values)
        return self if kept.all() else Curve(self.steps[kept], self.values[kept])

    def is_like(self, other: Curve) -> bool:
        """Return whether another one has the same points."""
        return all(map(np.array_equal, self, other))


def curves_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return the curve of every column but ``step``.

    Args:
        rows: Rows of ``metrics.csv``: ``step`` and values, as numbers or as text, by column. The
            row of step s holds what is known after s + 1 steps.
    """
    points: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, cell in row.items():
            if name != "step" and cell not in ("", None):
                steps, values = points.setdefault(name, ([], []))
                steps.append(float(row["step"]) + 1)
                values.append(float(cell))
    return {name: Curve(*map(np.array, found)) for name, found in points.items()}


def panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Return the curves by panel and label, those of the learning rate last.

    Training's steps and epoch means, validation and test share a panel where they share a name.
    What is not finite, and what is there twice, is left out.

    Args:
        curves: Curves by the name under which they were logged.

    Example:
        >>> one = Curve(np.array([1.0]), np.array([0.5]))
        >>> found = panels({"train/loss_epoch": one, "val/loss": one, "lr-SGD": one})
        >>> {name: list(labels) for name, labels in found.items()}
        {'loss': ['train, epoch mean', 'validation'], 'learning rate': ['learning rate']}
    """
    found: dict[str, dict[str, Curve]] = {}
    rates: dict[str, Curve] = {}
    for logged, raw in curves.items():
        curve = raw.finite
        if logged.startswith("lr-"):
            # groups that differ in weight decay alone have one learning rate
            if len(curve.steps) and not any(map(curve.is_like, rates.values())):
                rates[logged.removeprefix("lr-")] = curve
            continue
        stage, _, name = logged.partition("/")
        # a combiner of gradients has figures of its own
        if logged in ("epoch", "step") or name.startswith("preference/") or not len(curve.steps):
            continue
        role = ROLES.get(stage)
        if role is None:
            name = role = logged
        elif "/" in name and f"{stage}/{name.partition('/')[0]}" in curves:
            # a reference value of a metric, such as val/accuracy/baseline beside val/accuracy
            name, _, role = name.partition("/")
            role = role.replace("_", " ")
        if stage == "train" and name.endswith("_epoch"):
            name, role = name.removesuffix("_epoch"), TRAIN_EPOCH
        found.setdefault(name, {})[role] = curve
    loss = found.get("loss", {})
    for name in [name for name in found if name != "loss"]:
        # a single term is the loss
        if _are_alike(found[name], loss):
            del found[name]
    if len(rates) == 1:
        rates = {RATE: next(iter(rates.values()))}
    return {
        name: dict(sorted(labels.items(), key=lambda item: _place(item[0])))
        for name, labels in (found | ({RATE: rates} if rates else {})).items()
    }


def spans_decades(low: float, high: float) -> bool:
    """Return whether values between two are told apart on a logarithmic axis only."""
    return low > 0 and math.log10(high) - math.log10(low) > 2


def _are_alike(one: Mapping[str, Curve], other: Mapping[str, Curve]) -> bool:
    return one.keys() == other.keys() and all(one[name].is_like(other[name]) for name in one)


def _place(label: str) -> int:
    known = (TRAIN_STEP, TRAIN_EPOCH, ROLES["val"], ROLES["test"])
    return known.index(label) if label in known else len(known)
