"""SIGTERM and Ctrl-C at random moments, once and twice."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.invariant import Whole, assert_goes_on, run, whole_run
from tests.faults.moments import Moments, at, draw, sends
from tests.faults.table import assert_as_told
from tests.helpers.configs import SYSTEMS, arguments, one_of_many

SIGNALS = {
    "SIGTERM": (signal.SIGTERM,),
    "Ctrl-C": (signal.SIGINT,),
    "Ctrl-C twice": (signal.SIGINT, signal.SIGINT),
}
FAULTS = tuple(SIGNALS)


def as_in_a_terminal() -> None:
    """Undo what a suite in the background of a shell has inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def stop_often(whole: Whole, fault: str, folder: Path, name: str, times: int) -> None:
    """Signal a run at drawn moments, and let it go on."""
    path = folder / "stopped"
    for number in draw(f"{name}, {fault}", whole.moments, times):
        print(f"{name}: {fault} at moment {number} of {len(whole.moments)}")  # noqa: T201
        moments = Moments(path, at(number), sends(*SIGNALS[fault]))
        outcome = run(whole.args, path, moments, before=as_in_a_terminal)
        assert_as_told(fault, outcome)
        assert_goes_on(whole, path)
        shutil.rmtree(path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_moment(fault: str, whole: Whole, tmp_path: Path) -> None:
    stop_often(whole, fault, tmp_path, "classifier with/saf", 1)


@pytest.mark.parametrize(
    "system", [one_of_many(system, quick=False, system=system) for system in SYSTEMS]
)
def test_every_config(system: str, tmp_path: Path, data_folder: Path) -> None:
    whole = whole_run(arguments(system, data=data_folder), tmp_path / "whole")
    for fault in FAULTS:
        stop_often(whole, fault, tmp_path, system, 1)
