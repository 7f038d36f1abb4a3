"""What a walk over nested plain containers would cost, where parts of them are shared."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.utilities.limits import check_size

MAX_DEPTH = 200
FEW_VALUES = 1 << 20
SHARING = 4
"""How many times over a file may share its parts, as tied weights do, whatever the limit is."""

SCALARS = frozenset({type(None), bool, int, float, complex})
TEXTS = frozenset({str, bytes, bytearray})
SEQUENCES = frozenset({list, tuple, set, frozenset, torch.Size})
DICTS = frozenset({dict, OrderedDict, Counter, defaultdict})


class PlainTree:
    """Nested containers whose parts are counted, a shared part as often as it is reached.

    A few bytes can nest lists of one list so often that a copy, a walk or a printout of them would
    never end, or share one tensor among a million names.

    Args:
        root: Plain values, tensors, NumPy arrays, and lists, tuples, sets and dicts of them.
        others: Further classes whose attributes are walked.

    Attributes:
        values: Number of values.
        bytes: Bytes of tensors, arrays and texts.
        tensors: Every dense tensor once, and the parts of sparse ones.

    Raises:
        ValueError: A container that holds itself, more than 200 inside one another, or a value of
            another class.

    Example:
        >>> part = ["ab", "cd"]
        >>> tree = PlainTree({"one": part, "other": part})
        >>> tree.values, tree.bytes
        (9, 16)
    """

    def __init__(self, root: Any, others: tuple[type, ...] = ()) -> None:
        self.others = others
        self.tensors: list[Tensor] = []
        self._found: dict[int, tuple[int, int] | None] = {}
        self.values, self.bytes = self._count(root, 0)

    def check(self, path: str | Path, stored: int) -> None:
        """Refuse a file of which this is the content where walking it would cost too much.

        Args:
            path: File in the message.
            stored: Bytes of the file.

        Raises:
            ValueError: There are more values, or bytes, than the file can mean.
        """
        check_size(
            path,
            self.bytes,
            "its content, with shared parts as often as they are used,",
            stored=SHARING * stored,
        )
        if self.values > max(FEW_VALUES, SHARING * stored):
            raise ValueError(
                f"its {stored:,} bytes nest shared containers so that they mean more than "
                f"{FEW_VALUES:,} values"
            )

    def _count(self, value: Any, depth: int) -> tuple[int, int]:
        kind = type(value)
        if kind in SCALARS:
            return 1, 0
        if kind in TEXTS:
            return 1, len(value)
        key = id(value)
        if key not in self._found:
            if depth > MAX_DEPTH:
                raise ValueError(f"its containers are more than {MAX_DEPTH} deep")
            self._found[key] = None
            self._found[key] = self._count_parts(value, kind, depth)
        found = self._found[key]
        if found is None:
            raise ValueError("a container holds itself")
        return found

    def _count_parts(self, value: Any, kind: type, depth: int) -> tuple[int, int]:
        if isinstance(value, Tensor) and value.layout is torch.strided:
            self.tensors.append(value)
            return 1, value.numel() * value.element_size()
        if isinstance(value, (torch.dtype, torch.device)):
            return 1, 0
        if isinstance(value, np.dtype):
            return 1, value.itemsize
        if isinstance(value, (np.ndarray, np.generic)):
            parts = value.ravel().tolist() if value.dtype.hasobject else ()
            stored = value.nbytes
        elif isinstance(value, Tensor):
            parts, stored = _parts_of_sparse(value), 0
        elif kind in DICTS:
            parts, stored = [*value, *value.values()], 0
            parts += vars(value).values() if kind is OrderedDict else ()
        elif kind in SEQUENCES:
            parts, stored = value, 0
        elif isinstance(value, self.others):
            parts, stored = [*vars(value).values()] if hasattr(value, "__dict__") else (), 0
        else:
            raise ValueError(f"it holds a {kind.__name__}")
        values = 1
        for part in parts:
            inner = self._count(part, depth + 1)
            values, stored = values + inner[0], stored + inner[1]
        return values, stored


def _parts_of_sparse(tensor: Tensor) -> list[Tensor]:
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
