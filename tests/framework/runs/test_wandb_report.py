from types import SimpleNamespace
from typing import Any

import pytest

from framework.runs import wandb_report
from framework.runs.panels import Layout, Panel

LOGGED = {
    "val/accuracy": 0.5,
    "best/val/accuracy": 0.75,
    "train/loss": 1.0,
    "epoch": 1,
    "trainer/global_step": 7,
    "figures/val_confusion_matrix": {"_type": "images/separated"},
    "tables/val_class_scores": {"_type": "table-file"},
}
LAYOUT = Layout((Panel("Accuracy", ("accuracy",), "share", best="max"), *Layout().panels))


def test_a_report_has_a_panel_for_all_that_was_logged() -> None:
    reports = pytest.importorskip(
        "wandb_workspaces.reports.v2", reason="pip install 'trimtab[wandb-report]'"
    )
    made = wandb_report.panels(reports, LAYOUT, LOGGED)
    # the package checks a panel when it turns it into what is sent
    kinds = [(type(panel).__name__, panel._to_model().config) for panel in made]
    assert [kind for kind, _ in kinds] == [
        "LinePlot",
        "LinePlot",
        "MediaBrowser",
        "WeavePanelSummaryTable",
    ]
    accuracy, loss = (config for _, config in kinds[:2])
    assert (accuracy.chart_title, accuracy.x_axis, accuracy.metrics) == (
        "Accuracy",
        "epoch",
        ["val/accuracy"],
    )
    assert (accuracy.x_axis_title, accuracy.y_axis_title) == ("epoch", "share")
    assert (loss.x_axis, loss.metrics) == ("trainer/global_step", ["train/loss"])


@pytest.mark.parametrize("state", ["offline", "disabled", "made"])
def test_there_is_one_report_of_a_run_that_is_sent(tmp_path: Any, state: str) -> None:
    if state == "made":
        (tmp_path / "wandb_report").write_text("https://a.invalid\n")
    run = SimpleNamespace(offline=state == "offline", disabled=state == "disabled")
    before = sorted(tmp_path.iterdir())
    wandb_report.make_report(run, LAYOUT, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_report_that_cannot_be_made_is_one_warning(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    reports = pytest.importorskip("wandb_workspaces.reports.v2")

    def refuse(self: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(reports.Report, "save", refuse)
    run = SimpleNamespace(
        offline=False, disabled=False, entity="e", project="p", id="1", name="r", summary=LOGGED
    )
    wandb_report.make_report(run, LAYOUT, tmp_path)
    assert caplog.messages == ["trimtab: the report on W&B could not be made: no route to host"]
    assert not list(tmp_path.iterdir())
