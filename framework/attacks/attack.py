"""Inputs near given ones on which an objective is large: the base of all attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.precision import at_least_float32

Forward = Callable[[Tensor], Any]
Objective = Callable[[Any], Tensor]


@contextmanager
def under_attack(forward: Forward, device: torch.device) -> Iterator[None]:
    """Inside the block, ``forward`` runs as attacks run it; afterwards its modules are restored.

    The module behind ``forward`` and its submodules are in evaluation mode, so that batch norm is
    frozen and dropout is off. Gradients are on, even inside ``torch.inference_mode``, and
    autocast is off: input gradients underflow in half precision.

    Args:
        forward: Module, bound method of one, or any function, whose modules then keep their modes.
        device: Device of the inputs.
    """
    owner = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", None)
    with (
        evaluation_mode(owner) if isinstance(owner, nn.Module) else nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device_type=device.type, enabled=False),
    ):
        yield


class Attack:
    """Base of all attacks. A subclass writes ``search``, which sees pixels only.

    The base undoes the normalization of the inputs, so that budgets and valid ranges are in units
    of pixels, and runs the search as ``under_attack`` says.

    Args:
        mean: Mean of each channel (or one for all), if inputs are normalized. Together with
            ``std``.
        std: Standard deviation of each channel, positive, in units of pixels.

    Raises:
        ValueError: different numbers of values in ``mean`` and ``std``, or a std that is not
            positive.
    """

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        self.mean, self.std = list(mean or []), list(std or [])
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(
                "mean and std must be given together, as many values each and std positive, got "
                f"{mean} and {std}."
            )

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> Attack:
        """Return this attack for inputs that are normalized by ``mean`` and ``std``."""
        attack = copy(self)
        Attack.__init__(attack, mean, std)
        return attack

    def search(
        self, forward: Forward, pixels: Tensor, objective: Objective, generator: torch.Generator
    ) -> Tensor:
        """Return perturbed pixels (B, ...), B may be 0; arguments as in ``perturb``."""
        raise NotImplementedError(f"{type(self).__name__} defines no search.")

    def perturb(
        self,
        forward: Forward,
        inputs: Tensor,
        objective: Objective,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return inputs near the given ones for which the objective is large.

        Parameters get no gradient and no hook of theirs fires, so that this is safe inside a
        training step under DDP, with the *unwrapped* module. With several ranks it is collective.

        Args:
            forward: Function from inputs to predictions; see ``under_attack``.
            inputs: (B, ...), where B may be 0; they are not changed.
            objective: Function from predictions to values that are summed and ascended. What it
                refers to must be no inference tensor (clone labels inside
                ``torch.inference_mode(False)``).
            generator: Generator of random starts, which are drawn for the global batch; in the same
                state on every rank, see ``shared_generator``.

        Returns:
            (B, ...) of the dtype of ``inputs``, without gradient.
        """
        with under_attack(forward, inputs.device):
            given = at_least_float32(inputs.detach())
            mean, std = self._normalization(given)
            # a new tensor: one of inference mode could take part in no gradient
            pixels = given * std + mean

            def as_inputs(perturbed: Tensor) -> Tensor:
                if not self.mean:
                    return perturbed.to(inputs.dtype)
                # what is not perturbed comes back bit by bit
                return (given + (perturbed - pixels) / std).to(inputs.dtype)

            perturbed = self.search(lambda x: forward(as_inputs(x)), pixels, objective, generator)
            return as_inputs(perturbed).detach()

    def _normalization(self, inputs: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if not self.mean:
            return 0.0, 1.0
        shape = (-1, *[1] * (inputs.ndim - 2))
        mean, std = (inputs.new_tensor(values).view(shape) for values in (self.mean, self.std))
        return mean, std
