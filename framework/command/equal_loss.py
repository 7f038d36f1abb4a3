"""The table of runs at equal training loss."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from framework.reports.charts import title
from framework.reports.equal_loss import EqualLoss


def equal_loss_table(found: EqualLoss) -> Table:
    """Return mean ± standard error of each metric, with a column for each group of runs."""
    table = Table(box=SIMPLE_HEAD, title=f"at {title(found.metric)} of at most {found.level:.4g}")
    table.add_column("mean ± standard error over runs")
    for group in found.groups:
        table.add_column(group.name, justify="right", overflow="fold")
    table.add_row("runs", *(str(len(group.runs)) for group in found.groups))
    table.add_row("optimizer steps", *(str(group.steps) for group in found.groups))
    for metric in found.metrics:
        table.add_row(title(metric), *(str(group.values.get(metric, "")) for group in found.groups))
    return table
