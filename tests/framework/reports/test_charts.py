from __future__ import annotations

from pathlib import Path

import numpy as np

from framework.figures.panels import Curve, curves_of
from framework.reports.charts import (
    LEAST_POINTS,
    MOST_POINTS,
    comparison_charts,
    epochs,
    run_charts,
    thin,
)
from framework.reports.run_result import RunResult


def run_of(rows: list[dict], **more: list[dict]) -> RunResult:
    tables = {"fit": rows, **more}
    return RunResult(Path(), curves={name: curves_of(table) for name, table in tables.items()})


def test_a_thin_curve_keeps_its_ends_and_extremes() -> None:
    values = np.random.default_rng(0).normal(size=1_000_000)
    values[123_456], values[654_321] = 50.0, -50.0
    found = thin(Curve(np.arange(1_000_000), values), 1000)
    assert len(found.steps) <= 1000
    assert {123_456, 654_321, 0, 999_999} <= set(found.steps.tolist())
    assert (np.diff(found.steps) > 0).all()
    assert (values[found.steps] == found.values).all()


def test_a_short_curve_stays_as_it_is() -> None:
    curve = Curve(np.arange(1000), np.zeros(1000))
    assert thin(curve, MOST_POINTS) is curve


def test_the_stages_of_a_metric_share_a_chart() -> None:
    rows = [
        {"epoch": 0, "step": 0, "train/loss": 4.0},
        {"epoch": 0, "step": 1, "train/loss": 2.0, "train/loss_epoch": 3.0, "val/loss": 5.0},
        {"epoch": 0, "step": 1, "val/accuracy_top5": float("nan")},
    ]
    (chart,) = run_charts(run_of(rows, test=[{"step": 0, "test/loss": 6.0}]))
    assert chart["title"] == "loss"
    found = {one["label"]: (one["steps"], one["values"]) for one in chart["series"]}
    assert found == {
        "train, each step": ([1, 2], [4.0, 2.0]),
        "train, epoch mean": ([2], [3.0]),
        "validation": ([2], [5.0]),
        "test": ([2], [6.0]),
    }


def test_steps_become_epochs() -> None:
    rows = [{"epoch": s // 10, "step": s, "train/loss": 1.0} for s in range(25)]
    assert epochs(run_of(rows)) == {"steps": [0, 10, 20, 30], "epochs": [0, 1, 2, 3]}
    assert epochs(run_of([{"step": 0, "train/loss": 1.0}])) == {"steps": [0], "epochs": [0]}


def test_runs_are_compared_metric_by_metric_the_chosen_first() -> None:
    rows = [{"step": 0, "train/loss": 1.0, "train/only": 1.0, "lr-A/pg1": 0.1, "lr-A/pg2": 0.1}]
    runs = [run_of([{**rows[0], "val/loss": 2.0, "val/accuracy": 0.5}]), run_of(rows)]
    charts = comparison_charts(runs, "val/accuracy")
    assert [(chart["title"], len(chart["series"])) for chart in charts] == [
        ("validation: accuracy", 1),
        ("validation: loss", 1),
        ("train: loss", 2),
        ("learning rate A", 2),
    ]


def test_many_runs_have_few_points_each() -> None:
    curves = {f"val/{k}": Curve(np.arange(10_000), np.arange(10_000.0)) for k in range(3)}
    runs = [RunResult(Path(), curves={"fit": {"val/a": curves["val/0"]}}) for _ in range(1000)]
    (chart,) = comparison_charts(runs, "val/a")
    sizes = {len(one["steps"]) for one in chart["series"]}
    assert LEAST_POINTS <= max(sizes) <= 200
