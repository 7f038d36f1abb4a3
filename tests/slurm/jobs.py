"""Submits the examples to SLURM, and says what became of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.helpers.runs import ROOT, differences
from tests.slurm import cluster

EXAMPLES = ROOT / "examples" / "slurm"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
PATIENCE = 240
TINY: dict[str, Any] = {
    "model": {"init_args": {"widths": [4]}},
    "trainer": {"accelerator": "cpu", "max_epochs": 4, "limit_train_batches": 5},
    "data": {"init_args": {"batch_size": 16}},
}
"""20 steps of a small network."""


def slurm(*command: str) -> str:
    """Return what one of SLURM's commands says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    assert cluster.wait_for(condition, seconds), "it did not come to that"


@dataclass
class Job:
    """A job of SLURM, or one task of an array."""

    name: str
    place: Place

    @property
    def fields(self) -> dict[str, str]:
        """What `scontrol show job` says."""
        said = slurm("scontrol", "show", "job", "--oneliner", self.name)
        return dict(re.findall(r"(\w+)=(\S*)", said.splitlines()[0]))

    @property
    def state(self) -> str:
        return self.fields["JobState"]

    @property
    def exit_code(self) -> int:
        return int(self.fields["ExitCode"].partition(":")[0])

    @property
    def restarts(self) -> int:
        return int(self.fields["Restarts"])

    @property
    def log(self) -> str:
        return Path(self.fields["StdOut"]).read_text()

    @property
    def folder(self) -> Path:
        return self.place.path / "runs" / "classifier" / f"slurm-{self.name}"

    def end(self, seconds: float = PATIENCE) -> Job:
        """Wait for the job's end, and let it start again at once where it was queued again."""
        deadline = time.monotonic() + seconds
        while (fields := self.fields)["JobState"] not in ENDED:
            if fields["JobState"] == "PENDING" and fields["Reason"] == "BeginTime":
                self.start_now()
            assert time.monotonic() < deadline, (
                f"{fields['JobState']} {fields['Reason']} {self.log}"
            )
            time.sleep(0.5)
        return self

    def start_now(self) -> None:
        command = ("scontrol", "update", f"JobId={self.name}", "StartTime=now")
        # it may have started just now
        subprocess.run(command, capture_output=True, check=False)

    def signal(self, name: str) -> None:
        """Send what `--signal` does, to every process of the steps."""
        slurm("scancel", f"--signal={name}", self.name)


@dataclass
class Place:
    """A working directory from which jobs are submitted, and in which their runs can be held."""

    path: Path

    def submit(self, example: str | Path, *args: str, sbatch: tuple[str, ...] = ()) -> Job:
        """Submit a file of the examples, or another, with the small sizes.

        Args:
            example: Name in ``examples/slurm``, or a path.
            *args: Arguments of the file.
            sbatch: Options of sbatch.
        """
        path = example if isinstance(example, Path) else EXAMPLES / f"{example}.sbatch"
        said = slurm(
            "sbatch",
            "--parsable",
            f"--chdir={self.path}",
            f"--export=ALL,{self.environment()}",
            *sbatch,
            str(path),
            *args,
        )
        return Job(said.strip().partition(";")[0], self)

    def environment(self) -> str:
        """Set what every job finds: the checkout's command, one thread, the waiting allowed."""
        commands = self.path / "bin"
        commands.mkdir(exist_ok=True)
        for name, module in (("trimtab", "trimtab"), ("torchrun", "torch.distributed.run")):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            script.chmod(0o755)
        return ",".join(
            (
                f"PATH={commands}:{os.environ['PATH']}",
                f"PYTHONPATH={ROOT}",
                "OMP_NUM_THREADS=1",
                "TRIMTAB_ALLOW=tests",
            )
        )

    def script(self, text: str) -> Path:
        """Write a batch script."""
        path = self.path / "job.sbatch"
        path.write_text(f"#!/bin/bash\n{text}")
        return path

    def config(self, name: str = "tiny.yaml", **waiting: Any) -> list[str]:
        """Write the small sizes as an overlay; return the arguments that lay it over the config.

        Args:
            name: Name of its file.
            **waiting: Arguments of ``Waiting``, where the run is to be held.
        """
        content = {section: dict(values) for section, values in TINY.items()}
        if waiting:
            content["trainer"]["callbacks+"] = [
                {
                    "class_path": "tests.slurm.waiting.Waiting",
                    "init_args": {"folder": str(self.path), **waiting},
                }
            ]
        path = self.path / name
        path.write_text(yaml.safe_dump(content))
        return ["--config", str(path)]

    def wait_until_held(self, ranks: int = 1, task: str = "") -> None:
        """Wait until the run has come to the place of ``Waiting``."""
        names = [self.path / f"waiting{task}.{rank}" for rank in range(ranks)]
        wait_for(lambda: all(name.exists() for name in names))

    def let_go(self, task: str = "") -> None:
        (self.path / f"go{task}").touch()


def state(folder: Path, name: str = "last") -> dict[str, Any]:
    """Return what a run's checkpoint says of model, optimizer, schedule and generators."""
    path = folder / "checkpoints" / f"{name}.ckpt"
    content = torch.load(path, weights_only=True)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "rng")
    return {name: content[name] for name in names}


def assert_same_bits(folder: Path, whole: Path) -> None:
    """Compare how two runs ended, and every number that they have logged."""
    assert differences(state(folder), state(whole)) == []
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
