"""The table of `docs/faults.md`: what the suite shows is what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from tests.faults.invariant import Outcome
from tests.helpers.runs import ROOT

PAGE = ROOT / "docs" / "faults.md"
PLACEHOLDERS = {
    "CHECKPOINT": r"\S+\.ckpt",
    "FILE": r"\S+",
    "FOLDER": r"\S+",
    "NAME": r"[\w.-]+",
    # before the one that is its beginning
    "NUMBERS": r"[\d, ]+",
    "NUMBER": r"[\d,]+",
    "REASON": r".*",
}


@dataclass
class Row:
    """A fault: the exit codes that it may end with, and the line that is said, as a pattern."""

    codes: list[int]
    said: str


@cache
def table() -> dict[str, Row]:
    """Return the rows of the page by fault."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[1][:1].isdigit():
            said = re.escape(cells[2].strip("`"))
            for name, pattern in PLACEHOLDERS.items():
                said = said.replace(name, pattern)
            rows[cells[0]] = Row([int(code) for code in re.findall(r"\d+", cells[1])], said)
    return rows


def assert_as_told(fault: str, outcome: Outcome) -> None:
    """Check that a hurt run ended with the exit code and the line of the table.

    The last line of one that failed counts; others may be said besides.
    """
    row = table()[fault]
    assert outcome.code in row.codes, outcome.said
    # a loading process that lost its run, or a signal handler of torch, may leave a shorter one
    assert "lightning/pytorch/trainer" not in outcome.said, outcome.said
    said = [line.removeprefix("trimtab: ") for line in outcome.lines]
    if row.said == "nothing":
        assert said == [], said
    elif outcome.code == 1:
        # after an error in training comes how to go on
        said = [line for line in said if not line.startswith("continue with")]
        assert re.fullmatch(row.said, said[-1]), said
    elif outcome.code or row.codes == [0]:
        assert any(re.fullmatch(row.said, line) for line in said), said
