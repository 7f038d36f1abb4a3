"""The search for the radius in which a curvature predicts the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.optim.curvature import Curvature
from framework.optim.reevaluation import Evaluation, Reevaluation


def first_passing(
    evaluate: Reevaluation,
    start: Evaluation,
    curvature: Curvature,
    gamma: float,
    options: dict[str, Any],
) -> tuple[Evaluation, float, int]:
    """Move the parameters by the first step of halved radii that passes the test.

    Args:
        evaluate: Loss of the step.
        start: Evaluation where the step begins.
        curvature: Curvature there.
        gamma: Radius of the first try.
        options: Options of the optimizer: its first group.

    Returns:
        Evaluation where the step ends, or ``start`` itself where no try passed and the parameters
        are what they were; radius of the last try; number of evaluations.
    """
    params, gradient = evaluate.params, evaluate.scaled(start.gradient)
    origin = [p.detach().clone() for p in params]
    evaluations = 0
    for attempt in range(options["max_search"]):
        gamma = gamma / 2 if attempt else gamma
        shift = start.norm / (gamma + options["eps"]) + options["damping"]
        step = curvature.solve(gradient, shift)
        if step is None:
            continue
        try:
            _move(params, origin, step if evaluate.scale is None else step * evaluate.scale)
            end = evaluate.again()
            evaluations += 1
            taken = _passes(start, end, shift, evaluate.sign)
        except BaseException:
            _move(params, origin)
            raise
        if taken:
            return end, gamma, evaluations
        _move(params, origin)
    return start, gamma, evaluations


@torch.no_grad()
def _move(params: Sequence[Tensor], origin: Sequence[Tensor], step: Tensor | None = None) -> None:
    """Set parameters to an origin, less a step (d,) if there is one."""
    if step is None:
        for p, x in zip(params, origin, strict=True):
            p.copy_(x)
        return
    pieces = step.split([p.numel() for p in params])
    for p, x, piece in zip(params, origin, pieces, strict=True):
        p.copy_(x - piece.view(x.shape))


def _passes(start: Evaluation, end: Evaluation, shift: float, sign: float) -> bool:
    """Return whether a step is taken, on numbers that are the same on every rank."""
    before, after = start.loss.item(), end.loss.item()
    if sign * (before - after) >= end.norm**2 / (8 * shift):
        return True
    # where the loss changes by no more than its rounding, the gradient is what tells
    rounding = 8 * torch.finfo(start.loss.dtype).eps * abs(before)
    return abs(before - after) <= rounding and end.norm < start.norm
