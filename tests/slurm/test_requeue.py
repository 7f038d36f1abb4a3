"""A job that SLURM stopped and started again ends as one that was never stopped."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.wandb_file import history, records
from tests.slurm.jobs import Job, Place, assert_same_bits, slurm, wait_for

SAF = [
    "--config=with/saf",
    "--trainer.callbacks.start_epoch=0",
    "--trainer.callbacks.lag_epochs=1",
    "--data.num_workers=1",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a job that nothing happened to, one for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "whole"
    shared.mkdir(exist_ok=True)
    place = Place(shared)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "runs").exists():
            place.let_go()
            job = submit(place).end()
            assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    (folder,) = (shared / "runs" / "classifier").iterdir()
    return folder


def submit(place: Place, *sbatch: str, **waiting: Any) -> Job:
    """Submit a run with sharded memory per sample, a worker and W&B, held in its second epoch."""
    args = [*SAF, *place.config(**(waiting or {"step": 7}))]
    return place.submit("requeue", *args, sbatch=sbatch)


def assert_whole(job: Job, whole: Path, values_in_wandb: bool = True) -> None:
    """Check that the job went on, in its folder, and that nothing is lost or there twice."""
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    assert_same_bits(job.folder, whole)
    assert [path.name for path in job.folder.parent.iterdir()] == [job.folder.name]
    assert list(job.folder.rglob("hpc_ckpt*")) == []
    assert list(job.folder.rglob(".*.part")) == []
    assert (job.folder / "checkpoints" / "best.ckpt").exists()
    runs = {r.run.run_id for r in records(job.folder, patience=2) if r.HasField("run")}
    assert runs == {(job.folder / "wandb_run_id").read_text().strip()}
    if values_in_wandb:
        assert logged(job.folder) == logged(whole)


def logged(folder: Path) -> list[tuple[str, int, Any]]:
    """Return every number that W&B would be sent, by its name and step."""
    rows = history(folder)
    found = [
        (name, row["trainer/global_step"], value)
        for row in rows
        for name, value in row.items()
        if isinstance(value, float) and not name.startswith("_")
    ]
    return sorted(found)


def test_the_signal_before_the_time_limit(place: Place, whole: Path) -> None:
    job = submit(place)
    place.wait_until_held()
    job.signal("USR1")
    place.let_go()
    job.end()
    assert job.restarts == 1
    assert_whole(job, whole)
    assert "stopped by SIGUSR1" in job.log


def test_pre_emption(place: Place, whole: Path) -> None:
    if "high" not in slurm("sinfo", "--noheader", "--format=%R").split():
        pytest.skip("this SLURM has no partition `high` that pre-empts `low`")
    job = submit(place, "--partition=low")
    place.wait_until_held()
    node = job.fields["NodeList"]
    urgent = place.script("sleep 1\n")
    options = ("--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null")
    other = place.submit(urgent, sbatch=options)
    wait_for(lambda: job.state != "RUNNING")
    # SIGTERM comes first, and SIGKILL after KillWait
    place.let_go()
    assert other.end().state == "COMPLETED"
    job.end()
    assert job.restarts == 1
    # where SIGTERM reaches every process of a step, W&B's own dies of it with what it holds
    reaches_all = "linuxproc" in slurm("scontrol", "show", "config")
    assert_whole(job, whole, values_in_wandb=not reaches_all)
    assert "stopped by SIGTERM" in job.log


def test_the_time_limit(place: Place, whole: Path) -> None:
    """SLURM may send the signal a minute too early."""
    place.let_go()
    job = submit(place, "--time=2", "--signal=USR1@20", pause=6.0)
    job.end(seconds=500)
    assert job.restarts >= 1
    assert_whole(job, whole)


def test_a_kill_without_warning(place: Place, whole: Path) -> None:
    job = submit(place, step=12)
    place.wait_until_held()
    kill(place)
    slurm("scontrol", "requeue", job.name)
    place.let_go()
    job.end()
    assert job.restarts == 1
    assert_whole(job, whole, values_in_wandb=False)
    # from the end of the second epoch
    assert [job.log.count(f"epoch {number}/3") for number in range(4)] == [1, 1, 1, 1]


def test_two_nodes(
    place: Place,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    jobs = []
    for one in (place, Place(tmp_path_factory.mktemp("undisturbed"))):
        args = ["--config=with/wandb", *SAF, *one.config(step=7)]
        options = ("--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
        jobs.append(one.submit("several_nodes", *args, sbatch=options))
    stopped, other = jobs
    other.place.let_go()
    place.wait_until_held(ranks=2)
    stopped.signal("USR1")
    place.let_go()
    for job in jobs:
        job.end(seconds=500)
    assert (other.state, other.exit_code, other.restarts) == ("COMPLETED", 0, 0), other.log
    assert stopped.restarts == 1, stopped.log
    assert_whole(stopped, other.folder)
    # by one of the ranks
    assert stopped.log.count("stopped by SIGUSR1") == 1


def kill(place: Place) -> None:
    """Kill every process of a run by SIGKILL."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(place.path).encode() in words and b"trimtab" in words:
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_a_signal_before_training(place: Place, whole: Path) -> None:
    """The libraries are being imported."""
    job = submit(place)
    wait_for(lambda: takes_signals(place))
    job.signal("USR1")
    place.let_go()
    job.end()
    assert job.restarts == 1, job.log
    assert_whole(job, whole)


def takes_signals(place: Place) -> bool:
    """Return whether a run's process has come so far that SIGUSR1 does not end it."""
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            words = (path.parent / "cmdline").read_bytes()
            caught = re.search(r"SigCgt:\s*(\w+)", path.read_text())
        except OSError:
            continue
        is_run = b"-m\0trimtab" in words and str(place.path).encode() in words
        if is_run and caught and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1:
            return True
    return False
