"""A signal during the whole of a command: exit code, message, what is saved, the job's queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

import trimtab
from framework.command import cli
from framework.runs import preemption, stop_signals
from framework.runs.csv_logger import RunLogger
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET, ROOT
from tests.helpers.slurm import pretend_job, pretend_scontrol

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handled_as_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A suite in the background of a shell, or under nohup, ignores signals."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    torch.set_num_threads(1)
    trimtab.import_configurable_classes()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def kill_oneself(*signals: int) -> None:
    for signum in signals:
        os.kill(os.getpid(), signum)


class Sends(Callback):
    """Sends signals to this process in a hook, the first time or in a step."""

    def __init__(self, hook: str, *signals: int, step: int | None = None) -> None:
        def send(trainer: Any, *rest: Any, **options: Any) -> None:
            if step in (None, trainer.global_step):
                while signals_left:
                    kill_oneself(signals_left.pop(0))

        signals_left = list(signals)
        setattr(self, hook, send)


def run(command: str, folder: Path, *options: str, callbacks: Any = ()) -> int:
    """Return the exit code of a command on the classifier."""
    before = {signum: signal.getsignal(signum) for signum in HANDLED}
    args = [command, *arguments("classifier"), *QUIET, *options]
    try:
        cli.main([*args, f"--run_folder={folder}"], list(callbacks))
    except SystemExit as stop:
        return int(str(stop.code))
    finally:
        assert {signum: signal.getsignal(signum) for signum in HANDLED} == before
    return 0


def trimtab_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("trimtab:")]


@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_validation_batch_end"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_before_training_nothing_is_saved(
    hook: str, signum: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run("fit", tmp_path / "run", callbacks=[Sends(hook, signum)])
    assert code == 128 + signum
    assert trimtab_lines(capfd.readouterr().err) == [
        f"trimtab: stopped by {signum.name} before training began"
    ]
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("command", "hook", "said"),
    [
        ("fit", "on_sanity_check_start", "before training began"),
        ("validate", "on_validation_batch_end", "before the validation was done"),
        ("test", "on_test_batch_end", "before the test was done"),
        ("predict", "on_predict_batch_end", "before the predictions were done"),
    ],
)
def test_outside_of_training_a_job_is_queued_again_and_nothing_is_saved(
    command: str,
    hook: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pretend_job(monkeypatch, SLURM_ARRAY_JOB_ID="10", SLURM_ARRAY_TASK_ID="2", SLURM_JOB_ID="12")
    calls = pretend_scontrol(monkeypatch, tmp_path / "bin")
    # what the scheduler sends when it takes the job back changes nothing
    sends = Sends(hook, signal.SIGUSR1, signal.SIGTERM)
    assert run(command, tmp_path / "run", callbacks=[sends]) == 128 + signal.SIGUSR1
    assert calls.read_text() == "requeue 10_2\n"
    line = f"trimtab: stopped by SIGUSR1 {said}; job 10_2 is queued again and goes on by itself"
    assert line in trimtab_lines(capfd.readouterr().err)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("command", "hook"),
    [
        ("fit", "on_train_end"),
        ("fit", "on_fit_end"),
        ("test", "teardown"),
        ("validate", "teardown"),
        ("predict", "teardown"),
    ],
)
def test_what_is_done_ends_as_usual(
    command: str, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_job(monkeypatch)
    calls = pretend_scontrol(monkeypatch, tmp_path / "bin")
    sends = Sends(hook, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)
    assert run(command, tmp_path / "run", callbacks=[sends]) == 0
    assert calls.read_text() == ""


def in_training(*signals: int) -> list[Callback]:
    return [Sends("on_train_batch_start", *signals, step=2)]


@pytest.mark.parametrize(
    ("options", "signals", "code", "is_queued"),
    [
        ([], [signal.SIGUSR1], 138, True),
        # the job is queued again whatever comes after
        ([], [signal.SIGUSR1, signal.SIGTERM], 138, True),
        ([], [signal.SIGTERM], 143, False),
        ([], [signal.SIGUSR2], 140, False),
        (["--preemption.requeue=false"], [signal.SIGUSR1], 138, False),
        (["--preemption.requeue_signal=SIGUSR2"], [signal.SIGUSR2], 140, True),
        (["--preemption.requeue_signal=SIGALRM"], [signal.SIGALRM], 142, True),
    ],
)
def test_the_signal_that_queues_a_job_again(
    options: list[str],
    signals: list[int],
    code: int,
    is_queued: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pretend_job(monkeypatch)
    calls = pretend_scontrol(monkeypatch, tmp_path / "bin")
    folder = tmp_path / "a run"
    assert run("fit", folder, *options, callbacks=in_training(*signals)) == code
    assert calls.read_text() == "requeue 17\n" * is_queued
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    again = "; job 17 is queued again and goes on by itself" * is_queued
    assert caplog.messages == [
        f"trimtab: stopped by {signal.Signals(code - 128).name} after step 3{again}; continue "
        f"with trimtab fit --ckpt_path '{last}'"
    ]


def test_loggers_end_before_the_job_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM kills the job at once then, and with it the process by which W&B writes."""
    pretend_job(monkeypatch)
    calls = pretend_scontrol(monkeypatch, tmp_path / "bin")

    end = RunLogger.finalize

    def finalize(logger: RunLogger, status: str) -> None:
        end(logger, status)
        with calls.open("a") as file:
            file.write(f"{status}\n")

    monkeypatch.setattr(RunLogger, "finalize", finalize)
    assert run("fit", tmp_path / "run", callbacks=in_training(signal.SIGUSR1)) == 138
    assert calls.read_text().startswith("failed\nrequeue 17\n")


@pytest.mark.parametrize(
    ("arguments", "signum", "is_queued"),
    [
        ("auto_requeue: false", signal.SIGUSR1, False),
        ("requeue_signal: SIGUSR2", signal.SIGUSR2, True),
    ],
)
def test_the_settings_of_lightning_count(
    arguments: str,
    signum: int,
    is_queued: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_job(monkeypatch)
    calls = pretend_scontrol(monkeypatch, tmp_path / "bin")
    config = tmp_path / "slurm.yaml"
    config.write_text(
        "trainer:\n  plugins:\n  - class_path: lightning.pytorch.plugins.environments."
        f"SLURMEnvironment\n    init_args:\n      {arguments}\n"
    )
    options = [f"--config={config}"]
    assert run("fit", tmp_path / "run", *options, callbacks=in_training(signum)) == 128 + signum
    assert calls.read_text() == "requeue 17\n" * is_queued
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Job is not allowed to be requeued' >&2; exit 1", "scontrol: Job is not allowed"),
        (None, "No such file or directory"),
    ],
)
def test_a_job_that_cannot_be_queued_again_has_saved(
    script: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pretend_job(monkeypatch)
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        pretend_scontrol(monkeypatch, tmp_path / "bin", script)
    assert run("fit", tmp_path / "run", callbacks=in_training(signal.SIGUSR1)) == 138
    (message,) = caplog.messages
    assert "job 17 was not queued again (" in message
    assert said in message
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


class DiesOfTheSignal(CSVLogger):
    """Has a service that the signal ends too."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step is not None and step >= 2:
            raise ConnectionResetError("Connection lost")

    def finalize(self, status: str) -> None:
        raise ConnectionResetError("Connection lost")


@pytest.mark.parametrize("comes_later", [False, True])
def test_a_logger_that_dies_of_the_signal_changes_nothing(
    comes_later: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    preemption._say_lost.cache_clear()
    choose = cli.TrimtabCLI._loggers
    dying = DiesOfTheSignal(str(tmp_path / "log"))
    monkeypatch.setattr(cli.TrimtabCLI, "_loggers", lambda *args: [*choose(*args), dying])
    callbacks = [] if comes_later else in_training(signal.SIGTERM)
    # it reaches this process a moment after the other
    monkeypatch.setattr(preemption.time, "sleep", lambda _: kill_oneself(signal.SIGTERM))
    options = ["--trainer.log_every_n_steps=1", "--trainer.limit_train_batches=20"]
    assert run("fit", tmp_path / "run", *options, callbacks=callbacks) == 143
    lost, stopped = caplog.messages
    assert lost == (
        "trimtab: a logger ended with the signal and lost what came after: Connection lost"
    )
    assert stopped.startswith("trimtab: stopped by SIGTERM after step ")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_signals_before_the_settings_are_known(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, stop_signals.taken_signals():
        kill_oneself(signal.SIGUSR1, signal.SIGTERM)
    # whether the other one queues the job again is a setting
    assert stop.value.code == 143
    assert capfd.readouterr().err == "trimtab: stopped by SIGTERM before it began\n"


SERVICE_ENDED = """
import atexit, os, signal
from framework.runs.stop_signals import taken_signals

def fails(*_):
    raise ConnectionResetError("Connection lost")

class Logger:
    __del__ = fails

logger = Logger()
atexit.register(fails)
with taken_signals(is_program=PROGRAM):
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("is_program", [True, False])
def test_the_last_line_is_the_commands_own(is_program: bool) -> None:
    """A logger such as W&B fails as Python ends, as its service was stopped by the signal, too."""
    script = SERVICE_ENDED.replace("PROGRAM", str(is_program))
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 143
    said = "trimtab: stopped by SIGTERM before it began\n"
    assert (ended.stderr == said) == is_program
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("Connection lost") == (0 if is_program else 2)


def test_a_signal_waits_for_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_job(monkeypatch)
    calls = pretend_scontrol(monkeypatch, tmp_path / "bin")
    with stop_signals.taken_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert run("fit", tmp_path / "run") == 138
    assert calls.read_text() == "requeue 17\n"
    assert not (tmp_path / "run").exists()


def test_other_ranks_stop_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit) as stop, stop_signals.taken_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 143
    assert capfd.readouterr().err == ""


def test_a_thread_takes_no_signals() -> None:
    seen = []
    before = signal.getsignal(signal.SIGTERM)

    def look() -> None:
        with stop_signals.taken_signals():
            seen.append((stop_signals.command_signals(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
            [],
            "SLURM started 2 task(s) on 1 node(s), but the Trainer has 1 rank(s) (devices x "
            "num_nodes): set --trainer.devices 2 --trainer.num_nodes 1, and --trainer.strategy "
            "ddp where there are several.",
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": ""},
            [],
            "The job has 2 tasks (--ntasks), and Lightning is to be told how many on each node: "
            "say --ntasks-per-node, and the number of nodes by --nodes.",
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": ""},
            ["--trainer.devices=2", "--trainer.strategy=ddp"],
            "The Trainer has 2 ranks, but in this SLURM job the command was started once and "
            "would wait for the others: put srun before it.",
        ),
    ],
)
def test_tasks_that_are_not_the_ranks_are_refused(
    changed: dict[str, str],
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pretend_job(monkeypatch, **changed)
    for name, value in changed.items():
        if not value:
            monkeypatch.delenv(name)
    args = ["fit", *arguments("classifier"), *QUIET, *options, f"--run_folder={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as stop:
        trimtab.main(args)
    assert stop.value.code == 1
    assert trimtab_lines(capfd.readouterr().err) == [f"trimtab: {said}"]
    assert not (tmp_path / "run").exists()


class Fails(Callback):
    """Raises an error in the third step."""

    def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 2:
            raise ValueError("Something is wrong.")


@pytest.mark.parametrize("saves", [True, False])
def test_an_error_in_training_is_followed_by_how_to_go_on(
    saves: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--last_checkpoint.every_n_train_steps=1"] if saves else []
    assert run("fit", tmp_path / "a run", *options, callbacks=[Fails()]) == 1
    last = tmp_path / "a run" / "checkpoints" / "last.ckpt"
    assert trimtab_lines(capfd.readouterr().err) == [
        "trimtab: Something is wrong.",
        *[f"trimtab: continue with trimtab fit --ckpt_path '{last}'"] * saves,
    ]
