"""Ranks that look for a state on disks of their own agree on it, or say that they do not."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from framework.distributed.collectives import rank
from framework.runs import resume as exact_resume
from framework.runs.same_checkpoint import check_same_checkpoint
from tests.helpers.configs import arguments
from tests.helpers.runs import Record, differences, fit_on_two_ranks, stop_on_two_ranks
from tests.helpers.tiny import save_state


def check(folder: Path, names: tuple[str | None, str | None]) -> str:
    """Return what is said where the ranks have these files of a folder."""
    name = names[rank()]
    try:
        check_same_checkpoint(None if name is None else folder / name)
    except ValueError as error:
        return str(error).replace(f"{folder}/", "")
    return "same"


def test_ranks_compare_what_they_would_load(tmp_path: Path, two_ranks: Any) -> None:
    save_state(tmp_path / "a", step=3)
    shutil.copy(tmp_path / "a", tmp_path / "copy")
    save_state(tmp_path / "b", step=4)
    save_state(tmp_path / "c", step=4, epoch=1)
    (tmp_path / "broken").write_bytes((tmp_path / "a").read_bytes()[:-30])
    for names in ((None, None), ("a", "a"), ("a", "copy"), ("none", "none"), ("broken", "broken")):
        assert two_ranks(check, tmp_path, names) == ["same"] * 2, names
    for names, states in {
        ("a", None): "rank 0: a, step 3; rank 1: no checkpoint",
        ("b", "c"): "rank 0: b, step 4; rank 1: c, step 4",
        ("none", "a"): "rank 0: none is not there; rank 1: a, step 3",
        ("a", "broken"): "rank 0: a, step 3; rank 1: broken is damaged or incomplete and was",
    }.items():
        said = two_ranks(check, tmp_path, names)
        assert said[0] == said[1]
        assert said[0].startswith(f"The ranks would go on from different states ({states}")
        assert said[0].endswith(
            "): put the run folder, by --trainer.default_root_dir, on a disk that all machines "
            "see, or copy the checkpoint to each."
        )


ARGS = [*arguments("classifier", "with/saf"), "--run_folder=run"]
LAST = Path("run/checkpoints/last.ckpt")


@contextmanager
def own_disk(folder: Path) -> Iterator[None]:
    """Work on the disk of this rank's machine, where every path means another file."""
    os.environ.pop("TRIMTAB_RUN_FOLDER", None)
    (folder / f"node{rank()}").mkdir(exist_ok=True, parents=True)
    share = DDPStrategy.broadcast

    def broadcast(self: DDPStrategy, value: Any, src: int = 0) -> Any:
        value = share(self, value, src)
        return value.replace("/node0/", f"/node{rank()}/") if isinstance(value, str) else value

    first = patch.object(Trainer, "local_rank", 0)
    with chdir(folder / f"node{rank()}"), patch.object(DDPStrategy, "broadcast", broadcast), first:
        yield


def stop(folder: Path) -> list[str]:
    with own_disk(folder):
        stop_on_two_ranks(ARGS, terminate_at=5)
        return sorted(str(path) for path in LAST.parent.rglob("*") if path.is_file())


def resume(folder: Path, *more: str) -> Record | str:
    with own_disk(folder):
        try:
            return fit_on_two_ranks([*ARGS, *more])
        except ValueError as error:
            return str(error)


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory")
def test_folders_of_two_machines(tmp_path: Path, two_ranks: Any) -> None:
    """Rank 0 writes the checkpoint, and each rank its own shards of per-sample memory."""
    whole = two_ranks(resume, tmp_path / "whole")[0]
    files = two_ranks(stop, tmp_path)
    assert str(LAST) in files[0]
    assert str(LAST) not in files[1]
    assert files[1]
    assert all(name.endswith("-1-of-2.pt") for name in files[1])
    # where rank 1 has no checkpoint, none goes on
    said = two_ranks(resume, tmp_path, f"--ckpt_path={LAST}")
    assert said[0] == said[1]
    assert f"rank 0: {LAST}, step 6; rank 1: {LAST} is not there" in said[0]
    # a copy of the checkpoint is enough
    for name in (LAST, Path("run/config.yaml")):
        shutil.copy(tmp_path / "node0" / name, tmp_path / "node1" / name)
    records = two_ranks(resume, tmp_path, f"--ckpt_path={LAST}")
    assert len(records[0].steps) == len(whole.steps) - 6
    assert differences(whole.parameters, records[0].parameters) == []
    # nothing but the shards of this checkpoint and of the one before it is kept
    sides = {
        path.name.split(".")[2] for path in tmp_path.glob("node1/run/checkpoints/last*.shards")
    }
    assert len(sides) == 2
    assert torch.load(tmp_path / "node0" / LAST, weights_only=True)["shards"] in sides


def fit_on_one_disk(folder: Path) -> None:
    """Train as two machines do that see one disk, of which the second is slow to tidy up."""
    remove = exact_resume.remove_shards

    def remove_late(path: Path, before: str, *kept: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            files = path.parent.glob(f"{path.name}.*.shards/*-0-of-2.pt")
            if any(before not in file.parent.name for file in files):
                break
        remove(path, before, *kept)

    late = patch.object(exact_resume, "remove_shards", remove_late)
    with late, patch.object(Trainer, "local_rank", 0):
        os.environ.pop("TRIMTAB_RUN_FOLDER", None)
        with chdir(folder):
            # where ranks share one file, they wait for one another before they write
            fit_on_two_ranks([*ARGS, "--trainer.callbacks.storage=exchange"])


def test_machines_that_see_one_disk_leave_the_files_of_the_others(
    tmp_path: Path, two_ranks: Any
) -> None:
    two_ranks(fit_on_one_disk, tmp_path)
    (shards,) = (tmp_path / LAST.parent).glob("last.ckpt.*.shards")
    files = sorted(path.name for path in shards.iterdir())
    of_first = [name for name in files if name.endswith("-0-of-2.pt")]
    assert of_first
    assert files == sorted([*of_first, *(n.replace("-0-of-2", "-1-of-2") for n in of_first)])
