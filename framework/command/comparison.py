"""Several runs in one table: how well they did, and in what their configs differ."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from framework.reports.comparison import Comparison


def comparison_table(found: Comparison) -> Table:
    """Return the runs as a table, the best first.

    The best and the last value of the metric, that of the test where there is one, and the settings
    that differ are shown.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    for name in (f"best {found.metric}", "last", *([found.test] if found.has_test else [])):
        table.add_column(name, justify="right")
    table.add_column("settings that differ", overflow="fold")
    for i in found.order:
        best = found.best[i]
        cells = [_number(None if best is None else best.value), _number(found.last[i])]
        cells += [_number(found.tests[i])] if found.has_test else []
        settings = ", ".join(f"{name}={value}" for name, value in found.differences[i].items())
        table.add_row(found.names[i], *cells, settings)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
