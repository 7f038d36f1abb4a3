"""Of the checkpoints in a folder, the newest whole one is gone on from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from framework.runs.newest_checkpoint import newest_checkpoint
from tests.helpers.tiny import save_state

TOKEN = "0123456789ab"


def passed_over(warnings: pytest.WarningsRecorder) -> list[str]:
    found = [re.match(r"(.*?\.ckpt)\b.*; it is passed over\.", str(w.message)) for w in warnings]
    return [Path(match[1]).name for match in found if match]


def test_the_most_steps_count_and_not_the_time(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, tmp_path / "none") is None
    newest = save_state(tmp_path / "best.ckpt", step=12)
    save_state(tmp_path / "last.ckpt", step=8)
    assert newest_checkpoint(tmp_path) == newest
    other = save_state(tmp_path / "hpc_ckpt_2.ckpt", step=13)
    assert newest_checkpoint(tmp_path) == other


def test_of_one_step_the_last_is_taken(tmp_path: Path) -> None:
    for name in ("best", "last", "z"):
        save_state(tmp_path / f"{name}.ckpt", step=4)
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"


def test_what_is_no_whole_state_is_passed_over(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    whole = save_state(tmp_path / "whole.ckpt", step=1)
    content = save_state(tmp_path / "truncated.ckpt", step=9).read_bytes()
    (tmp_path / "truncated.ckpt").write_bytes(content[:-100])
    half = len(content) // 2
    (tmp_path / "changed.ckpt").write_bytes(content[:half] + b"changed" + content[half + 7 :])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "pipe.ckpt").mkdir()
    torch.save({"state_dict": {}, "global_step": 9}, tmp_path / "weights.ckpt")
    save_state(tmp_path / "unsharded.ckpt", step=9, shards=TOKEN)
    for step in (-1, "9", 2.5, 1 << 60):
        save_state(tmp_path / f"step{step}.ckpt", step=step)  # type: ignore[arg-type]
    save_state(tmp_path / ".last.ckpt.0-1-0.part", step=9)
    (tmp_path / f"last.ckpt.{TOKEN}.shards").mkdir()
    assert newest_checkpoint(tmp_path) == whole
    expected = {"truncated", "changed", "empty", "unsharded", "step-1", "step9", "step2.5"}
    expected |= {f"step{1 << 60}"}
    assert sorted(passed_over(recwarn)) == sorted(f"{name}.ckpt" for name in expected)


def test_without_all_shards_a_checkpoint_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    whole = save_state(tmp_path / "best.ckpt", step=4)
    last = save_state(tmp_path / "last.ckpt", step=8, shards=TOKEN)
    shards = tmp_path / f"last.ckpt.{TOKEN}.shards"
    shards.mkdir()
    assert newest_checkpoint(tmp_path) == whole
    for table in ("SAF.history", "a-0-of-9"):
        for rank in range(2):
            torch.save({"num_samples": 3}, shards / f"{table}-{rank}-of-2.pt")
    assert newest_checkpoint(tmp_path) == last
    one = shards / "SAF.history-1-of-2.pt"
    content = one.read_bytes()
    one.write_bytes(content[:-100])
    assert newest_checkpoint(tmp_path) == whole
    one.unlink()
    assert newest_checkpoint(tmp_path) == whole
    assert [Path(name).suffix for name in passed_over(recwarn)] == [".ckpt"] * 2
    # they may lie on the disk of another machine
    for name, value in {"SLURM_NNODES": 2, "WORLD_SIZE": 2, "NODE_RANK": 1}.items():
        with monkeypatch.context() as patch:
            patch.setenv("LOCAL_WORLD_SIZE", "1")
            patch.setenv(name, str(value))
            assert newest_checkpoint(tmp_path) == last
