"""What happened on the pretended device, and at which lines."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

Kind = Literal["wait", "fault", "unordered", "float64", "copy", "unpinned", "launch", "collective"]
"""What is noted.

``wait``: the host waits for the device; ``fault``: CUDA or NCCL would raise; ``unordered``: a sum
in no fixed order; ``float64``: an operation on doubles; ``copy``: one between host and device;
``unpinned``: a copy that does not wait, from memory that is not pinned; ``launch``: any operation,
where asked for; ``collective``: of several ranks.
"""

# from where everything is called, which names no place
_ENTRIES = (
    "benchmarks/gpu.py",
    "framework/command/",
    "framework/utilities/lightning_internals.py",
    "tests/helpers/",
    "trimtab.py",
)
_HERE = "tests/pretended_gpu/"
_LINES = 3
SET_UP = "set-up"


@dataclass(frozen=True)
class Event:
    """Something that happened on the device.

    Args:
        kind: What kind of thing.
        what: The operation, or the message of a fault.
        where: Lines, innermost first: of a library in ``<>``, if it is below the project's, then of
            the project; before them ``(backward of ...)`` in a backward pass.
        phase: What the run was doing.
        step: How often it had begun to do so.
        count: How many of its kind these are.
        size: Bytes or elements, for a copy, a collective and float64.
    """

    kind: Kind
    what: str
    where: tuple[str, ...]
    phase: str
    step: int
    count: int = 1
    size: int = 0


@dataclass
class Log:
    """All events, and how often every operation was launched."""

    events: list[Event] = field(default_factory=list)
    entered: Counter[str] = field(default_factory=Counter)
    """How often each phase was entered."""
    launches: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """By phase, how often that had been entered, and operation."""

    def of(self, kind: Kind, phase: str | None = None) -> list[Event]:
        """Return the events of a kind, of one phase or all."""
        return [e for e in self.events if e.kind == kind and phase in (None, e.phase)]

    def count(self, kind: Kind, phase: str | None = None) -> int:
        """Return how many of a kind there were."""
        return sum(event.count for event in self.of(kind, phase))


class Recorder:
    """Notes what happens, in which phase of a run and at which line.

    Args:
        project: Folder below which files count as the project's.
    """

    def __init__(self, project: Path) -> None:
        self.project = project.resolve()
        self.log = Log()
        self._phases = [SET_UP]

    @property
    def here(self) -> tuple[str, int]:
        """The phase, and how often it was entered."""
        return self._phases[-1], self.log.entered[self._phases[-1]]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say what the run is doing inside the block."""
        self._phases.append(name)
        self.log.entered[name] += 1
        try:
            yield
        finally:
            self._phases.pop()

    def note(self, kind: Kind, what: str, count: int = 1, size: int = 0) -> None:
        """Add an event at the line that is under way."""
        event = Event(kind, what, place(self.project), *self.here, count, size)
        self.log.events.append(event)


def place(project: Path) -> tuple[str, ...]:
    """Return the lines that are under way, innermost first.

    Args:
        project: Files below it are named; of others the innermost line, if no file of the project
            is called by it.
    """
    root = f"{project}/"
    lines: list[str] = []
    library: str | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(lines) < _LINES:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if "site-packages/" in file:
            if library is None and not lines:
                short = file.rpartition("site-packages/")[2]
                if not short.startswith(("torch/", "jsonargparse/")):
                    library = f"<{short}:{frame.f_lineno} {name}>"
        elif file.startswith(root) and not _is_entry(file.removeprefix(root)):
            lines.append(f"{file.removeprefix(root)}:{frame.f_lineno} {name}")
        frame = frame.f_back
    found = lines if library is None else [library, *lines]
    backward = _backward_of(root)
    return tuple(found if backward is None else [backward, *found])


def _is_entry(file: str) -> bool:
    own = file.startswith(_HERE) and not file.removeprefix(_HERE).startswith("test_")
    return own or file.startswith(_ENTRIES)


def _backward_of(root: str) -> str | None:
    """Return which line's backward pass is under way, as far as anomaly detection kept it."""
    node: Any = torch._C._current_autograd_node()
    if node is None:
        return None
    kept: list[str] = node.metadata.get("traceback_", [])
    made = [part.split("\n")[0].strip() for part in kept if root in part]
    return f"(backward of {node.name()}) {made[-1].replace(root, '') if made else '?'}"
