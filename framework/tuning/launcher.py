"""How a fit of a study is started: as a process of this machine, or as a job of SLURM."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from framework.tuning.child import Child, ChildProcess

# what this process is to its own launcher, its fits are not
_OWN = ("PL_GLOBAL_SEED", "TRIMTAB_RUN_FOLDER", "LOCAL_RANK", "RANK", "WORLD_SIZE")
_OF_STEP = ("SLURM_CPU_BIND", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE")


class Launcher(Protocol):
    """Starts the fit of one trial, or that of the best config."""

    def __call__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> Child:
        """Start ``trimtab fit`` with arguments.

        Args:
            arguments: Arguments after ``fit``.
            variables: Environment variables that are added.
            output: File for what it prints.
        """


def fit_command(arguments: Sequence[str]) -> list[str]:
    """Return the program of a fit, with the Python that runs this process."""
    return [sys.executable, "-m", "trimtab", "fit", *arguments]


class SubprocessLauncher:
    """Starts each fit as a process of this machine, which may start ranks of its own.

    Args:
        shares: Values of ``CUDA_VISIBLE_DEVICES``, one for each fit that runs at the same time;
            none leaves every fit all GPUs.
    """

    def __init__(self, shares: Sequence[str] = ()) -> None:
        self.shares = list(shares)
        self._holders: list[Child | None] = [None] * len(self.shares)

    def __call__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> Child:
        """Start a fit, with the first GPUs that no fit holds."""
        kept = {name: value for name, value in os.environ.items() if name not in _OWN}
        given = {**kept, **variables}
        free = [n for n, one in enumerate(self._holders) if one is None or one.poll() is not None]
        if free:
            given["CUDA_VISIBLE_DEVICES"] = self.shares[free[0]]
        child = ChildProcess(fit_command(arguments), given, output)
        if free:
            self._holders[free[0]] = child
        return child


def gpu_shares(jobs: int, trainer: Mapping[str, Any], visible: Sequence[str]) -> list[str]:
    """Return which GPUs each of several fits has that run at the same time.

    Args:
        jobs: Number of such fits.
        trainer: Section ``trainer`` of the fit's config.
        visible: Names of the GPUs that there are.

    Returns:
        A value of ``CUDA_VISIBLE_DEVICES`` for each; none where nothing is to be shared.

    Example:
        >>> gpu_shares(2, {"devices": 2}, ["0", "1", "2", "3"])
        ['0,1', '2,3']
        >>> gpu_shares(3, {"devices": "auto"}, ["0", "1"])
        ['0', '1', '0']
    """
    devices = trainer.get("devices", "auto")
    if jobs == 1 or not visible or trainer.get("accelerator") == "cpu":
        return []
    if isinstance(devices, list):
        # the config says which
        return []
    count = int(devices) if str(devices).isdecimal() else max(1, len(visible) // jobs)
    count = min(count, len(visible))
    return [
        ",".join(visible[(job * count + number) % len(visible)] for number in range(count))
        for job in range(jobs)
    ]


def visible_gpus() -> list[str]:
    """Return the names of this machine's GPUs, by no library that would take one of them."""
    if (said := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in said.split(",") if name.strip()]
    try:
        done = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))] if done.returncode == 0 else []


class SlurmLauncher:
    """Starts each fit by ``srun``: a job of its own, or a step of the job that this process is.

    Args:
        name: Name of the study, which the jobs are called by.
        nodes: Nodes of a fit.
        tasks_per_node: Ranks on each node.
        options: Options of ``srun``, such as ``{"partition": "gpu"}``.
    """

    def __init__(
        self, name: str, nodes: int = 1, tasks_per_node: int = 1, options: Mapping[str, str] = {}
    ) -> None:
        self.name = name
        self.nodes = nodes
        self.tasks_per_node = tasks_per_node
        self.options = dict(options)

    @classmethod
    def of(cls, name: str, base: Mapping[str, Any], options: Mapping[str, str]) -> SlurmLauncher:
        """Return the launcher that gives each fit the ranks that its config asks for.

        Args:
            name: Name of the study.
            base: Whole config of the fit.
            options: Options of ``srun``.

        Raises:
            ValueError: The config leaves the number of devices to the machine.
        """
        trainer = base.get("trainer", {})
        devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
        if isinstance(devices, list):
            devices = len(devices)
        if devices in ("auto", None) and trainer.get("accelerator") == "cpu":
            devices = 1
        if not str(devices).isdecimal() or not int(devices):
            raise ValueError(
                f"trainer.devices is {devices!r}, and SLURM is to be told how many ranks a trial "
                "has: give --trainer.devices N."
            )
        return cls(name, int(nodes), int(devices), options)

    def command(self, arguments: Sequence[str], output: Path) -> list[str]:
        """Return the call of ``srun``.

        Args:
            arguments: Arguments of the fit.
            output: File for what it prints, by whose folder the job is called.

        Example:
            >>> launcher = SlurmLauncher("digits", options={"partition": "gpu"})
            >>> launcher.command([], Path("trials/0003/output.txt"))[1:5]
            ['--job-name=digits-0003', '--nodes=1', '--ntasks-per-node=1', '--ntasks=1']
        """
        return [
            "srun",
            f"--job-name={self.name}-{output.parent.name}",
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={self.tasks_per_node}",
            f"--ntasks={self.nodes * self.tasks_per_node}",
            "--kill-on-bad-exit=1",
            "--unbuffered",
            *(f"--{key}={value}" for key, value in sorted(self.options.items())),
            *(("--exact",) if "SLURM_JOB_ID" in os.environ else ()),
            *fit_command(arguments),
        ]

    def __call__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> Child:
        """Start a fit."""
        dropped = (*_OWN, *_OF_STEP)
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return ChildProcess(self.command(arguments, output), kept | dict(variables), output)
