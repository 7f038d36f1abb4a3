"""What ranks send each other, counted where torch hands it to a process group.

So every collective counts, those of DDP's C++ too: what a rank hands in, by kind.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {
    "allreduce_": "all-reduce",
    "allreduce_coalesced_": "all-reduce",
    "allgather_": "all-gather",
    "_allgather_base_": "all-gather",
    "alltoall_": "all-to-all",
    "alltoall_base_": "all-to-all",
    "broadcast_": "broadcast",
    "barrier": "barrier",
    "monitored_barrier_": "barrier",
}
"""Operations of ``torch.ops.c10d``."""
SECOND = {"allgather_", "_allgather_base_", "alltoall_", "alltoall_base_"}
"""Those whose first argument receives and whose second is sent."""
OF_DDP = {"all-reduce": "gradients", "broadcast": "buffers"}
"""Kinds of what DDP's C++ sends."""
WRAPPERS = {"communication.py", "eval_frame.py", "_compile.py"}
"""Files between a dispatched operation and who called it."""


@dataclass
class Traffic:
    """What one rank handed to collectives.

    Args:
        sent: Bytes by kind.
        calls: Number of collectives by kind.
    """

    sent: Counter[str]
    calls: Counter[str]


class CountedTraffic(TorchDispatchMode):
    """Counts what this rank hands to collectives inside a ``with`` block.

    Kinds are ``gradients`` and ``buffers`` for what DDP sends by itself, and ``all-reduce``,
    ``all-gather``, ``all-to-all``, ``broadcast`` and ``barrier``.

    Raises:
        NotImplementedError: A collective of another kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic(Counter(), Counter())

    def take(self) -> Traffic:
        """Return what was counted since the last call, and begin anew."""
        taken, self.traffic = self.traffic, Traffic(Counter(), Counter())
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and call."""
        if getattr(func, "namespace", None) == "c10d":
            self._count(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:
        if name not in KINDS:
            raise NotImplementedError(f"{name} is not counted yet.")
        kind = KINDS[name]
        if not _called_from_python():
            kind = OF_DDP.get(kind, kind)
        given = [] if kind == "barrier" else tree_leaves(args[1 if name in SECOND else 0])
        sizes = [x.numel() * x.element_size() for x in given if isinstance(x, Tensor)]
        self.traffic.sent[kind] += sum(sizes)
        self.traffic.calls[kind] += 1


def _called_from_python() -> bool:
    """Return whether a function of ``torch.distributed`` called, rather than DDP's C++."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and Path(frame.f_code.co_filename).name in WRAPPERS:
        frame = frame.f_back
    return frame is not None and Path(frame.f_code.co_filename).name == "distributed_c10d.py"


def mean_traffic(steps: Sequence[Traffic]) -> dict[str, tuple[float, float]]:
    """Return bytes and calls per step, by kind."""
    kinds = sorted({kind for step in steps for kind in step.calls})
    return {
        kind: (
            sum(step.sent[kind] for step in steps) / len(steps),
            sum(step.calls[kind] for step in steps) / len(steps),
        )
        for kind in kinds
    }
