"""What a GPU would be asked for by code that runs on a CPU: operations, and what waits for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DeviceRules(TorchDispatchMode):
    """Counts operations, and notes those after which a GPU's host waits for a number or a size."""

    WAITING = ("nonzero", "_local_scalar_dense", "bincount", "repeat_interleave", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name: str = func._schema.name  # type: ignore[attr-defined]
        name = name.removeprefix("aten::")
        self.operations[name] += 1
        by_mask = name.startswith(("index", "_unsafe_index")) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for part in args[1:2]
            if isinstance(part, (list, tuple))
            for index in part
        )
        known_size = (kwargs or {}).get("output_size") is not None
        if (
            by_mask
            or (name in self.WAITING and not known_size)
            or name.startswith(("unique", "_unique", "masked_s"))
        ):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))
