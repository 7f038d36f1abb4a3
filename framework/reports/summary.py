"""The last values of a run by metric and stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.runs.csv_logger import as_number

STAGES = ("train", "val", "test")


def by_stage(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return {name: {stage: value}} of the epoch's values, the loss first.

    A term that is the whole loss is left out.
    """
    values: dict[str, dict[str, float]] = {}
    for logged, value in metrics.items():
        stage, _, name = logged.partition("/")
        if stage == "train":
            name, dot, rest = name.rpartition("_epoch")
            if not dot or rest:
                continue
        if stage in STAGES and name:
            values.setdefault(name, {})[stage] = as_number(value)
    loss = values.pop("loss", {})
    parts = {name: row for name, row in values.items() if row != loss}
    return ({"loss": loss} if loss else {}) | parts
