"""How a command ended, when, and on what: the file that a report reads beside the metrics."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from framework.utilities.files import write_text
from framework.utilities.json_files import read_json

NAME = ".executions.json"
"""File of a run folder."""
STATES = ("running", "finished", "stopped", "failed")


@dataclass
class Execution:
    """One execution of a command, or several parts of a fit.

    Args:
        state: One of ``STATES``.
        reason: Why it was stopped or has failed.
        started: Seconds since 1970 at the start of the latest part.
        ended: Seconds since 1970 at its end.
        seconds: Seconds that all parts took.
        parts: Number of starts.
        step: Optimizer steps done.
        epoch: Epochs begun.
        device: Name of the device.
        ranks: Number of processes.
        nodes: Number of machines.
        precision: Precision of the Trainer.
        parameters: Number of parameters of the model.
        host: Machine of rank 0.
        process: Number of that process.
        job: Facts of the job in a queue, by name.
        units: Units of the metrics that have one, by the names of the metrics.
    """

    state: str = ""
    reason: str = ""
    started: float = 0.0
    ended: float = 0.0
    seconds: float = 0.0
    parts: int = 1
    step: int = 0
    epoch: int = 0
    device: str = ""
    ranks: int = 1
    nodes: int = 1
    precision: str = ""
    parameters: int = 0
    host: str = ""
    process: int = 0
    job: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    @property
    def is_gone(self) -> bool:
        """Whether it never said that it ended, and its process on this machine is there no more."""
        if self.state != "running" or self.host != platform.node() or self.process <= 0:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


def read_executions(folder: Path) -> dict[str, Execution]:
    """Return what is known of the commands' executions, by command; nothing in older runs.

    A file that cannot be read, or a value of another kind, is left out.
    """
    try:
        content = read_json(folder / NAME)
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        command: _execution(found)
        for command, found in content.items()
        if command in ("fit", "validate", "test") and isinstance(found, dict)
    }


def write_execution(folder: Path, command: str, execution: Execution) -> None:
    """Write what is known of a command's execution, beside that of the others.

    Raises:
        WriteError: It cannot be written.
    """
    known = {name: asdict(found) for name, found in read_executions(folder).items()}
    text = json.dumps(known | {command: asdict(execution)}, indent=1)
    write_text(folder / NAME, f"{text}\n")


def _execution(content: dict[str, Any]) -> Execution:
    default = Execution()
    kept: dict[str, Any] = {}
    for each in fields(Execution):
        value: Any = content.get(each.name)
        kind = type(getattr(default, each.name))
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            continue
        if kind is dict:
            value = {str(k): str(v) for k, v in value.items()}
        kept[each.name] = value
    if kept.get("state") not in STATES:
        kept.pop("state", None)
    return Execution(**kept)
