"""How the gradients of several terms become one: the interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class GradientCombiner(ABC):
    """Turns the gradients of T terms with respect to the shared parameters into one.

    It is called once per step with gradients of the global batch, the same on every rank, and must
    be deterministic, so that every rank takes the same step.
    """

    @abstractmethod
    def combine(self, gradients: Tensor, weights: Tensor, names: tuple[str, ...]) -> Tensor:
        """Return the combined gradient.

        Args:
            gradients: (T, P), one flattened gradient per term.
            weights: (T,) the terms' weights in the plain sum.
            names: T names of the terms.

        Returns:
            (P,).
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, the same on every rank; default: nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027  (optional)
        """Restore what :meth:`state_dict` returned."""


class WeightedSum(GradientCombiner):
    """The plain sum ``weights @ gradients``: what happens without a combiner."""

    def combine(self, gradients: Tensor, weights: Tensor, names: tuple[str, ...]) -> Tensor:
        """Return ``weights @ gradients``."""
        return weights @ gradients
