"""Upper bounds of what configs do on the GPU, pinned in ``bounds.yaml``.

Example:
    python -m tests.pretended_gpu --pin classifier
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.pretended_gpu.measure import Measurement
from tests.pretended_gpu.phases import PREDICTION, TEST

FILE = Path(__file__).with_name("bounds.yaml")
HEADER = """\
# What a step of a shrunk config does on the pretended GPU at most: host waits, launches,
# operations on float64 and sums in no fixed order of a training step, host waits of a test batch
# and of a batch that is predicted; on two ranks host waits of a training step, collectives and
# their bytes beside DDP's gradients. What a single step of a run does, as one that sets up or logs,
# does not count. `python -m tests.pretended_gpu --pin NAME` measures a row anew.
"""
TITLES = {
    "waits": "host waits of a training step",
    "launches": "launches",
    "float64": "operations on float64",
    "unordered": "sums in no fixed order",
    "test_waits": "host waits of a test batch",
    "predict_waits": "host waits of a predicted batch",
    "rank_waits": "host waits of a training step on two ranks",
    "collectives": "collectives",
    "collective_bytes": "bytes of them beside DDP's gradients",
}
Counts = Mapping[str, int]
LAUNCHES_MORE = 0.03  # versions of torch differ in how they take an operation apart


def of_one_process(commands: Mapping[str, Measurement]) -> dict[str, int]:
    """Return the counts of a config's commands on one process, by command."""
    fit = commands["fit"]
    counts = {name: fit.most(name) for name in ("waits", "launches", "float64", "unordered")}
    if "test" in commands:
        counts["test_waits"] = commands["test"].most("waits", TEST)
    if "predict" in commands:
        counts["predict_waits"] = commands["predict"].most("waits", PREDICTION)
    return counts


def of_two_ranks(ranks: list[Measurement]) -> dict[str, int]:
    """Return the counts of a fit on two ranks: the larger of both."""
    return {
        "rank_waits": max(rank.most("waits") for rank in ranks),
        "collectives": max(rank.most("collectives") for rank in ranks),
        "collective_bytes": max(rank.most("collective_bytes") for rank in ranks),
    }


def pinned() -> dict[str, dict[str, int]]:
    """Return the bounds by name, such as ``classifier with/saf``."""
    found: dict[str, dict[str, int]] = yaml.safe_load(FILE.read_text())
    return found


def exceeded(name: str, counts: Counts, bounds: Mapping[str, Counts] | None = None) -> list[str]:
    """Return a line for every count that is above its bound."""
    own = (pinned() if bounds is None else bounds).get(name, {})
    return [
        f"{name}: {TITLES[key]}: {count}, pinned {own[key]}"
        for key, count in counts.items()
        if count > own.get(key, count)
    ]


def pin(name: str, counts: Counts) -> None:
    """Write bounds of a config into the table, over what it has."""
    table = pinned()
    row = table.setdefault(name, {})
    for key, count in counts.items():
        row[key] = round(count * (1 + LAUNCHES_MORE)) if key == "launches" else count
    FILE.write_text(HEADER + "".join(_line(one, table[one]) for one in sorted(table)))


def _line(name: str, row: Counts) -> str:
    cells = (f"{key}: {row[key]:>5}" for key in TITLES if key in row)
    return f"{name + ':':<38} {{{', '.join(cells)}}}\n"
