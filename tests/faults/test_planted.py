"""The suite catches what it is there for: each of these faults must turn it red."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import framework.runs.checkpoint_io
import framework.runs.run_checkpoint
import framework.training.module
from framework.utilities.files import _RecordingFile
from tests.faults import test_nonfinite
from tests.faults.invariant import KILLED, Whole, assert_goes_on, run
from tests.faults.moments import Moments, kill, when

FAULTS = ()


def write_in_place(path: Path, write: Callable[[Any], None]) -> None:
    with io.BufferedRandom(_RecordingFile(path, "w+")) as file:
        write(file)


def test_a_file_that_is_written_in_place(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework.runs.checkpoint_io, "write_atomically", write_in_place)
    folder = tmp_path / "run"
    outcome = run(whole.args, folder, Moments(folder, when("write", "last.ckpt", 12), kill))
    assert outcome.code == KILLED
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        assert_goes_on(whole, folder)


@pytest.mark.combination
def test_an_epoch_that_is_logged_after_it_was_saved(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework.runs.run_checkpoint, "log_closed_epoch", lambda trainer: None)
    folder = tmp_path / "run"
    outcome = run(whole.args, folder, Moments(folder, when("os.rename", ".last.ckpt", 2), kill))
    assert outcome.code == KILLED
    with pytest.raises(AssertionError):
        assert_goes_on(whole, folder)


@pytest.mark.combination
def test_weights_that_are_saved_unseen(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework.training.module, "check_parameters", lambda *_: None)
    spoil = test_nonfinite.spoil_gradient
    with pytest.raises(AssertionError):
        test_nonfinite.test_nothing_spoilt_is_saved(
            test_nonfinite.FAULTS[1], spoil, 5, whole, tmp_path
        )
