"""A report on W&B with the panels of a run's domain."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framework.runs.panels import EPOCH, STEP, Layout
from framework.utilities.error_reason import reason_of
from framework.utilities.files import write_text

log = logging.getLogger(__name__)
MADE = "wandb_report"
"""File with the address of the run's report."""
NAMES = {STEP: "optimizer step", EPOCH: "epoch"}


def make_report(run: Any, layout: Layout, folder: Path) -> None:
    """Make a report for a W&B run that is sent, once; where that fails, one warning says so.

    Args:
        run: The ``wandb.Run``.
        layout: Panels of the run.
        folder: Run folder.
    """
    if run.disabled or run.offline or (folder / MADE).exists():
        return
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        return
    try:
        report = reports.Report(
            entity=run.entity,
            project=run.project,
            title=run.name,
            blocks=[
                reports.PanelGrid(
                    runsets=[_only(reports, run)], panels=panels(reports, layout, run.summary)
                )
            ],
        )
        report.save()
        write_text(folder / MADE, f"{report.url}\n")
    except Exception as error:
        log.warning("trimtab: the report on W&B could not be made: %s", reason_of(error))


def _only(reports: Any, run: Any) -> Any:
    """Return the set of runs that holds one run."""
    return reports.Runset(
        entity=run.entity, project=run.project, filters=f"Metric('ID') in ['{run.id}']"
    )


def panels(reports: Any, layout: Layout, logged: Mapping[str, Any]) -> list[Any]:
    """Return the panels of what a run has logged.

    Args:
        reports: The module ``wandb_workspaces.reports.v2``.
        layout: Panels of the run.
        logged: Latest values by name; those of pictures and tables are dicts with a ``_type``.
    """
    kinds = {name: _kind(value) for name, value in dict(logged).items()}
    charts = [
        reports.LinePlot(
            title=panel.title,
            x=(axis := layout.axis(names[0])),
            y=names,
            title_x=NAMES.get(axis, axis),
            title_y=panel.unit or None,
        )
        for panel, names in layout.by_panel(_of(kinds, "number")).items()
    ]
    media = [reports.MediaBrowser(title=n, media_keys=[n]) for n in _of(kinds, "images/separated")]
    tables = [reports.WeavePanelSummaryTable(table_name=n) for n in _of(kinds, "table-file")]
    return [*charts, *media, *tables]


def _kind(value: Any) -> str:
    return str(value.get("_type", "")) if hasattr(value, "get") else "number"


def _of(kinds: Mapping[str, str], kind: str) -> Iterable[str]:
    return [name for name, one in kinds.items() if one == kind and not name.startswith("best/")]
