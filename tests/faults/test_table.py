"""Every row of the table in the docs is shown by a test, and every fault of the suite has a row."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.faults.table import table


def test_the_table_is_what_the_suite_shows() -> None:
    shown: list[str] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            shown += importlib.import_module(f"tests.faults.{path.stem}").FAULTS
    assert sorted(shown) == sorted(table())
