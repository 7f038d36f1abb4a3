"""A run that is killed and resumed ends with the same bits as one that never was."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from framework.utilities.files import part_of
from tests.helpers.configs import DOMAINS, SYSTEMS, arguments, base_of, one_of_many, overlays
from tests.helpers.runs import (
    Record,
    differences,
    fit,
    fit_in_child,
    fit_on_two_ranks,
    in_child,
    largest_difference,
    stop_on_two_ranks,
    terms,
)

EVERY = "--last_checkpoint.every_n_train_steps=2"
KILLED = -signal.SIGKILL
QUICK = {*((system, 0) for system in DOMAINS), ("classifier", 2)}


def assert_same_bits(whole: Record, resumed: Record) -> None:
    """Compare the steps that the resumed run took, and how both runs ended."""
    assert resumed.steps
    assert whole.steps[-len(resumed.steps) :] == resumed.steps
    assert differences(whole.parameters, resumed.parameters) == []
    assert differences(whole.optimizer, resumed.optimizer) == []
    assert differences(whole.metrics, resumed.metrics) == []


def last(folder: Path) -> str:
    return f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"


def kill_and_resume(args: list[str], folder: Path, kill_at: int) -> tuple[Record, Record]:
    """Run once whole, and once killed by SIGKILL before a step and resumed."""
    whole_args = [*args, EVERY, f"--run_folder={folder / 'whole'}"]
    args = [*args, EVERY, f"--run_folder={folder / 'killed'}"]
    code, whole = fit_in_child(whole_args, folder / "whole.pt")
    assert code == 0
    journal = folder / "journal"
    code, _ = fit_in_child(args, folder / "none.pt", kill_at=kill_at, log=journal)
    assert code == KILLED
    code, resumed = fit_in_child([*args, last(folder / "killed")], folder / "resumed.pt")
    assert code == 0
    assert whole is not None
    assert resumed is not None
    # until it was killed the run was the same too
    before = [json.loads(line) for line in journal.read_text().splitlines()]
    assert before == whole.steps[: len(before)]
    assert len(before) + len(resumed.steps) >= len(whole.steps)
    assert len(resumed.steps) < len(whole.steps)
    return whole, resumed


@pytest.mark.parametrize(
    ("system", "workers"),
    [
        one_of_many(system, workers, quick=(system, workers) in QUICK, system=system)
        for system in SYSTEMS
        for workers in (0, 2)
    ],
)
def test_resume_is_bitwise(system, workers, tmp_path, data_folder):
    args = [*arguments(system, data=data_folder), f"--data.num_workers={workers}"]
    assert_same_bits(*kill_and_resume(args, tmp_path, kill_at=7))


@pytest.mark.parametrize("overlay", overlays("with/ddp", "with/fsdp2", "with/wandb"))
def test_overlays_resume_bitwise(overlay, tmp_path):
    assert_same_bits(*kill_and_resume(arguments(base_of(overlay), overlay), tmp_path, kill_at=7))


def test_noise_of_accumulated_batches_resumes_bitwise(tmp_path):
    args = [*arguments("classifier", "with/ensloss"), "--trainer.accumulate_grad_batches=3"]
    args += ["--data.batch_size=24"]
    assert_same_bits(*kill_and_resume(args, tmp_path, kill_at=7))


def test_double_precision_resumes_bitwise(tmp_path):
    args = [*arguments("classifier"), "--trainer.precision=64-true"]
    assert_same_bits(*kill_and_resume(args, tmp_path, kill_at=7))


@pytest.mark.parametrize(
    "kill_at", [4, 9, one_of_many(5, quick=False), one_of_many(8, quick=False)]
)
def test_resume_around_the_end_of_an_epoch(kill_at, tmp_path):
    whole, resumed = kill_and_resume(arguments("classifier", "with/saf"), tmp_path, kill_at)
    assert_same_bits(whole, resumed)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (
        tmp_path / "killed" / "metrics.csv"
    ).read_bytes()


def test_resume_from_the_best_checkpoint_of_an_epochs_end(tmp_path):
    args = [*arguments("classifier"), f"--run_folder={tmp_path}"]
    code, whole = fit_in_child(args, tmp_path / "whole.pt")
    assert code == 0
    assert whole is not None
    args = [*args, f"--ckpt_path={tmp_path / 'checkpoints' / 'best.ckpt'}"]
    code, resumed = fit_in_child(args, tmp_path / "resumed.pt")
    assert code == 0
    assert resumed is not None
    if resumed.steps:
        assert_same_bits(whole, resumed)


@pytest.mark.parametrize(
    "overlay",
    [
        None,
        "with/saf",
        "with/partial",
        *(one_of_many(name, quick=False) for name in ("with/mesa", "with/aldr")),
    ],
)
def test_resume_on_another_number_of_ranks(overlay, tmp_path, two_ranks):
    overlays = [] if overlay is None else [overlay]
    base = "classifier" if overlay is None else base_of(overlay)
    # without float64 the order of a sum over ranks would decide the seventh digit
    args = [*arguments(base, *overlays), "--trainer.precision=64-true", EVERY]
    one = [*args, f"--run_folder={tmp_path / 'one'}"]
    code, whole = fit_in_child(one, tmp_path / "whole.pt")
    assert code == 0
    assert whole is not None
    # one process, killed, goes on as two
    first = [*args, f"--run_folder={tmp_path / 'first'}"]
    assert fit_in_child(first, tmp_path / "none.pt", kill_at=7)[0] == KILLED
    resumed = two_ranks(fit_on_two_ranks, [*first, last(tmp_path / "first")])[0]
    assert_close(whole, resumed)
    # two, stopped by a signal, go on as one
    second = [*args, f"--run_folder={tmp_path / 'second'}"]
    two_ranks(stop_on_two_ranks, second, terminate_at=5)
    code, resumed = fit_in_child([*second, last(tmp_path / "second")], tmp_path / "resumed.pt")
    assert code == 0
    assert resumed is not None
    assert_close(whole, resumed)


def assert_close(whole: Record, resumed: Record) -> None:
    tail = whole.steps[-len(resumed.steps) :]
    assert 0 < len(resumed.steps) < len(whole.steps)
    assert [s["index"] for s in tail] == [s["index"] for s in resumed.steps]
    for left, right in zip(tail, resumed.steps, strict=True):
        assert terms(left) == pytest.approx(terms(right), abs=1e-6)
    assert largest_difference(whole.parameters, resumed.parameters) < 1e-6
    assert whole.metrics == pytest.approx(resumed.metrics, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("configs", "changed", "step"),
    [
        (("classifier", "with/saf"), [], 5),
        # every batch is an epoch
        (("aggregate",), ["--data.batch_size=320"], 1),
    ],
    ids=["classifier", "aggregate"],
)
def test_sigterm_saves_and_stops(configs, changed, step, tmp_path):
    args = [*arguments(*configs), *changed]
    code, whole = fit_in_child([*args, f"--run_folder={tmp_path / 'whole'}"], tmp_path / "whole.pt")
    assert code == 0
    args = [*args, f"--run_folder={tmp_path / 'stopped'}"]
    journal = tmp_path / "journal"
    code, _ = fit_in_child(args, tmp_path / "none.pt", terminate_at=step, log=journal)
    assert code == 128 + signal.SIGTERM
    assert len(journal.read_text().splitlines()) == step + 1
    code, resumed = fit_in_child([*args, last(tmp_path / "stopped")], tmp_path / "resumed.pt")
    assert code == 0
    assert whole is not None
    assert resumed is not None
    assert len(resumed.steps) == len(whole.steps) - step - 1
    assert_same_bits(whole, resumed)
    metrics = [(tmp_path / run / "metrics.csv").read_bytes() for run in ("whole", "stopped")]
    assert metrics[0] == metrics[1]


def test_a_job_that_slurm_preempts_goes_on_when_it_is_started_again(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    args = arguments("classifier")
    code, whole = fit_in_child([*args, f"--run_folder={tmp_path / 'whole'}"], tmp_path / "whole.pt")
    assert code == 0
    assert whole is not None
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    args = [*args, f"--run_folder={tmp_path / 'job'}"]
    code, _ = fit_in_child(
        args, tmp_path / "none.pt", terminate_at=5, terminate_with=signal.SIGUSR1
    )
    assert code == 128 + signal.SIGUSR1
    assert calls.read_text() == "requeue 17\n"
    # the scheduler starts the very same command again
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    code, resumed = fit_in_child(args, tmp_path / "resumed.pt")
    assert code == 0
    assert resumed is not None
    assert len(resumed.steps) == len(whole.steps) - 6
    assert_same_bits(whole, resumed)


IN_A_JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS_PER_NODE": "1",
}


@pytest.mark.filterwarnings("ignore:.* is passed over")
@pytest.mark.parametrize("end", [one_of_many("kill", quick=False), "signal and kill", "truncated"])
def test_a_job_that_is_started_again_goes_on_by_itself(end, tmp_path, monkeypatch):
    """It has shards of per-sample memory, and no word of a checkpoint on the command line."""
    monkeypatch.chdir(tmp_path)
    args = [*arguments("classifier", "with/saf"), EVERY]
    code, whole = fit_in_child([*args, "--run_folder=whole"], tmp_path / "whole.pt")
    assert code == 0
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    ends = [{"terminate_at": 3}, {"kill_at": 9}] if end == "signal and kill" else [{"kill_at": 9}]
    for attempt, how in enumerate(ends):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(attempt))
        assert fit_in_child(args, tmp_path / "none.pt", **how)[0] in (KILLED, 128 + signal.SIGTERM)
    folder = tmp_path / "runs" / "classifier" / "slurm-17"
    newest = folder / "checkpoints" / "last.ckpt"
    step = torch.load(newest, weights_only=True)["global_step"]
    assert step == 8
    if end == "truncated":
        newest.write_bytes(newest.read_bytes()[:-200])
        step = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    part = part_of(newest)
    part.touch()
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(len(ends)))
    code, resumed = fit_in_child(args, tmp_path / "resumed.pt")
    assert code == 0
    assert not part.exists()
    assert len(resumed.steps) == len(whole.steps) - step
    assert_same_bits(whole, resumed)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (
        folder / "metrics.csv"
    ).read_bytes()


def test_a_job_that_is_started_again_does_not_go_back_to_the_checkpoint_that_it_names(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    args = [*arguments("classifier"), EVERY]
    code, whole = fit_in_child([*args, "--run_folder=whole"], tmp_path / "whole.pt")
    assert code == 0
    assert fit_in_child([*args, "--run_folder=run"], tmp_path / "none.pt", kill_at=5)[0] == KILLED
    named = shutil.copy("run/checkpoints/last.ckpt", "run/checkpoints/named.ckpt")
    assert torch.load(named, weights_only=True)["global_step"] == 4
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    args.append(f"--ckpt_path={named}")
    code, _ = fit_in_child(args, tmp_path / "none.pt", terminate_at=6)
    assert code == 128 + signal.SIGTERM
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    code, resumed = fit_in_child(args, tmp_path / "resumed.pt")
    assert code == 0
    assert len(resumed.steps) == len(whole.steps) - 7
    assert_same_bits(whole, resumed)
    assert not Path("runs").exists()


def test_what_a_job_finished_is_not_begun_again(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    args = arguments("classifier")
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    assert fit_in_child(args, tmp_path / "first.pt")[0] == 0
    folder = Path("runs/classifier/slurm-17")
    kept = {path: path.read_bytes() for path in folder.rglob("*.c*")}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert in_child(lambda: fit(args)) == 0
    assert capfd.readouterr().err.endswith(
        f"trimtab: {folder} was finished before this job was started again; nothing is done.\n"
    )
    assert kept == {path: path.read_bytes() for path in folder.rglob("*.c*")}
    # a person trains it for longer
    for name in (*IN_A_JOB, "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name)
    more = [*args, f"--ckpt_path={folder}", "--trainer.max_epochs=4"]
    code, longer = fit_in_child(more, tmp_path / "longer.pt")
    assert code == 0
    assert {step["epoch"] for step in longer.steps} == {3}


def test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one(tmp_path, monkeypatch):
    args = [*arguments("classifier"), EVERY, f"--run_folder={tmp_path}"]

    def killed_while_writing() -> None:
        write, calls = torch.save, []

        def save(checkpoint, file, *rest):
            calls.append(file)
            if len(calls) == 4:
                file.write(b"half a checkpoint")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            write(checkpoint, file, *rest)

        monkeypatch.setattr(torch, "save", save)
        fit(args)

    assert in_child(killed_while_writing) == KILLED
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] > 0
    code, resumed = fit_in_child([*args, f"--ckpt_path={path}"], tmp_path / "resumed.pt")
    assert code == 0
    assert resumed is not None
