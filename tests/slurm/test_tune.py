"""Trials as jobs of SLURM: their ranks, their ends, and what a search that is stopped leaves."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.helpers.runs import ROOT
from tests.slurm.jobs import Place, slurm, wait_for

LR = "{type: float, low: 1e-4, high: 0.1, log: true}"


def start(place: Place, *args: str) -> subprocess.Popen[bytes]:
    """Start a search that gives each trial to SLURM."""
    settings = [
        "--config=classifier",
        *place.config(),
        f"--tune.space.model.optimizer.lr={LR}",
        "--tune.metric=val/accuracy",
        "--tune.mode=max",
        "--tune.sampler=random",
        "--tune.launcher=slurm",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "trimtab", "tune", *settings, *args],
        cwd=place.path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_trials_of_two_ranks_are_jobs(place: Place) -> None:
    process = start(
        place,
        "--tune.trials=2",
        "--tune.jobs=2",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--tune.name=pair",
    )
    said = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, said
    folder = place.path / "runs" / "tune" / "pair"
    assert [row["state"] for row in rows(folder)] == ["complete"] * 2
    jobs = set()
    for trial in sorted((folder / "trials").iterdir()):
        assert "2 ranks" in (trial / "output.txt").read_text()
        jobs.add(json.loads((trial / ".run.json").read_text())["job"])
    assert len(jobs) == 2
    assert all(job.startswith("slurm-") for job in jobs)


def test_a_search_that_is_stopped_leaves_no_job(place: Place) -> None:
    args = ("--tune.trials=1", "--tune.name=stopped", "--trainer.max_epochs=500")
    process = start(place, *args, "--trainer.limit_train_batches=1.0")
    trial = place.path / "runs" / "tune" / "stopped" / "trials" / "0000"
    wait_for((trial / "reports.jsonl").exists)
    job = json.loads((trial / ".run.json").read_text())["job"].removeprefix("slurm-")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=180)[0].decode()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on with the study" in said
    wait_for(lambda: job not in slurm("squeue", "--noheader", "--format=%i").split())
