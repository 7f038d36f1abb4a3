"""Prints what a config does on a pretended GPU, or pins it.

    python -m tests.pretended_gpu gghl with/preference [-- --trainer.precision bf16-mixed]
    python -m tests.pretended_gpu --pin [NAME ...]

Without ``--pin`` the names are those of one config and its overlays. With it each is a row of
``bounds.yaml``, such as ``"classifier with/saf"``, and none stands for all of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.conftest import write_blank, write_small_data
from tests.helpers.ranks import TwoRanks
from tests.pretended_gpu import bounds, table
from tests.pretended_gpu.configs import (
    COMMANDS,
    ON_ONE_PROCESS,
    ON_TWO_RANKS_ALONE,
    measured,
    measured_on_two_ranks,
)
from tests.pretended_gpu.measure import Lines, Measurement

# an overlay changes the training
PINNED_COMMANDS = ("fit", "test", "predict")


def main(args: Sequence[str]) -> int:
    """Measure, print and pin; return 1 after a fault or above a bound."""
    warnings.simplefilter("ignore")
    split = args.index("--") if "--" in args else len(args)
    options = _parser().parse_args(args[:split])
    names = [" ".join(options.names)]
    if options.pin:
        names = options.names or [*ON_ONE_PROCESS, *ON_TWO_RANKS_ALONE]
    with tempfile.TemporaryDirectory(prefix="pretended-gpu-") as folder:
        data = Path(folder) / "data"
        write_small_data(data)
        two_ranks = TwoRanks()
        # drawing takes longer than a fit
        with mock.patch.object(FigureCanvasAgg, "print_png", write_blank):
            good = [_measure(name, data, two_ranks, args[split + 1 :], options) for name in names]
        two_ranks.close()
    return 0 if all(good) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.pretended_gpu", description=__doc__)
    parser.add_argument("names", nargs="*", help="config and overlays, or with --pin rows")
    parser.add_argument("--pin", action="store_true", help="write the counts as bounds")
    parser.add_argument("--launches", action="store_true", help="name the line of every launch")
    parser.add_argument("--only", choices=["process", "ranks"], help="leave out the other")
    return parser


def _measure(
    name: str,
    data: Path,
    two_ranks: TwoRanks,
    extra: Sequence[str],
    options: argparse.Namespace,
) -> bool:
    """Measure one config, and return whether nothing was refused and no bound exceeded."""
    lines: Lines = "none" if options.pin else "launches" if options.launches else "waits"
    alone: dict[str, Measurement] = {}
    ranks: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="pretended-gpu-") as folder:
        if options.only != "ranks" and name not in ON_TWO_RANKS_ALONE:
            commands: Sequence[str] = COMMANDS
            if options.pin:
                commands = PINNED_COMMANDS[:1] if " with/" in name else PINNED_COMMANDS
            alone = measured(name, data, Path(folder) / "one", extra, lines, commands)
        if options.only != "process":
            ranks = measured_on_two_ranks(name, data, Path(folder) / "two", two_ranks, extra, lines)
    counts = (bounds.of_one_process(alone) if alone else {}) | (
        bounds.of_two_ranks(ranks) if ranks else {}
    )
    good = not any(m.error or m.faults for m in (*alone.values(), *ranks))
    if not options.pin or not good:
        print(table.details(alone, ranks, launches=options.launches))
    print(f"\n{table.counts_table(name, counts, bounds.pinned().get(name, {}))}", flush=True)
    if options.pin and good:
        bounds.pin(name, counts)
    return good and not bounds.exceeded(name, counts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
