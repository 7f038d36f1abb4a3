"""An exponential moving average of a module's weights, which can take their place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from framework.objectives.errors import IncompatibleError
from framework.ops.moving_average import infinite_ones, move_average, why_too_coarse
from framework.utilities.checks import check_at_least, check_interval


class AveragedWeights:
    """Exponential moving average (EMA) of the parameters and buffers of a module's ``state_dict``.

    ``update()`` moves it after every optimizer step; within ``applied()`` the module computes with
    it. It starts as a copy, and the u-th update, from 1, keeps ``decay * (1 - exp(-u / ramp))`` of
    it, so that it forgets its start. Buffers of numbers with a fraction, such as batch norm's
    statistics, are averaged too; integers, and buffers that hold an infinity, are copied. It is no
    copy of the module: it follows whatever has the same names, and holds neither metrics nor data.

    Paper: Morales-Brotons et al., *Exponential Moving Average of Weights in Deep Learning*,
    TMLR 2024, arXiv:2411.18704; the ramp is that of YOLOv5.

    Args:
        module: Module whose weights are averaged, on its device and in its precision.
        decay: Share of the average that a step keeps, in [0, 1).
        ramp: Number of updates in which 63 % of the decay is reached; 0 for all of it at once.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: The weights are in half precision, too coarse for this decay.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(module.weight)
        >>> ema = AveragedWeights(module, decay=0.75, ramp=0)
        >>> _ = nn.init.ones_(module.weight)
        >>> ema.update()
        >>> with ema.applied():
        ...     module.weight.item()
        0.25
        >>> module.weight.item()
        1.0
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999, ramp: float = 2000) -> None:
        check_average(decay, ramp)
        self.module = module
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        """Number of optimizer steps that the average has followed."""
        latest = named_weights(module)
        if (reason := why_too_coarse(latest.values(), decay)) is not None:
            raise IncompatibleError(reason)
        self.average = {name: value.detach().clone() for name, value in latest.items()}
        """Averages by name."""
        self._copied = infinite_ones(self.average.values())
        self._kept: dict[str, Tensor] | None = None

    @property
    def is_applied(self) -> bool:
        """Whether the module computes with the average now."""
        return self._kept is not None

    @property
    def latest(self) -> dict[str, Tensor]:
        """Weights of the training by name, also while the average takes their place."""
        return self._live() if self._kept is None else self._kept

    def update(self) -> None:
        """Move the average towards the weights, after an optimizer step.

        Raises:
            RuntimeError: The average takes the place of the weights, or their names changed.
        """
        if self.is_applied:
            raise RuntimeError("The average takes the weights' place; restore them before a step.")
        live = self._live()
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp)) if self.ramp else self.decay
        latest = [live[name] for name in self.average]
        move_average(self.average.values(), latest, decay, self._copied)

    def apply(self) -> None:
        """Let the module compute with the average until ``restore``; once more does nothing."""
        if self.is_applied:
            return
        live = self._live()
        self._kept = {name: value.detach().clone() for name, value in live.items()}
        _write(live, self.average)

    def restore(self) -> None:
        """Give the module the weights of the training back, if the average takes their place."""
        if self._kept is not None:
            _write(self._live(), self._kept)
            self._kept = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module compute with the average inside the block."""
        self.apply()
        try:
            yield
        finally:
            self.restore()

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: It is that of another module.
        """
        load_weights(self.average, state["average"], "average")
        self.updates = int(state["updates"])

    def _live(self) -> dict[str, Tensor]:
        live = named_weights(self.module)
        if live.keys() != self.average.keys():
            name = min(live.keys() ^ self.average.keys())
            raise RuntimeError(
                f"{name!r} came or went after the start, and an average of the weights needs the "
                "same ones in every step."
            )
        return live


def check_average(decay: float, ramp: float) -> None:
    """Raise ``ValueError`` unless the arguments of an average of weights are in range."""
    check_interval("[0, 1)", decay=decay)
    check_at_least(0, ramp=ramp)


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module's ``state_dict``, by name.

    Args:
        module: Module, of which shared parameters appear under each of their names.
    """
    found = chain(
        module.named_parameters(remove_duplicate=False),
        (
            (f"{prefix}.{name}" if prefix else name, buffer)
            for prefix, part in module.named_modules(remove_duplicate=False)
            for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False)
            if name not in part._non_persistent_buffers_set
        ),
    )
    return dict(found)


def load_weights(own: Mapping[str, Tensor], saved: Any, place: str) -> None:
    """Copy saved values into tensors of the same names and shapes.

    Args:
        own: Tensors by name, which are written.
        saved: Values by name, of which further ones are ignored.
        place: What the values are called in a checkpoint, for the message.

    Raises:
        ValueError: A value is missing, or of another shape.
    """
    saved = saved if isinstance(saved, Mapping) else {}
    for name, tensor in own.items():
        value = saved.get(name)
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            found = [*value.shape] if isinstance(value, Tensor) else "none"
            raise ValueError(
                f"The checkpoint's {place!r} do not fit the model: {name!r} has the shape "
                f"{[*tensor.shape]}, and the checkpoint {found}."
            )
    _write(own, {name: saved[name] for name in own})


@torch.no_grad()
def _write(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    if own:
        torch._foreach_copy_(list(own.values()), [values[name] for name in own])
