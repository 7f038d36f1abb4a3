"""One of two ranks is killed: the other says so and ends, and the run goes on, on one or on two."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from tests.faults.disks import fills
from tests.faults.invariant import (
    EVERY,
    KILLED,
    Outcome,
    Whole,
    assert_ended_alike,
    assert_saved,
    in_process,
    run,
)
from tests.faults.moments import Moment, Moments, kill, when
from tests.faults.table import assert_as_told
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.ranks import environment_of
from tests.helpers.runs import Record, fit_on_two_ranks

FAULTS = ("One of two ranks is killed", "Checkpoint of another number of ranks")
PATIENCE = 60
"""Seconds until the other rank has ended."""
MOMENTS: dict[str, Callable[[], Callable[[int, Moment], bool]]] = {
    "in a step": lambda: when("hook", "on_before_optimizer_step", 7),
    "in a save": lambda: when("hook", "on_save_checkpoint", 4),
    "in a validation": lambda: when("hook", "on_validation_batch_end", 3),
}
# without float64 the order of a sum over ranks would decide the seventh digit
ARGS = [*arguments("classifier", "with/saf"), "--trainer.precision=64-true", EVERY]


def run_both(
    folder: Path,
    hurt: int | None = None,
    moment: Callable[[int, Moment], bool] | None = None,
    act: Callable[[], None] = kill,
    ckpt_path: Path | None = None,
) -> list[Outcome]:
    """Fit on two ranks, as torchrun would start them, of which one may be hurt at a moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = [*ARGS, f"--run_folder={folder}"]
    if ckpt_path is not None:
        args.append(f"--ckpt_path={ckpt_path}")

    def start(rank: int) -> Outcome:
        def work() -> Record:
            os.environ |= environment_of(rank, port)
            # Lightning was imported before it could read the rank
            rank_zero_only.rank = rank  # type: ignore[attr-defined]
            extra: list[Any] = [Moments(folder, moment, act)] if rank == hurt else []
            return fit_on_two_ranks(args, extra=extra)

        return in_process(work)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(start, range(2)))


@pytest.mark.parametrize(
    ("killed", "moment", "ranks"),
    [
        (1, "in a save", 1),
        one_of_many(0, "in a step", 2, quick=False),
        one_of_many(0, "in a save", 2, quick=False),
        one_of_many(0, "in a validation", 1, quick=False),
        one_of_many(1, "in a step", 1, quick=False),
        one_of_many(1, "in a validation", 2, quick=False),
    ],
)
def test_a_killed_rank(killed: int, moment: str, ranks: int, tmp_path: Path) -> None:
    first = run_both(tmp_path / "whole")[0] if ranks == 2 else run(ARGS, tmp_path / "whole")
    assert first.record is not None, first.said
    whole = Whole(ARGS, tmp_path / "whole", first.record, [])
    folder, start = tmp_path / "hurt", time.monotonic()
    outcomes = run_both(folder, killed, MOMENTS[moment]())
    assert outcomes[killed].code == KILLED, outcomes[killed].said
    assert_as_told(FAULTS[0], outcomes[1 - killed])
    assert time.monotonic() - start < PATIENCE
    assert_saved(whole, folder)
    if ranks == 2:
        going_on = run_both(folder, ckpt_path=folder)[0]
    else:
        going_on = run(ARGS, folder, ckpt_path=folder)
        assert_as_told(FAULTS[1], going_on)
    assert going_on.code == 0, going_on.said
    assert going_on.record is not None
    assert_ended_alike(whole, folder, going_on.record, exactly=ranks == 2)


@pytest.mark.combination
@pytest.mark.parametrize("part", ["SAF.history", ".last.ckpt"])
def test_a_full_disk_of_one_rank_ends_both(part: str, disk: Path) -> None:
    folder = disk / "run"
    first, second = run_both(folder, 0, when("open", part, 3), fills(disk))
    assert first.code == second.code == 1
    assert_as_told("Full disk: side files", first)
    # the other could not write either, or waits for the first
    if "another rank" in second.said:
        assert_as_told(FAULTS[0], second)
    else:
        assert_as_told("Full disk: side files", second)
    (disk / "filler").unlink()
    outcomes = run_both(folder, ckpt_path=folder)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].said
