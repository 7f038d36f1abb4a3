"""How a fit of a study is started: as a process of this machine, or as a job of SLURM."""

from __future__ import annotations

import os
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
    """Starts each fit as a process of this machine, which may start ranks of its own."""

    def __call__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> Child:
        """Start a fit."""
        kept = {name: value for name, value in os.environ.items() if name not in _OWN}
        return ChildProcess(fit_command(arguments), kept | dict(variables), output)


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
