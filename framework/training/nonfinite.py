"""Stops a run whose loss is NaN or infinite, before anything is spoilt or saved."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum
from framework.distributed.row_shards import row_shards


class NonFiniteGuard:
    """Remembers which terms were NaN or infinite since it was last asked.

    Reading a flag makes a GPU wait, so there ``check`` is called rarely, but always before a
    checkpoint is written.
    """

    def __init__(self) -> None:
        self._signs: dict[tuple[str, ...], Tensor] = {}
        self._first = 0
        self._last = 0

    def add(self, names: tuple[str, ...], flags: Tensor, step: int) -> None:
        """Note the terms of a step.

        Args:
            names: T names of terms; may differ from step to step.
            flags: (T,) bool, True where a term is not finite, the same on every rank.
            step: Optimizer steps taken before this one.
        """
        seen = self._signs.get(names)
        self._note(names, flags if seen is None else seen | flags, step)

    def follow(self, names: tuple[str, ...], sums: Tensor, step: int) -> None:
        """Note running sums, which a term that is not finite spoils for good.

        Args:
            names: T names of terms; may differ from step to step.
            sums: (T,) sums of the terms, which later steps are added to.
            step: Optimizer steps taken before this one.
        """
        if self._signs.get(names, sums) is not sums:
            self.check()
        self._note(names, sums, step)

    def _note(self, names: tuple[str, ...], signs: Tensor, step: int) -> None:
        if not self._signs:
            self._first = step
        self._signs[names] = signs
        self._last = step

    def check(self) -> None:
        """Forget what was noted.

        Raises:
            FloatingPointError: a term was not finite.
        """
        signs, self._signs = self._signs, {}
        if not signs:
            return
        # a difference of a number to itself is 0 only if it is finite
        flags = torch.cat([s if s.dtype == torch.bool else s - s != 0 for s in signs.values()])
        if not bool(flags.any()):
            return
        names = [name for together in signs for name in together]
        wrong = [names[i] for i in flags.nonzero().flatten().tolist()]
        # the sum is wrong whenever a term is; the term is the better name
        name = next((term for term in wrong if term != "loss"), "loss")
        when = f"at step {self._last}"
        if self._first != self._last:
            when = f"between steps {self._first} and {self._last}"
        raise FloatingPointError(
            f"The term {name!r} became NaN or infinite {when}; training stopped, and the last "
            "checkpoint, which is older, is kept."
        )


def check_parameters(module: nn.Module, steps: int) -> None:
    """Refuse weights that a gradient spoiled, of which the loss tells at the next step only.

    Args:
        module: Module whose trainable parameters are looked at; on every rank.
        steps: Optimizer steps taken.

    Raises:
        FloatingPointError: A parameter is not finite.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> _ = network.bias.data.fill_(float("nan"))
        >>> check_parameters(network, steps=7)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FloatingPointError: The parameter 'bias' became NaN or infinite within 7 steps, ...
    """
    shards = row_shards(module)
    for name, parameter in module.named_parameters():
        is_finite = parameter.detach().isfinite().all()
        if name in shards:
            is_finite = all_reduce_sum((~is_finite).int()) == 0
        if hasattr(is_finite, "full_tensor"):  # of a parameter that lies on several ranks
            is_finite = is_finite.full_tensor()
        if parameter.requires_grad and not is_finite:
            raise FloatingPointError(
                f"The parameter {name!r} became NaN or infinite within {steps} steps, as its "
                "gradient did; training stopped, and the last checkpoint, which is older, is kept."
            )
