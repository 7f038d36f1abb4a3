"""The pretended device: what is under way, what was noted, and how it refuses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tests.pretended_gpu.events import Recorder
from tests.pretended_gpu.marks import Memory, device_of, flat_tensors
from tests.pretended_gpu.rules import FACTORIES


class CudaError(RuntimeError):
    """What CUDA or NCCL would have raised."""


@dataclass
class Call:
    """A call from Python that is under way.

    Args:
        name: Name of the function.
        values: Arguments, in which tensors are looked for.
        device: Where the caller says that the result should be; None if it does not say.
        generator: Generator that the caller gives.
    """

    name: str
    values: tuple[Any, ...]
    device: torch.device | None = None
    generator: Any = None

    def device_of_result(self) -> torch.device | None:
        """Return where a tensor is made that C++ makes inside this call."""
        if self.device is not None:
            return self.device
        if self.name in FACTORIES:
            return None
        return next((d for d in map(device_of, flat_tensors(self.values)) if d), None)


class _UnderWay(threading.local):
    """Calls and copies that are under way in a thread."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.targets: list[torch.device] = []


class PretendedGPU(Recorder):
    """The devices of a process that pretends to have some; ``pretended_gpu`` makes one.

    Args:
        project: Folder below which files count as the project's.
        index: Which device is this process's.
        count: How many there are.
        on_fault: Whether to raise what CUDA would, or to note it and go on.
    """

    def __init__(
        self, project: Path, index: int, count: int, on_fault: Literal["raise", "note"]
    ) -> None:
        super().__init__(project)
        self.index = index
        self.count = count
        self.on_fault = on_fault
        self.lines_of_launches = False
        """Whether to note the line of every launch, which is slow."""
        self.memory = Memory()
        self.generator = torch._C.Generator()
        """The device's, seeded apart from the CPU's."""
        self._under_way = _UnderWay()

    @property
    def calls(self) -> list[Call]:
        """Calls from Python that are under way in this thread, innermost last."""
        return self._under_way.calls

    @property
    def call(self) -> Call | None:
        """The innermost call from Python that is under way in this thread."""
        return self.calls[-1] if self.calls else None

    @property
    def is_internal(self) -> bool:
        """Whether C++ acts by itself, as in a backward pass, where nobody mixes up tensors."""
        return self.call is None or self.call.name == "backward"

    @property
    def targets(self) -> list[torch.device]:
        """Devices to which tensors are being copied in this thread, innermost last."""
        return self._under_way.targets

    def note_launch(self, name: str) -> None:
        """Count an operation of the device."""
        self.log.launches[*self.here, name] += 1
        if self.lines_of_launches:
            self.note("launch", name)

    def fault(self, message: str, error: type[Exception] = CudaError) -> None:
        """Raise what CUDA would, or note it."""
        self.note("fault", message)
        if self.on_fault == "raise":
            raise error(message)

    def device(self, given: Any) -> torch.device | None:
        """Return the pretended device that an argument means, None for any other."""
        if given is None or isinstance(given, bool):
            return None
        if isinstance(given, int):
            return torch.device("cuda", given)
        device = torch.device(given)
        if device.type != "cuda":
            return None
        return device if device.index is not None else torch.device("cuda", self.index)


_active: list[PretendedGPU] = []


def current() -> PretendedGPU:
    """Return the device inside whose block this is called."""
    return _active[-1]


def is_active() -> bool:
    """Return whether there is a pretended device now."""
    return bool(_active)


@contextlib.contextmanager
def active(gpu: PretendedGPU) -> Iterator[None]:
    """Let a device be the current one inside the block."""
    _active.append(gpu)
    try:
        yield
    finally:
        _active.pop()
