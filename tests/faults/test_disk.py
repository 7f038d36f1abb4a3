"""A disk that is full, or not to be written, while a run writes to it."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

import trimtab
from callbacks import FigureLogger, PredictionWriter
from framework.command import cli
from tests.faults.disks import fills, mount
from tests.faults.invariant import (
    Whole,
    assert_ended_alike,
    assert_goes_on,
    in_process,
    run,
)
from tests.faults.moments import Moments, when
from tests.faults.table import assert_as_told
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import QUIET

ON_A_FULL_DISK = {
    "Full disk: checkpoint": (".last.ckpt", 3),
    "Full disk: best checkpoint": (".best.ckpt", 1),
    "Full disk: side files": ("SAF.history", 3),
    "Full disk: `metrics.csv`": (".metrics.csv", 4),
}
FAULTS = (
    *ON_A_FULL_DISK,
    "Full disk: figure",
    "Full disk: predictions",
    "Limit of a file's size (`ulimit -f`)",
    "Read-only folder of checkpoints",
)


@pytest.mark.parametrize(
    ("fault", "free"),
    [
        ("Full disk: checkpoint", 8192),
        one_of_many("Full disk: side files", 0, quick=False),
        one_of_many("Full disk: `metrics.csv`", 0, quick=False),
        one_of_many("Full disk: checkpoint", 0, quick=False),
        one_of_many("Full disk: best checkpoint", 8192, quick=False),
    ],
)
def test_a_full_disk_ends_a_run(fault: str, free: int, disk: Path, whole: Whole) -> None:
    folder = disk / "run"
    part, count = ON_A_FULL_DISK[fault]
    moments = Moments(folder, when("open", part, count), fills(disk, free))
    assert_as_told(fault, run(whole.args, folder, moments))
    assert not list(folder.rglob("*.part"))
    (disk / "filler").unlink()
    assert_goes_on(whole, folder)


def test_a_figure_ends_no_run(disk: Path, whole: Whole) -> None:
    folder = disk / "run"
    moments = Moments(folder, when("open", "learning_curves"), fills(disk))
    outcome = run(whole.args, folder, moments, FigureLogger())
    assert_as_told("Full disk: figure", outcome)
    assert outcome.record is not None
    assert_ended_alike(whole, folder, outcome.record)
    assert not list(folder.rglob("*.part"))


def test_predictions_are_whole_or_not_there(disk: Path, whole: Whole) -> None:
    folder = disk / "run"
    best = whole.folder / "checkpoints" / "best.ckpt"
    args = [
        "predict",
        *arguments("classifier", "with/saf"),
        *QUIET,
        f"--ckpt_path={best}",
        f"--run_folder={folder}",
    ]
    moments = Moments(folder, when("open", "predictions.csv"), fills(disk))
    trimtab.import_configurable_classes()
    outcome = in_process(lambda: cli.run(args, [PredictionWriter(), moments]))
    assert_as_told("Full disk: predictions", outcome)
    assert not list(folder.rglob("*predictions*"))


@pytest.mark.combination
def test_a_limit_of_size(tmp_path: Path, whole: Whole) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

    folder = tmp_path / "run"
    outcome = run(whole.args, folder, Moments(folder, when("open", ".last.ckpt", 3), limit))
    assert_as_told("Limit of a file's size (`ulimit -f`)", outcome)
    assert not list(folder.rglob("*.part"))
    assert_goes_on(whole, folder)


def test_a_read_only_folder(tmp_path: Path, whole: Whole) -> None:
    folder = tmp_path / "run"
    place = folder / "checkpoints"

    def forbid() -> None:
        subprocess.run(["mount", "--bind", place, place], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)

    probe = tmp_path / "probe"
    probe.mkdir()
    mount(probe, "--bind", str(probe))
    subprocess.run(["umount", probe], check=True)
    try:
        moments = Moments(folder, when("hook", "on_train_batch_end", 7), forbid)
        outcome = run(whole.args, folder, moments)
    finally:
        subprocess.run(["umount", place], check=True)
    assert_as_told("Read-only folder of checkpoints", outcome)
    assert_goes_on(whole, folder)
