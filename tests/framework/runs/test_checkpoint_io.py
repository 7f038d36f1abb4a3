"""Checkpoint files: whole or absent, and nothing in them is executed."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import Counter
from datetime import date
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.runs.checkpoint_io import AtomicCheckpointIO, side_directory
from framework.utilities.files import write_atomically


class Kind(Enum):
    A = 1


GOOD = {"state_dict": {"w": torch.arange(300.0)}, "epoch": 3, "names": ["a", None, 1.5]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(GOOD, target)
    return target


def test_a_round_trip(path: Path) -> None:
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], GOOD["state_dict"]["w"])
    assert loaded["names"] == GOOD["names"]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()

    def half(file) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_bytes() == before
    AtomicCheckpointIO().save_checkpoint({**GOOD, "epoch": 4}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["epoch"] == 4
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_side_files_live_as_long_as_their_checkpoint(path: Path) -> None:
    old, new = side_directory(path, "0" * 12), side_directory(path, "1" * 12)
    other = side_directory(path.with_name("best.ckpt"), "0" * 12)
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "SAF.history-0-0-of-1.pt").touch()
    AtomicCheckpointIO().save_checkpoint({**GOOD, "shards": "1" * 12}, path)
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert [p.name for p in path.parent.iterdir()] == [other.name]


def test_only_side_files_of_ours_are_removed(path: Path) -> None:
    thesis = path.parent.parent / "thesis"
    thesis.mkdir()
    (thesis / "SAF.history-0-0-of-1.pt").touch()
    mixed, named = side_directory(path, "0" * 12), path.with_name("last.ckpt.mine.shards")
    for folder in (mixed, named):
        (folder / "sub").mkdir(parents=True)
        (folder / "notes.txt").touch()
        (folder / "SAF.history-0-0-of-1.pt").touch()
    side_directory(path, "1" * 12).symlink_to(thesis)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert sorted(p.name for p in mixed.iterdir()) == ["notes.txt", "sub"]
    assert len(list(named.iterdir())) == 3
    assert [p.name for p in thesis.iterdir()] == ["SAF.history-0-0-of-1.pt"]


@pytest.mark.parametrize("token", ["../../thesis", "", "x" * 12, "0" * 13, None, 3])
def test_shards_lie_beside_their_checkpoint(path: Path, token) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt names shards .*, which are none"):
        side_directory(path, token)


def test_a_folder_or_another_file_is_never_removed(path: Path, tmp_path: Path) -> None:
    tree, text, link = tmp_path / "tree.ckpt", tmp_path / "thesis.txt", tmp_path / "link.ckpt"
    tree.mkdir()
    (tree / "a").touch()
    text.touch()
    link.symlink_to(tree)
    for place in (tree, text):
        with pytest.warns(UserWarning, match="is no checkpoint file and was not removed"):
            AtomicCheckpointIO().remove_checkpoint(place)
    AtomicCheckpointIO().remove_checkpoint(link)
    AtomicCheckpointIO().remove_checkpoint(f"local://{tree}")
    assert (tree / "a").exists()
    assert text.exists()
    assert not link.is_symlink()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_no_checkpoint(path: Path, share: float, legacy: bool) -> None:
    torch.save(GOOD, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"last\.ckpt .*(not a whole checkpoint|was not loaded)"):
        AtomicCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize("content", [b"\x80", b"\x80\x02X\x01"])
def test_a_damaged_file_is_no_checkpoint(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize(
    "value",
    [
        None,
        np.float64(2),
        np.zeros(2),
        Counter("ab"),
        {1: (2, {3})},
        torch.float16,
        torch.Size([1]),
        torch.device("cpu"),
        torch.nn.Parameter(torch.ones(2)),
        torch.arange(6).view(2, 3).t(),
    ],
)
def test_what_is_read_again_is_saved_without_a_word(path: Path, value, recwarn) -> None:
    AtomicCheckpointIO().save_checkpoint({**GOOD, "hyper_parameters": {"value": value}}, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert str(loaded["hyper_parameters"]["value"]) == str(value)
    assert not recwarn


@pytest.mark.parametrize(
    "value",
    [
        *(Path("a"), date(2024, 2, 3), range(3), Namespace(a=1), Kind.A, torch.strided),
        *(torch.ones(2, dtype=torch.complex64).conj(), torch.empty(2, device="meta")),
    ],
)
def test_what_is_not_read_again_is_told_when_it_is_saved(path: Path, value) -> None:
    with pytest.warns(UserWarning, match=r"continued or tested.*'hyper_parameters\.value\.1' is a"):
        AtomicCheckpointIO().save_checkpoint(
            {**GOOD, "hyper_parameters": {"value": [1, value]}}, path
        )
    with pytest.raises(ValueError, match="was not loaded"):
        AtomicCheckpointIO().load_checkpoint(path)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_a_command_is_refused(path: Path, legacy: bool) -> None:
    trace = path.parent / "executed"
    evil = {**GOOD, "callbacks": Command(f"touch {trace}")}
    torch.save(evil, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"last\.ckpt holds more than tensors.*system") as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    # torch's advice is to load it all the same
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}])
def test_a_file_of_another_kind_is_refused(path: Path, content) -> None:
    torch.save(content, path)
    with pytest.raises(ValueError, match="no 'state_dict'"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_text_is_refused(path: Path) -> None:
    path.write_text("model:\n  class_path: Classifier\n")
    with pytest.raises(ValueError, match=r"last\.ckpt") as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "weights_only" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nix\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "nix.ckpt")
