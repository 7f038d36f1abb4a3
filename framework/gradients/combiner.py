"""Interface of what makes one gradient out of those of several terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least, check_one_of

Scope = Literal["exact", "representation"]


@dataclass(frozen=True)
class GradientFacts:
    """What a combiner may know of a step, the same on every rank; tensors are float64 on the CPU.

    Terms come with their weight in the plain sum. Those that reach no shared parameter, have a
    gradient of 0 or weigh 0 are not among the T.

    Args:
        names: Names of the T terms.
        gram: Inner products (T, T) of the terms' gradients.
        losses: Values (T,) of the weighted terms.
        step: Number of optimizer steps before this one.
        guide: Inner products (T,) of the terms' gradients with that of the guide.
        guide_loss: Value of the guide.
    """

    names: tuple[str, ...]
    gram: Tensor
    losses: Tensor
    step: int
    guide: Tensor | None = None
    guide_loss: float | None = None


@dataclass(frozen=True)
class Combination:
    """Answer of a combiner: the gradient is ``factors @ gradients``.

    Args:
        weights: Weights (T,) float64, as the method defines them.
        scale: Factor of all weights.
        logs: Values that only this combiner knows of the step, for the dashboard.
        added: What is added to the scaled weights, (T,) float64; None for nothing.
    """

    weights: Tensor
    scale: float = 1.0
    logs: dict[str, float] = field(default_factory=dict)
    added: Tensor | None = None

    @property
    def factors(self) -> Tensor:
        """By what each term's gradient is multiplied, (T,) float64."""
        scaled = self.scale * self.weights
        return scaled if self.added is None else scaled + self.added


class GradientCombiner(ABC):
    """Weighs the gradients of T terms with respect to the shared parameters.

    It is called with what belongs to the global batch, the same on every rank, and must be
    deterministic, so that every rank takes the same step.

    Class attributes:
        guided: Whether it needs the gradient of a guide, the loss on held-out data.

    Args:
        scope: Gradients that are compared. ``exact``: those of the shared parameters, of the
            global batch; a backward pass per term. ``representation``: those of the features that
            the terms share; one backward pass below them, for terms that reach the shared
            parameters through these features alone.
        every_n_steps: Steps between two decisions; in between the latest weights stay.

    Raises:
        ValueError: An unknown ``scope``, or ``every_n_steps`` below 1.
    """

    guided: ClassVar[bool] = False

    def __init__(self, scope: Scope = "exact", every_n_steps: int = 1) -> None:
        check_one_of(get_args(Scope), scope=scope)
        check_at_least(1, every_n_steps=every_n_steps)
        self.scope = scope
        self.every_n_steps = every_n_steps

    @abstractmethod
    def combination(self, facts: GradientFacts) -> Combination:
        """Return the weight of every term."""

    def check_terms(self, names: Sequence[str]) -> None:  # noqa: B027  (optional)
        """Raise ``IncompatibleError`` if these are not the terms that the arguments speak of."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, the same on every rank; default: nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027  (optional)
        """Restore what ``state_dict`` returned."""


class WeightedSum(GradientCombiner):
    """The plain sum of the weighted terms: what happens without a combiner, but watched.

    Args:
        scope: Gradients that are compared, as in ``GradientCombiner``.
        every_n_steps: Steps between two decisions.
    """

    def combination(self, facts: GradientFacts) -> Combination:
        """Return ones."""
        return Combination(torch.ones(len(facts.names), dtype=torch.float64))
