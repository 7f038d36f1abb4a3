"""The modes of torch through which a pretended device sees everything.

Below autograd, and in backward passes too, ``OperationMode`` sees every operation: it checks it,
and marks what it returns. ``CallMode`` sees every call from Python: it takes ``device=`` to mean a
mark, and knows to which call an operation belongs, as C++ makes tensors on what it takes for the
CPU. Wrapper subclasses or ``FakeTensorMode`` could not do so without a driver: autograd asks CUDA
for its stream as soon as C++ sees a GPU, and fake tensors hold no numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretended_gpu.checks import check, check_generator, note_float64
from tests.pretended_gpu.copies import note_copies
from tests.pretended_gpu.marks import CPU, WithoutFunctionModes, flat_tensors, mark
from tests.pretended_gpu.operation import Operation, is_composite
from tests.pretended_gpu.rules import COPIES, FROM_PYTHON
from tests.pretended_gpu.state import Call, PretendedGPU


class CallMode(TorchFunctionMode):
    """Takes ``device=`` to mean a mark, and keeps the calls that are under way.

    Args:
        gpu: Device.
    """

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):
            return func(*args, **given)
        call = Call(name, (args, tuple(given.values())), generator=given.get("generator"))
        if given.get("device") is not None:
            call.device = self.gpu.device(given["device"])
            if call.device is None:
                call.device = CPU
            else:
                given["device"] = CPU
        if given.get("pin_memory"):
            given["pin_memory"] = False
        self.gpu.calls.append(call)
        try:
            result = func(*args, **given)
        finally:
            self.gpu.calls.pop()
        if call.device not in (None, CPU) and isinstance(result, Tensor):
            result = self._on_device(name, result, call.device)
        return result

    def _on_device(self, name: str, result: Tensor, device: Any) -> Tensor:
        """Return the result of a call that says it to be on a device."""
        if name in FROM_PYTHON:
            self.gpu.note("wait", f"{name}(..., device='cuda')")
            self.gpu.note("copy", "to the device, pageable", size=result.nbytes)
        if name in ("as_tensor", "asarray"):
            with WithoutFunctionModes():
                result = result.clone()  # apart from the array whose memory it shares
        mark(result, device, self.gpu.memory)
        return result


class OperationMode(TorchDispatchMode):
    """Checks every operation, runs it on the CPU and marks its results.

    Args:
        gpu: Device.
    """

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.is_inference_mode_enabled() and is_composite(func):
            # what autograd takes apart elsewhere
            with self:
                return func.decompose(*args, **(kwargs or {}))
        with WithoutFunctionModes():
            return self._run(Operation(func, args, dict(kwargs or {})))

    def _run(self, op: Operation) -> Any:
        op.device = self._device_of_result(op)
        if self.gpu.device(op.kwargs.get("device")) is not None:
            op.kwargs["device"] = CPU
        check_generator(op, self.gpu)
        if op.name in COPIES:
            note_copies(op, self.gpu)
        elif op.device is not None:
            check(op, self.gpu)
        if op.launches:
            self.gpu.note_launch(op.short_name)
        result = self._computed(op)
        if op.launches:
            note_float64(op, result, self.gpu)
        if op.device is not None and op.name != "aten::copy_":
            for x in flat_tensors((result,)):
                mark(x, op.device, self.gpu.memory)
        return result

    def _device_of_result(self, op: Operation) -> torch.device | None:
        """Return the pretended device of what an operation returns, None for the CPU."""
        call = self.gpu.call
        found = next((device for device in op.devices if device is not None), None)
        asked = op.kwargs.get("device")
        if asked is not None and self.gpu.device(asked) is not None:
            found = self.gpu.device(asked)
        elif asked is not None and op.name == "aten::_to_copy":
            found = self.gpu.targets[-1] if self.gpu.targets else found
        elif asked is not None and call is not None and call.device is not None:
            found = call.device
        elif not op.tensors:
            found = None if call is None else call.device_of_result()
        return found if found is not None and found.type == "cuda" else None

    def _computed(self, op: Operation) -> Any:
        """Return an operation's result; what the device draws comes from its own generator."""
        if not op.is_random or op.device is None or op.kwargs.get("generator") is not None:
            return op.func(*op.args, **op.kwargs)
        state = torch.default_generator.get_state()
        torch.default_generator.set_state(self.gpu.generator.get_state())
        try:
            return op.func(*op.args, **op.kwargs)
        finally:
            self.gpu.generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(state)
