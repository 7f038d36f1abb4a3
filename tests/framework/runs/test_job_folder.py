"""A job has a folder for each of its runs, and finds them when it is started again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import TCPStore

from framework.runs import job
from framework.runs.folder_choice import choose_run_folder
from framework.runs.run_folder import RunFolder
from framework.runs.run_record import HELD, read_record, record_of
from tests.helpers.runs import in_child

RUNS = Path("runs/run")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "TRIMTAB_RUN")) or name.endswith("RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    job._starts.cache_clear()
    yield
    for held in list(HELD.values()):
        held.release()


class Process:
    """A process of a job, by its environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(
        self,
        *command: str,
        rank: int = 0,
        trains: bool = True,
        finishes: bool = False,
        **variables: object,
    ) -> RunFolder:
        """Choose a folder, train in it, and end."""
        for name, value in variables.items():
            self.monkeypatch.setenv(f"SLURM_{name}", str(value))
        self.monkeypatch.delenv("TRIMTAB_RUN_FOLDER", raising=False)
        self.monkeypatch.setattr(rank_zero_only, "rank", rank)
        folder = choose_run_folder(["fit", *command])
        if rank == 0 and trains:
            (folder.path / "metrics.csv").touch()
        if finishes:
            folder.end(local_rank=0)
        folder.release()
        return folder


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


def test_a_job_has_its_name_and_an_array_those_of_both(process: Process) -> None:
    assert process(JOB_ID=14, STEP_ID=0).path == RUNS / "slurm-14"
    assert process(JOB_ID=14, ARRAY_JOB_ID=10, ARRAY_TASK_ID=2).path == RUNS / "slurm-10_2"
    # the task whose own number is the array's
    assert process(JOB_ID=10, ARRAY_JOB_ID=10, ARRAY_TASK_ID=4).path == RUNS / "slurm-10_4"


@pytest.mark.parametrize("rank", [0, 1])
def test_steps_of_a_job_have_folders_of_their_own(process: Process, rank: int) -> None:
    """Whichever rank comes first, both choose the same."""
    for attempt in range(3):
        for step, name in enumerate(["slurm-5", "slurm-5.1", "slurm-5.2"]):
            where = {"JOB_ID": 5, "STEP_ID": step, "RESTART_COUNT": attempt}
            for r in (rank, 1 - rank):
                assert process(f"--seed_everything={step}", rank=r, **where).path == RUNS / name


def test_steps_that_start_at_once_find_their_folders_in_another_order(process: Process) -> None:
    process("--a", JOB_ID=5, STEP_ID=0)
    process("--b", JOB_ID=5, STEP_ID=1)
    for rank in (1, 0, 1):
        assert process("--b", rank=rank, STEP_ID=0, RESTART_COUNT=1).path == RUNS / "slurm-5.1"
    for rank in (0, 1):
        assert process("--a", rank=rank, STEP_ID=1).path == RUNS / "slurm-5"
    # one that had no turn before
    for rank in (0, 1):
        assert process("--c", rank=rank, STEP_ID=2).path == RUNS / "slurm-5.2"
    # and one whose number was another's
    for rank in (1, 0, 1):
        found = process("--d", rank=rank, STEP_ID=1, RESTART_COUNT=2).path
        assert found == RUNS / "slurm-5.1-2"


@pytest.mark.parametrize("step", [None, 0xFFFFFFFA, 0xFFFFFFFB, 3])
def test_processes_without_a_step_of_their_own_count(process: Process, step: int | None) -> None:
    """In a batch script, ``salloc``, or a shell that ``srun`` started; twice the same command."""
    where = {"JOB_ID": 5} if step is None else {"JOB_ID": 5, "STEP_ID": step}
    base = RUNS / ("slurm-5.3" if step == 3 else "slurm-5")
    names = [base, *(base.with_name(f"{base.name}-{number}") for number in (2, 3))]
    for attempt in range(2):
        for command, path in zip(["--a", "--b", "--a"], names, strict=True):
            assert process(command, **where, RESTART_COUNT=attempt).path == path


def test_a_start_that_came_to_nothing_is_made_good(process: Process) -> None:
    process("--a", JOB_ID=5, STEP_ID=0, trains=False)
    for rank in (1, 0):
        assert process("--a", rank=rank, RESTART_COUNT=1).path == RUNS / "slurm-5"
    # killed between making the folder and its record, or while writing that
    (RUNS / "slurm-6").mkdir()
    assert process("--a", JOB_ID=6).path == RUNS / "slurm-6"
    (RUNS / "slurm-7").mkdir()
    (RUNS / "slurm-7" / ".run.json").touch()
    assert process("--a", JOB_ID=7).path == RUNS / "slurm-7"


def test_a_run_of_a_former_version_is_found_again(process: Process) -> None:
    (RUNS / "slurm-5").mkdir(parents=True)
    (RUNS / "slurm-5" / "config.yaml").touch()
    assert process("--a", JOB_ID=5, STEP_ID=0, RESTART_COUNT=1).path == RUNS / "slurm-5"


def test_what_lies_on_the_disk_of_another_machine_has_the_same_name(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attempt in range(2):
        for rank in range(2):
            (tmp_path / f"node{rank}").mkdir(exist_ok=True)
            monkeypatch.chdir(tmp_path / f"node{rank}")
            folder = process(rank=rank, JOB_ID=5, STEP_ID=0, RESTART_COUNT=attempt)
            assert folder.path == RUNS / "slurm-5"
            # its shards
            (folder.path / "checkpoints" / "shards").mkdir(parents=True, exist_ok=True)


def test_a_folder_that_was_named_is_not_taken_from_another_run(process: Process) -> None:
    for attempt in range(2):
        where: dict[str, Any] = {"JOB_ID": 5, "RESTART_COUNT": attempt}
        assert named(process, **where) == "mine"
        assert "mine holds a run already" in named(process, **{**where, "JOB_ID": 6})


def named(process: Process, **variables: object) -> str:
    for key, value in variables.items():
        process.monkeypatch.setenv(f"SLURM_{key}", str(value))
    try:
        folder = choose_run_folder(["fit"], exact="mine")
    except FileExistsError as error:
        return str(error)
    (folder.path / "metrics.csv").touch()
    folder.release()
    return str(folder.path)


def test_what_was_finished_is_known_to_every_rank(process: Process, tmp_path: Path) -> None:
    process("--a", JOB_ID=5, STEP_ID=0, finishes=True)
    process("--b", STEP_ID=1)
    for rank in (1, 0, 1):
        assert process("--a", rank=rank, STEP_ID=0, RESTART_COUNT=1).is_finished
        assert not process("--b", rank=rank, STEP_ID=1, RESTART_COUNT=1).is_finished
    # on another machine's disk
    process.monkeypatch.chdir(tmp_path / "runs")
    process("--a", rank=1, STEP_ID=0, RESTART_COUNT=0, finishes=True)
    assert process("--a", rank=1, RESTART_COUNT=1).is_finished


def test_a_run_that_was_finished_can_be_trained_on(process: Process) -> None:
    folder = process(JOB_ID=5, finishes=True).path
    (folder / "checkpoints").mkdir()
    last = f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    more = [last, "--trainer.max_epochs=20"]
    # by the same job, by another, and by no job, each started again
    for number in (5, 6):
        for attempt in range(2):
            again = process(*more, JOB_ID=number, RESTART_COUNT=attempt)
            assert again.path == folder
            assert not again.is_finished
    process(*more, finishes=True)
    assert process(*more, RESTART_COUNT=2).is_finished
    process.monkeypatch.delenv("SLURM_JOB_ID")
    assert not process(*more).is_finished


def test_a_folder_that_a_living_run_holds_is_refused(process: Process) -> None:
    folder = choose_run_folder(["fit"], exact="mine")
    (folder.path / "checkpoints").mkdir()
    args = ["--ckpt_path=mine/checkpoints/last.ckpt"]
    holder = json.loads((folder.path / ".run.json").read_text())
    assert holder["process"] == os.getpid()

    def choose(command: str) -> str:
        try:
            return str(choose_run_folder([command, *args]).path)
        except FileExistsError as error:
            return str(error)

    refused = (
        f"mine is written by process {holder['process']} of {holder['host']}, which is still "
        "running: wait for its end, or stop it."
    )
    results = Path("results")
    for name in ("fit", "test"):
        assert in_child(lambda name=name: results.write_text(choose(name))) == 0
        assert results.read_text() == (refused if name == "fit" else "mine")
    # one lock is for all ways in
    assert choose("fit") == refused
    folder.release()
    assert in_child(lambda: results.write_text(choose("fit"))) == 0
    assert results.read_text() == "mine"


def test_a_killed_process_holds_nothing(process: Process) -> None:
    def killed() -> None:
        folder = choose_run_folder(["fit"], exact="mine")
        (folder.path / "checkpoints").mkdir()
        os.kill(os.getpid(), 9)

    assert in_child(killed) == -9
    args = ["fit", "--ckpt_path=mine/checkpoints/last.ckpt"]
    assert choose_run_folder(args).path == Path("mine")


def test_a_folder_of_a_process_that_was_killed_before_it_trained_is_free() -> None:
    assert in_child(lambda: (choose_run_folder(["fit"], name="a"), os.kill(os.getpid(), 9))) == -9
    assert choose_run_folder(["fit"], name="a").path == RUNS / "a"


def test_a_record_holds_no_value_of_the_command_line() -> None:
    secret = "--trainer.logger.init_args.api_key=x7y"
    folder = choose_run_folder(["fit", secret], name="a")
    folder.end(local_rank=0)
    assert "x7y" not in (folder.path / ".run.json").read_text()
    assert read_record(folder.path) == record_of(["fit", secret, "--ckpt_path=b"], None).ended()
    assert read_record(folder.path) != record_of(["fit"], None).ended()


RECORDS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"command": 3}',
    b'{"command": ["fit"], "finished": [3]}',
    b'{"command": ["fit"], "finished": [], "restarts": "1"}',
    b'{"command": [["fit"]], "finished": []}',
    b'{"command": ["fit"], "finished": [], "job": {}, "more": 1}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", RECORDS, ids=range(len(RECORDS)))
def test_a_record_that_is_none_is_passed_over(process: Process, content: bytes) -> None:
    folder = RUNS / "slurm-5"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".run.json").write_bytes(content)
    last = f"--ckpt_path={folder}/checkpoints/last.ckpt"
    assert process(last, JOB_ID=5, RESTART_COUNT=1).path == folder
    (folder / ".run.json").write_bytes(content)
    assert process(JOB_ID=5, RESTART_COUNT=1).path == folder


@pytest.mark.parametrize("exact", [None, pytest.param("mine", marks=pytest.mark.combination)])
def test_torchrun_finds_its_folder_again(exact: str | None, process: Process) -> None:
    """Counts of restarts differ between agents, hence none is asked."""
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch = process.monkeypatch
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    found = []
    for attempt in range(3):
        job._starts.cache_clear()
        agent.set("default_pg/0//cpu//1/0", "an address of a process that is gone")
        for rank in (0, 1):
            monkeypatch.delenv("TRIMTAB_RUN_FOLDER", raising=False)
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt * rank))
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setattr(rank_zero_only, "rank", rank)
            assert job.restarts() == attempt
            assert agent.check(["default_pg/0//cpu//1/0"]) == (attempt == 0)
            folder = choose_run_folder(["fit"], exact=exact)
            assert folder.is_finished == (attempt == 2)
            found.append(folder.path)
            if rank == 0:
                (folder.path / "metrics.csv").touch()
                first = folder
        if attempt == 1:
            first.end(local_rank=0)
        first.release()
    assert len(set(found)) == 1
    # another job of torchrun does not take it for its own
    other = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_PORT", str(other.port))
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setenv("RANK", "0")
    for _ in range(2):
        job._starts.cache_clear()
        with pytest.raises(FileExistsError, match="holds a run already"):
            choose_run_folder(["fit"], exact=str(found[0]))
