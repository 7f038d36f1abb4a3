"""How the gradients of several terms become one: the interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

Scope = Literal["exact", "representation"]


@dataclass(frozen=True)
class GradientFacts:
    """What a combiner may know of a step, the same on every rank; tensors are float64 on the CPU.

    Terms come with their weight in the plain sum. Those that reach no shared parameter, have a
    gradient of 0 or weigh 0 are not among the T.

    Args:
        names: of the T terms.
        gram: (T, T) inner products of the terms' gradients.
        losses: (T,) values of the weighted terms.
        step: optimizer steps taken before this one.
        guide: (T,) inner products of the terms' gradients with that of the guide.
        guide_loss: the value of the guide.
    """

    names: tuple[str, ...]
    gram: Tensor
    losses: Tensor
    step: int
    guide: Tensor | None = None
    guide_loss: float | None = None


@dataclass(frozen=True)
class Combination:
    """What a combiner makes of the facts: the gradient is ``scale * weights @ gradients``.

    Args:
        weights: (T,) float64, as the method defines them.
        scale: by which all of them are multiplied.
        logs: what only this combiner knows of the step, for the dashboard.
    """

    weights: Tensor
    scale: float = 1.0
    logs: dict[str, float] = field(default_factory=dict)


class GradientCombiner(ABC):
    """Weighs the gradients of T terms with respect to the shared parameters.

    It is called with what belongs to the global batch, the same on every rank, and must be
    deterministic, so that every rank takes the same step.

    Class attributes:
        guided: needs the gradient of a guide, which ``DynamicPreference`` gives.

    Args:
        scope: whose gradients are compared. ``exact``: those of the shared parameters, of the
            global batch; a backward pass per term. ``representation``: those of the features that
            the terms share; one backward pass below them, for modules whose terms reach the shared
            parameters through ``Objectives.features`` alone.
        every_n_steps: after so many steps weights are computed anew; in between the latest stay.

    Raises:
        ValueError: an unknown ``scope``, or ``every_n_steps`` below 1.
    """

    guided: ClassVar[bool] = False

    def __init__(self, scope: Scope = "exact", every_n_steps: int = 1) -> None:
        name = type(self).__name__
        if scope not in get_args(Scope):
            raise ValueError(
                f"{name}: scope must be one of {', '.join(get_args(Scope))}, got {scope!r}."
            )
        if every_n_steps < 1:
            raise ValueError(f"{name}: every_n_steps must be at least 1, got {every_n_steps}.")
        self.scope = scope
        self.every_n_steps = every_n_steps

    @abstractmethod
    def combination(self, facts: GradientFacts) -> Combination:
        """Return the weight of every term."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, the same on every rank; default: nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027  (optional)
        """Restore what ``state_dict`` returned."""


class WeightedSum(GradientCombiner):
    """The plain sum of the weighted terms: what happens without a combiner, but watched.

    Args:
        scope: see ``GradientCombiner``.
        every_n_steps: likewise.
    """

    def combination(self, facts: GradientFacts) -> Combination:
        """Return ones."""
        return Combination(torch.ones(len(facts.names), dtype=torch.float64))
