"""The most memory that is alive at once while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int:
    """Return the peak of the memory that ``run`` allocates beyond what was there before.

    On a GPU this is the allocator's own figure; on a CPU the storages that operations return, so
    that scratch memory inside of one operation is not seen.
    """
    import torch

    run()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        alive = 0
        peak = 0
        seen: dict[int, Any] = {}  # noqa: RUF012

        def forget(self, key: int, size: int) -> None:
            self.alive -= size
            self.seen.pop(key, None)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            given = {
                leaf.untyped_storage()._cdata
                for leaf in tree_leaves((args, kwargs))
                if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided
            }
            for leaf in tree_leaves(result):
                # a sparse tensor has no storage: its indices and values were seen before
                if not isinstance(leaf, torch.Tensor) or leaf.layout is not torch.strided:
                    continue
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key in self.seen or key in given:
                    continue
                self.seen[key] = weakref.finalize(storage, self.forget, key, size)
                self.alive += size
            self.peak = max(self.peak, self.alive)
            return result

    with Watch() as watch:
        run()
    return watch.peak
