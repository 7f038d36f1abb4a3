"""What stands in for ``torch.cuda``, ``torch.accelerator`` and ``torch.Generator``."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import torch

from tests.pretended_gpu.marks import CPU
from tests.pretended_gpu.state import PretendedGPU, current, is_active

TOTAL_MEMORY = 80 * 10**9


class Generator(torch._C.Generator):
    """A generator that may be on a pretended device, which draws other numbers."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made._device = current().device(device) or CPU  # type: ignore[attr-defined]
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it is."""
        return self._device  # type: ignore[attr-defined]


class Autocast(torch.autocast):
    """Autocast of the device acts on the CPU's kernels; that of the CPU touches nothing."""

    def __init__(
        self,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if device_type == "cpu":
            dtype, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")
        elif dtype is None:
            dtype = torch.float16 if enabled else torch.bfloat16
        super().__init__("cpu", dtype, enabled, cache_enabled)


class Stream:
    """A stream or an event: all of the device's work is done at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda", current().index if is_active() else 0)

    def synchronize(self) -> None:
        """Wait for what was launched before."""
        current().note("wait", "synchronize")

    def is_capturing(self) -> bool:
        """Return whether it is being captured as a graph."""
        return False

    def query(self) -> bool:
        """Return whether all of its work is done."""
        return True

    def elapsed_time(self, end: Stream) -> float:
        """Return milliseconds, which nobody knows."""
        return 0.0

    def record(self, stream: Any = None) -> None:
        """Do nothing."""

    def record_event(self, event: Any = None) -> Any:
        """Return an event that has happened."""
        return event or Stream()

    def wait(self, stream: Any = None) -> None:
        """Do nothing."""

    def wait_event(self, event: Any) -> None:
        """Do nothing."""

    def wait_stream(self, stream: Any) -> None:
        """Do nothing."""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        return


class DeviceGuard(contextlib.nullcontext):
    """A class, as ``torch.cuda.device`` is one that others ask for by ``isinstance``."""


def functions(gpu: PretendedGPU) -> dict[str, Any]:
    """Return what stands in for functions and classes of ``torch.cuda``, by name."""
    return {**_of_devices(gpu), **_of_memory(gpu), **_of_randomness(gpu), **_of_streams(gpu)}


def _of_devices(gpu: PretendedGPU) -> dict[str, Any]:
    def set_device(device: Any) -> None:
        found = gpu.device(device)
        if found is not None:
            if found.index >= gpu.count:
                gpu.fault("CUDA error: invalid device ordinal")
            gpu.index = found.index

    properties = SimpleNamespace(
        name="Pretended GPU",
        total_memory=TOTAL_MEMORY,
        multi_processor_count=132,
        major=9,
        minor=0,
        L2_cache_size=50 << 20,
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: gpu.count,
        "current_device": lambda: gpu.index,
        "set_device": set_device,
        "device": DeviceGuard,
        "device_of": DeviceGuard,
        "get_device_name": lambda device=None: properties.name,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: True,
    }


def _of_memory(gpu: PretendedGPU) -> dict[str, Any]:
    memory = gpu.memory

    def reset_peak_memory_stats(device: Any = None) -> None:
        memory.peak = memory.allocated

    return {
        "mem_get_info": lambda device=None: (TOTAL_MEMORY - memory.allocated, TOTAL_MEMORY),
        "memory_allocated": lambda device=None: memory.allocated,
        "max_memory_allocated": lambda device=None: memory.peak,
        "memory_reserved": lambda device=None: memory.allocated,
        "max_memory_reserved": lambda device=None: memory.peak,
        "reset_peak_memory_stats": reset_peak_memory_stats,
        "memory_stats": lambda device=None: {},
        "empty_cache": lambda: None,
    }


def _of_randomness(gpu: PretendedGPU) -> dict[str, Any]:
    generator = gpu.generator
    return {
        "manual_seed": lambda seed: generator.manual_seed(seed),
        "manual_seed_all": lambda seed: generator.manual_seed(seed),
        "initial_seed": generator.initial_seed,
        "get_rng_state": lambda device="cuda": generator.get_state(),
        "get_rng_state_all": lambda: [generator.get_state() for _ in range(gpu.count)],
        "set_rng_state": lambda new_state, device="cuda": generator.set_state(new_state),
        "set_rng_state_all": lambda new_states: generator.set_state(list(new_states)[gpu.index]),
    }


def _of_streams(gpu: PretendedGPU) -> dict[str, Any]:
    return {
        "synchronize": lambda device=None: gpu.note("wait", "torch.cuda.synchronize"),
        "Stream": Stream,
        "Event": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "is_current_stream_capturing": lambda: False,
    }


def accelerator(gpu: PretendedGPU) -> dict[str, Any]:
    """Return what stands in for functions of ``torch.accelerator``, by name."""
    return {
        "is_available": lambda: True,
        "device_count": lambda: gpu.count,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: gpu.index,
        "set_device_index": lambda device: None,
        "current_stream": lambda device=None: Stream(),
        "synchronize": lambda device=None: gpu.note("wait", "torch.accelerator.synchronize"),
    }
