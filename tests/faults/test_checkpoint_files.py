"""Checkpoints that are damaged, incomplete, or of another run: refused in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.invariant import Outcome, Whole, assert_ended_alike, run
from tests.faults.table import assert_as_told
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import ROOT

ARGS = arguments("classifier", "with/saf")


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return what changes the content of a checkpoint."""

    def edit(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return edit


def untouched(path: Path) -> None:
    """Change nothing."""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # more than what pads an entry of the archive, which means nothing
    middle = len(content) // 2
    content[middle : middle + 128] = bytes(byte ^ 1 for byte in content[middle : middle + 128])
    path.write_bytes(content)


def remove_side_files(path: Path) -> None:
    (folder,) = path.parent.glob(f"{path.name}.*.shards")
    shutil.rmtree(folder)


def truncate_side_file(path: Path) -> None:
    (folder,) = path.parent.glob(f"{path.name}.*.shards")
    truncate(min(folder.iterdir()))


REFUSED: list[tuple[str, Callable[[Path], None], list[str]]] = [
    ("Truncated checkpoint", truncate, ARGS),
    ("Damaged checkpoint", flip, ARGS),
    ("Missing side files", remove_side_files, ARGS),
    ("Damaged side file", truncate_side_file, ARGS),
    ("Checkpoint of another model", untouched, [*ARGS, "--model.widths=[8, 8]"]),
    ("Checkpoint of another model", untouched, arguments("nested")),
    ("Checkpoint of another optimizer", untouched, [*ARGS, "--model.optimizer=SGD"]),
    ("Checkpoint of another optimizer", untouched, [*ARGS, "--model.optimizer=LionK"]),
    (
        "Checkpoint with other parameter groups",
        edited(lambda content: content["optimizer_states"][0]["param_groups"].pop()),
        ARGS,
    ),
    (
        "Checkpoint of the weights alone",
        edited(lambda content: content.pop("optimizer_states")),
        ARGS,
    ),
]
TAKEN: list[tuple[str, Callable[[Path], None]]] = [
    (
        "Checkpoint of a later Lightning",
        edited(lambda content: content.update({"pytorch-lightning_version": "9.0.0"})),
    ),
    ("Checkpoint with unknown parts", edited(lambda content: content.update({"new": {"a": 1}}))),
]
FAULTS = (
    *dict.fromkeys(fault for fault, *_ in (*REFUSED, *TAKEN)),
    "Checkpoint of version 0.1",
    "Newest checkpoint is damaged",
)


def go_on(args: list[str], whole: Whole, folder: Path, change: Callable[[Path], None]) -> Outcome:
    """Go on for a fourth epoch from the changed last checkpoint of a copy of a run."""
    shutil.copytree(whole.folder, folder)
    last = folder / "checkpoints" / "last.ckpt"
    change(last)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = run([*args, "--trainer.max_epochs=4"], folder, ckpt_path=last)
    if outcome.code:
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert after == before
    return outcome


@pytest.mark.parametrize(
    ("fault", "change", "args"),
    [one_of_many(*row, quick=row[1] in (truncate, untouched)) for row in REFUSED],
)
def test_it_is_refused(
    fault: str, change: Callable[[Path], None], args: list[str], whole: Whole, tmp_path: Path
) -> None:
    assert_as_told(fault, go_on(args, whole, tmp_path / "run", change))


@pytest.mark.parametrize(
    ("fault", "change"), [one_of_many(*row, quick=row is TAKEN[0]) for row in TAKEN]
)
def test_it_is_taken(
    fault: str, change: Callable[[Path], None], whole: Whole, tmp_path: Path
) -> None:
    outcome = go_on(whole.args, whole, tmp_path / "run", change)
    assert_as_told(fault, outcome)
    assert outcome.record is not None
    assert len(outcome.record.steps) == 4


def test_the_newest_whole_one_is_taken(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    # the best one is of an earlier step
    truncate(folder / "checkpoints" / "last.ckpt")
    outcome = run(whole.args, folder, ckpt_path=folder)
    assert_as_told("Newest checkpoint is damaged", outcome)
    assert outcome.record is not None
    assert outcome.record.steps
    assert_ended_alike(whole, folder, outcome.record)


@pytest.mark.combination
def test_version_0_1_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "version_0_1" / "classifier_saf_lion", folder)
    (path,) = folder.rglob("last.ckpt")
    outcome = run(["--trainer.max_epochs=3"], folder, ckpt_path=path)
    assert_as_told("Checkpoint of version 0.1", outcome)
    assert outcome.record is not None
    assert outcome.record.steps
