"""How fits are started: their environment, their GPUs, their ranks, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from framework.tuning import launcher
from framework.tuning.child import ChildProcess, end, reason_of_failure
from framework.tuning.launcher import SlurmLauncher, SubprocessLauncher, gpu_shares, visible_gpus

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def python(code: str, folder: Path) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code], os.environ, folder / "output.txt")


def wait(child: ChildProcess) -> int:
    child.process.wait(30)
    return child.poll()


def test_the_output_and_the_code_of_a_fit(tmp_path):
    child = python(
        "import sys; print('out'); print('trimtab: no.', file=sys.stderr); sys.exit(3)", tmp_path
    )
    assert wait(child) == 3
    assert reason_of_failure(3, tmp_path / "output.txt") == "no."


@pytest.mark.parametrize("ignores", [False, True])
def test_a_fit_is_asked_to_stop_and_then_ended(ignores, tmp_path):
    ignore = "import signal; signal.signal(15, signal.SIG_IGN); " if ignores else ""
    child = python(f"{ignore}print(1, flush=True); import time; time.sleep(60)", tmp_path)
    while not (tmp_path / "output.txt").read_text():
        time.sleep(0.01)
    end([child], patience=0.2)
    assert child.poll() == (-signal.SIGKILL if ignores else -signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_no_fit_outlives_a_search_that_is_killed(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from framework.tuning.child import ChildProcess\n"
        f"child = ChildProcess({SLEEPS!r}, os.environ, Path('out'))\n"
        "print(child.process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_fits_at_the_same_time_have_other_gpus(monkeypatch, tmp_path):
    code = (
        "import os, time; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(launcher, "fit_command", lambda arguments: [sys.executable, "-c", code])
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    start = SubprocessLauncher(["0,1", "2,3"])
    outputs = [tmp_path / f"{number}.txt" for number in range(3)]
    children = [start([], {}, output) for output in outputs[:2]]
    for output in outputs[:2]:
        while not output.read_text():
            time.sleep(0.01)
    children[0].kill()
    children.append(start([], {}, outputs[2]))
    while not outputs[2].read_text():
        time.sleep(0.01)
    end(children)
    assert [output.read_text().strip() for output in outputs] == ["0,1", "2,3", "0,1"]


def test_shares_of_gpus():
    four = ["0", "1", "2", "3"]
    assert gpu_shares(1, {"devices": 2}, four) == []
    assert gpu_shares(4, {"devices": 1}, []) == []
    assert gpu_shares(4, {"devices": 1, "accelerator": "cpu"}, four) == []
    assert gpu_shares(2, {"devices": [0, 1]}, four) == []
    assert gpu_shares(2, {"devices": -1}, four) == ["0,1", "2,3"]
    assert gpu_shares(3, {"devices": 2}, four) == ["0,1", "2,3", "0,1"]


def test_the_gpus_that_there_are(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-1f")
    assert visible_gpus() == ["4", "GPU-1f"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert visible_gpus() == []


def test_srun_starts_the_ranks_of_the_config(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    base = {"trainer": {"devices": 4, "num_nodes": 2}}
    start = SlurmLauncher.of("digits", base, {"partition": "gpu", "gres": "gpu:4"})
    command = start.command(["--config=a"], Path("trials/0012/output.txt"))
    assert command[:7] == [
        "srun",
        "--job-name=digits-0012",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--ntasks=8",
        "--kill-on-bad-exit=1",
        "--unbuffered",
    ]
    assert command[7:9] == ["--gres=gpu:4", "--partition=gpu"]
    assert command[9:] == [sys.executable, "-m", "trimtab", "fit", "--config=a"]
    # in a job it is a step of the job
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert "--exact" in start.command([], Path("trials/0012/output.txt"))


@pytest.mark.parametrize("devices", ["auto", -1])
def test_slurm_is_told_a_number_of_ranks(devices):
    with pytest.raises(ValueError, match=r"give --trainer.devices N"):
        SlurmLauncher.of("digits", {"trainer": {"devices": devices}}, {})
    alone = SlurmLauncher.of("digits", {"trainer": {"devices": "auto", "accelerator": "cpu"}}, {})
    assert (alone.nodes, alone.tasks_per_node) == (1, 1)
