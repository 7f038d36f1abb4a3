"""Where a run writes, and which config a name stands for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from framework.runs.run_folder import (
    choose_run_folder,
    find_config,
    option,
    resolve_checkpoints,
    resolve_configs,
)
from tests.helpers.runs import CONFIGS

VARIABLES = ("TRIMTAB_RUN_FOLDER", "LOCAL_RANK", "RANK", "SLURM_JOB_ID")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_RUN_FOLDER", "")  # so that what is set here is undone
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says another time whenever it is asked."""
    ticks = iter("abcdef")
    monkeypatch.setattr(time, "strftime", lambda _: next(ticks))


@pytest.mark.parametrize("name", ["with/saf", "with/saf.yaml", "configs/with/saf.yaml"])
def test_an_installed_config_is_found_by_name(name):
    assert find_config(name) == str(CONFIGS / "with" / "saf.yaml")


def test_a_file_here_comes_before_an_installed_one():
    Path("classifier").write_text("model: mine\n")
    assert find_config("classifier") == "classifier"


def test_a_checkpoint_brings_its_config_and_its_folder():
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").touch()
    Path("run/checkpoints/best.ckpt").touch()
    args = ["test", "--ckpt_path=run/checkpoints/best.ckpt"]
    assert resolve_configs(args) == ["test", "--config", "run/config.yaml", args[1]]
    assert choose_run_folder(args).path == Path("run")
    assert resolve_configs(["test", "-c", "with/saf", args[1]])[1:3] == [
        "-c",
        str(CONFIGS / "with" / "saf.yaml"),
    ]
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint at elsewhere\.ckpt"):
        resolve_configs(["test", "--ckpt_path=elsewhere.ckpt"])
    Path("elsewhere.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.ckpt lies in no run folder"):
        resolve_configs(["test", "--ckpt_path", "elsewhere.ckpt"])


def test_a_run_folder_stands_for_its_checkpoint():
    checkpoints = Path("run/checkpoints")
    checkpoints.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in run"):
        resolve_checkpoints(["fit", "--ckpt_path=run"])
    (checkpoints / "best.ckpt").touch()
    assert (
        resolve_checkpoints(["fit", "--ckpt_path=run"])[1]
        == "--ckpt_path=run/checkpoints/best.ckpt"
    )
    (checkpoints / "last.ckpt").touch()
    for command, name in (("fit", "last"), ("test", "best")):
        for folder in ("run", "run/checkpoints"):
            args = resolve_checkpoints([command, "--ckpt_path", folder, "--x", "run"])
            assert args[2:] == [f"run/checkpoints/{name}.ckpt", "--x", "run"]


def test_options_are_read_in_order():
    args = ["fit", "--config=a", "-c", "b", "--configs=no", "--config", "c", "--config"]
    assert option(args, "--config", "-c") == ["a", "b", "c"]


def test_a_run_has_a_folder_of_its_own_and_its_children_share_it(clock, monkeypatch):
    args = ["fit", "--config=some/place/digits.yaml"]
    assert choose_run_folder(args).path == Path("runs/digits/a")
    assert choose_run_folder(args).path == Path("runs/digits/b")
    monkeypatch.setenv("LOCAL_RANK", "1")  # as Lightning starts the other ranks
    assert choose_run_folder(args).path == Path("runs/digits/b")


def test_a_job_that_is_queued_again_finds_its_folder(clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    folders = {choose_run_folder(["fit"]).path for _ in range(2)}
    assert folders == {Path("runs/run/slurm-77")}


def test_the_ranks_of_torchrun_agree(clock, monkeypatch):
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    folders = []
    for rank in ("0", "1"):
        monkeypatch.delenv("TRIMTAB_RUN_FOLDER", raising=False)
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("RANK", rank)
        folders.append(choose_run_folder(["fit"]).path)
    assert folders == [Path("runs/run/a")] * 2
