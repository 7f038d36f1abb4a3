"""Gradient norms of a run: how they are measured, and the file that they are kept in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from framework.utilities.checks import check_one_of
from framework.utilities.files import write_text
from framework.utilities.limits import read_text, whole_number

ORDERS = {"l2": 2.0, "l1": 1.0}
"""Orders of the norms, by name."""
FILE_NAME = "gradient_norms.csv"
"""Name of the file in a run folder."""
VERSION = 1
_TITLE = "# Trimtab gradient norms, version "
_OPTIMIZER = "# optimizer: "
_STEPS = "# total_steps: "
_NAME = re.compile(r"\w{1,80}", re.ASCII)
_BYTES_PER_BYTE = 40
"""Memory that each byte of a file takes at most: a line of a few becomes some Python objects."""


@dataclass(frozen=True)
class GradientNorms:
    """Gradient norms of a run's optimizer steps, from the first on.

    Shapes: each norm (n,).

    Args:
        norms: Norms by their names, ``'l2'`` and ``'l1'``, one value per step; NaN where unknown.
        optimizer: Name of the optimizer's class; empty where it is unknown.
        total_steps: Steps that the run was to take; None where that is unknown.
    """

    norms: Mapping[str, Tensor]
    optimizer: str = ""
    total_steps: int | None = None


@torch.no_grad()
def gradient_norms(
    parameters: Iterable[Tensor], norms: Iterable[str] = ("l2", "l1")
) -> dict[str, Tensor]:
    """Return norms of the gradients of all parameters, taken as one long vector.

    Call it after the backward pass, and before the gradients are clipped. Nothing waits for a GPU,
    and low precisions are summed up in float32.

    Args:
        parameters: Parameters; those without a gradient are left out.
        norms: Names of the norms, ``'l2'`` and ``'l1'``.

    Returns:
        Norms by name, each a scalar on the first gradient's device; 0 without any gradient.

    Raises:
        ValueError: Another norm.
        RuntimeError: Gradients of which each rank holds a part.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        >>> weight.square().sum().div(2).backward()
        >>> {name: float(norm) for name, norm in gradient_norms([weight]).items()}
        {'l2': 5.0, 'l1': 7.0}
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        raise RuntimeError(
            "gradient_norms needs whole gradients, and each rank holds a part of these: use DDP."
        )
    gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        if gradient.numel():
            groups.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    found = {}
    for name in norms:
        check_one_of(ORDERS, norms=name)
        parts: list[Tensor] = []
        for (device, dtype), group in groups.items():
            wide = torch.float32 if dtype.itemsize < 4 else None
            if name == "l1" and device.type == "cpu":
                # there this is 1.6 times as fast as the norm, and more exact
                parts += [gradient.abs().sum(dtype=wide) for gradient in group]
            else:
                parts += torch._foreach_norm(group, ORDERS[name], wide)
        if not parts:
            found[name] = torch.zeros(())
            continue
        first = parts[0].device
        whole = torch.stack([part.to(first, torch.float32, non_blocking=True) for part in parts])
        found[name] = torch.linalg.vector_norm(whole, ORDERS[name])
    return found


def norm_lines(norms: Mapping[str, Tensor], start: int = 0) -> list[str]:
    """Return the lines of a file for some steps.

    Args:
        norms: Norms (n,) by name, of steps ``start``, ``start + 1`` and so on.
        start: Number of the first step.
    """
    columns = [values.tolist() for values in norms.values()]
    rows = enumerate(zip(*columns, strict=True), start)
    # nine digits tell any two numbers in float32 apart
    return [f"{step},{','.join(f'{value:.9g}' for value in row)}\n" for step, row in rows]


def save_gradient_norms(path: str | Path, record: GradientNorms) -> None:
    """Write gradient norms to a text file that ``RefinedLR`` reads.

    Args:
        path: File, which is replaced.
        record: Norms of a run, in at most single precision.

    Raises:
        WriteError: It cannot be written.
    """
    steps = "unknown" if record.total_steps is None else record.total_steps
    header = [
        f"{_TITLE}{VERSION}\n",
        f"{_OPTIMIZER}{record.optimizer or 'unknown'}\n",
        f"{_STEPS}{steps}\n",
        f"{','.join(['step', *record.norms])}\n",
    ]
    write_text(Path(path), "".join([*header, *norm_lines(record.norms)]))


def holds_gradient_norms(path: Path) -> bool:
    """Return whether a file begins as one with gradient norms does."""
    with path.open("rb") as file:
        return file.read(len(_TITLE)) == _TITLE.encode()


def read_gradient_norms(path: str | Path) -> GradientNorms:
    """Read what ``save_gradient_norms`` or ``GradientNormRecorder`` wrote.

    A last line that a kill cut short is left out.

    Args:
        path: File, or a run folder with ``gradient_norms.csv`` in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, of another version, or damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     record = GradientNorms({"l2": torch.tensor([4.0, 2.0])}, "SGD", total_steps=2)
        ...     save_gradient_norms(Path(folder, "gradient_norms.csv"), record)
        ...     read_gradient_norms(folder).norms["l2"]
        tensor([4., 2.], dtype=torch.float64)
    """
    path = Path(path)
    if path.is_dir():
        path /= FILE_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: give the file or the folder of a run with GradientNormRecorder."
        )
    text = read_text(path, _BYTES_PER_BYTE)
    title, *rest = text[: text.rfind("\n") + 1].splitlines() or [""]
    if not title.startswith(_TITLE):
        raise ValueError(f"{path} holds no gradient norms: it does not begin with {_TITLE!r}.")
    if title.removeprefix(_TITLE) != str(VERSION):
        raise ValueError(
            f"{path} is of version {title.removeprefix(_TITLE)[:20]!r} of its format, and this "
            f"Trimtab reads version {VERSION}: record the norms again."
        )
    names = rest[2].split(",")[1:] if len(rest) > 2 else []
    optimizer = rest[0].removeprefix(_OPTIMIZER) if names else ""
    known = bool(names) and len(set(names)) == len(names) and set(names) <= set(ORDERS)
    header = known and rest[0].startswith(_OPTIMIZER) and rest[1].startswith(_STEPS)
    if not header or not _NAME.fullmatch(optimizer) or not rest[2].startswith("step,"):
        raise ValueError(f"{path} is damaged: its first four lines are no header of norms.")
    values = [
        _row(path, line, step, len(names))
        for step, line in enumerate(rest[3:])  # nothing is skipped: a gap would move the schedule
    ]
    if not values:
        raise ValueError(f"{path} holds no step yet: give a run that trained.")
    columns = torch.tensor(values, dtype=torch.float64).unbind(1)
    return GradientNorms(
        dict(zip(names, columns, strict=True)),
        "" if optimizer == "unknown" else optimizer,
        whole_number(rest[1].removeprefix(_STEPS)),
    )


def _row(path: Path, line: str, step: int, columns: int) -> list[float]:
    number, *cells = line[:200].split(",")
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = []
    if whole_number(number) != step or len(values) != columns or any(v < 0 for v in values):
        raise ValueError(
            f"{path} is damaged: line {step + 5} is {line[:40]!r} where step {step} and "
            f"{columns} norm{'s' * (columns > 1)} are expected."
        )
    return values
