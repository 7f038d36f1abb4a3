"""What is installed or set around a run says nothing in it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

import trimtab
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET


def test_a_command_is_silent_where_srun_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    args = [*arguments("classifier"), "--trainer.max_steps=1", *QUIET]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*srun")
        trimtab.main(["fit", *args, f"--run_folder={tmp_path}"])


@pytest.mark.parametrize("turn", [1, 2])
def test_no_test_sees_what_another_has_set(turn: int) -> None:
    assert os.environ.get("PL_GLOBAL_SEED") is None
    assert torch.initial_seed() == 0
    os.environ["PL_GLOBAL_SEED"] = "17"
    torch.manual_seed(17)
