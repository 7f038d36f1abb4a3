"""SIGKILL at random moments: within a step, a save, a validation, the end of an epoch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.invariant import Whole, assert_goes_on, assert_saved, newest, run, whole_run
from tests.faults.moments import Moment, Moments, at, draw, kill, when
from tests.faults.table import assert_as_told
from tests.helpers.configs import SYSTEMS, arguments, one_of_many

KILLS = 100
"""Kills of `make test-all`, over all configs."""
EACH = 2 * -(-KILLS // (2 * len(SYSTEMS)))
FAULTS = ("SIGKILL", "SIGKILL before anything was saved")


def kill_often(whole: Whole, folder: Path, name: str, kills: int) -> None:
    """Kill a run at drawn moments, once more as it goes on, and then let it end."""
    end = whole.record.steps[-1]["step"]
    path, number, done = folder / "killed", 0, 0
    for turn, drawn in enumerate(draw(name, whole.moments, kills)):
        if turn % 2 and done < end:
            # what is left to be done has more moments than this
            number = (len(whole.moments) - number) // 2
        else:
            if turn:
                assert_goes_on(whole, path)
                shutil.rmtree(path)
            number, done = drawn, 0
        print(f"{name}: kill {turn} at moment {number} of {len(whole.moments)}")  # noqa: T201
        moments = Moments(path, at(number), kill)
        outcome = run(whole.args, path, moments, ckpt_path=path if done else None)
        assert_as_told(FAULTS[0], outcome)
        done = assert_saved(whole, path)
    assert_goes_on(whole, path)


@pytest.mark.parametrize(
    "system", [one_of_many(system, quick=False, system=system) for system in SYSTEMS]
)
def test_every_config(system: str, tmp_path: Path, data_folder: Path) -> None:
    workers = 2 * (SYSTEMS.index(system) % 2)
    args = [*arguments(system, data=data_folder), f"--data.num_workers={workers}"]
    whole = whole_run(args, tmp_path / "whole")
    kill_often(whole, tmp_path, f"{system} with {workers} workers", EACH)


def test_sharded_memory(whole: Whole, tmp_path: Path) -> None:
    kill_often(whole, tmp_path, "classifier with/saf", 2)


MOMENTS: dict[str, Callable[[], Callable[[int, Moment], bool]]] = {
    "between the write and the rename": lambda: when("os.rename", ".last.ckpt", 2),
    "within the write of the best": lambda: when("write", ".best.ckpt", 5),
    "before the old side files are removed": lambda: when("os.rmdir", "last.ckpt", 1),
    "within a validation": lambda: when("hook", "on_validation_batch_end", 4),
    "at the end of an epoch": lambda: when("hook", "on_train_epoch_end", 2),
}


@pytest.mark.parametrize("moment", [one_of_many(m, quick="rename" in m) for m in MOMENTS])
def test_a_moment(moment: str, whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    assert_as_told(FAULTS[0], run(whole.args, path, Moments(path, MOMENTS[moment](), kill)))
    assert_goes_on(whole, path)


def test_before_anything_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    first = Moments(path, when("write", ".best.ckpt"), kill)
    assert_as_told(FAULTS[1], run([*arguments("classifier")], path, first))
    assert newest(path) is None
