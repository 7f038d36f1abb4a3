"""The empirical Fisher matrix of the gradients of the latest steps, as a curvature."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from framework.optim.curvature import Curvature
from framework.optim.empirical_fisher import EmpiricalFisherInverse
from framework.optim.window import GradientWindow, window_state


class FisherCurvature(Curvature):
    """The empirical Fisher matrix of a window of gradients, of which the mean is taken.

    Args:
        window: Gradients.
    """

    def __init__(self, window: GradientWindow) -> None:
        self.window = window

    def solve(self, gradient: Tensor, shift: float) -> Tensor | None:
        """Return the solution, or None where ``shift`` is 0."""
        if not shift > 0:
            return None
        # what is known of the products of the gradients serves every shift
        fisher = EmpiricalFisherInverse.over(self.window, shift, "filled")
        return fisher.ihvp(gradient).to(gradient)


def latest_gradients(state: dict[Any, Any], gradient: Tensor, rank: int) -> GradientWindow:
    """Return the window of the latest gradients, this one included, which lies in a state.

    Args:
        state: State of an optimizer.
        gradient: Latest gradient, shape (d,).
        rank: Number of gradients.
    """
    held = state.get("window")
    if held is None:
        held = window_state(rank, len(gradient), gradient.dtype, gradient.device)
    window = GradientWindow(held["rows"], held["gram"], pushed=held["pushed"])
    window.push(gradient)
    state["window"] = held | {"pushed": window.pushed}
    return window
