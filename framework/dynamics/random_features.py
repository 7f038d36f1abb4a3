"""Least squares on random features: exact solutions, and how far gradient descent comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least, check_one_of

Activation = Literal["tanh", "relu"]


def draw_first_layer(inputs: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Return random first-layer weights W0 (D, P) float64, each of variance 1/D.

    Args:
        inputs: Number D of inputs.
        width: Number P of features.
        generator: Generator of the draw; None for torch's own.
    """
    check_at_least(1, inputs=inputs, width=width)
    # drawn in one type always, so that a network in float32 has the features of one in float64
    draw = torch.randn(inputs, width, generator=generator, dtype=torch.float64)
    return draw / math.sqrt(inputs)


def random_features(
    inputs: Tensor, first: Tensor, activation: Activation = "tanh", scale: float = 2.0
) -> Tensor:
    """Return the features ``phi(scale * X W0)``, (N, P).

    Args:
        inputs: Inputs X (N, D).
        first: Weights W0 (D, P) of the first layer, which is not trained.
        activation: Activation phi: ``tanh`` or ``relu``.
        scale: Factor before the activation.

    Raises:
        ValueError: An unknown activation.

    Example:
        >>> random_features(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [-0.5]]), "relu")
        tensor([[0.]])
    """
    check_one_of(get_args(Activation), activation=activation)
    linear = scale * (inputs @ first)
    return torch.tanh(linear) if activation == "tanh" else torch.relu(linear)


def exact_solution(features: Tensor, targets: Tensor, ridge: float = 0.0) -> Tensor:
    """Return the weights (P, K) float64 of least squared error, of several the shortest ones.

    With ``ridge`` the minimum of ``|Z W - Y|^2 + ridge |W|^2``. Solved by LAPACK's ``gelsd`` in
    float64: near P = N the condition number is in the tens of thousands, which the inverse of
    ``Z'Z`` squares.

    Args:
        features: Features Z (N, P).
        targets: Targets Y (N, K).
        ridge: Strength of the penalty; 1e-8 in chrisliu298/min_double_descent, which caps the peak.

    Raises:
        ValueError: A negative ``ridge``.

    Example:
        >>> exact_solution(torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0]])).flatten()
        tensor([0.6000, 0.8000], dtype=torch.float64)
    """
    check_at_least(0, ridge=ridge)
    z, y = features.detach().cpu().double(), targets.detach().cpu().double()
    if ridge > 0:
        penalty = math.sqrt(ridge) * torch.eye(z.shape[1], dtype=z.dtype)
        z = torch.cat([z, penalty])
        y = torch.cat([y, y.new_zeros(len(penalty), y.shape[1])])
    return torch.linalg.lstsq(z, y, driver="gelsd").solution.to(features.device)


def condition_number(features: Tensor) -> Tensor:
    """Return the largest singular value of Z over the min(N, P)-th, in float64.

    Args:
        features: Features Z (..., N, P).

    Returns:
        (...); where the rank is below min(N, P), 1e15 and more by rounding, or infinite.

    Example:
        >>> condition_number(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
        tensor(4., dtype=torch.float64)
    """
    values = torch.linalg.svdvals(features.detach().double())
    return values[..., 0] / values[..., -1]


def curvature(features: Tensor) -> Tensor:
    """Return ``L = sigma_max(Z)^2 / N``, the largest curvature of ``|Z W - Y|^2 / (2N)``.

    Gradient descent with the step 1/L is the fastest that is sure to converge in every direction.

    Args:
        features: Features Z (..., N, P).

    Returns:
        (...) float64.
    """
    values = torch.linalg.svdvals(features.detach().double())
    return values[..., 0].square() / features.shape[-2]


def contraction(features: Tensor, steps: int, step: float | None = None) -> Tensor:
    """Return the share of the error that gradient descent leaves in each singular direction.

    It is ``(1 - step sigma_i^2 / N)^t``, with the step 1/L ``(1 - sigma_i^2 / sigma_max^2)^t``: the
    last direction takes about kappa^2 steps, kappa being the condition number.

    Args:
        features: Features Z (N, P).
        steps: Number t of steps.
        step: Step size; None for 1/L.

    Returns:
        (min(N, P)) float64, the largest singular value first.
    """
    values = torch.linalg.svdvals(features.detach().double())
    return _remaining(values, len(features), steps, step)


def descended(
    features: Tensor,
    targets: Tensor,
    steps: int,
    step: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Return the weights after some steps of gradient descent on ``|Z W - Y|^2 / (2N)``.

    By the singular values, at a cost that does not grow with the number of steps.

    Args:
        features: Features Z (N, P).
        targets: Targets Y (N, K).
        steps: Number of steps.
        step: Step size; None for 1/L.
        start: Weights (P, K) at the start; None for zeros.

    Returns:
        (P, K) float64.

    Example:
        >>> descended(torch.tensor([[2.0]]), torch.tensor([[2.0]]), steps=1, step=0.125)
        tensor([[0.5000]], dtype=torch.float64)
    """
    z, y = features.detach().double(), targets.detach().double()
    left, values, right = torch.linalg.svd(z, full_matrices=False)
    remaining = _remaining(values, len(z), steps, step)[:, None]
    # directions of no curvature are never entered
    inverse = torch.where(values > 0, 1 / values, 0.0)[:, None]
    gained = right.T @ ((1 - remaining) * inverse * (left.T @ y))
    if start is None:
        return gained
    start = start.detach().double()
    return start + gained - right.T @ ((1 - remaining) * (right @ start))


def _remaining(values: Tensor, rows: int, steps: int, step: float | None) -> Tensor:
    check_at_least(0, steps=steps)
    square = values.square()
    share = square / square[0] if step is None else step * square / rows
    return (1 - share) ** steps


def peak_height(widths: Sequence[int], errors: Tensor, rows: int) -> Tensor | None:
    """Return the largest error at widths near N over that of the widest network.

    Near N means 0.8 N to 1.25 N; the width to compare with is the one nearest to 6 N, as in
    experiments whose widths end there.

    Args:
        widths: Widths P.
        errors: Test errors (..., W), one for each width.
        rows: Number N of training rows.

    Returns:
        (...), 1 or less where there is no peak; None where no width is near N, or none is larger.

    Example:
        >>> peak_height([50, 100, 600], torch.tensor([0.6, 3.0, 0.5]), rows=100)
        tensor(6.)
    """
    near = [place for place, width in enumerate(widths) if 0.8 * rows <= width <= 1.25 * rows]
    wide = [place for place, width in enumerate(widths) if width > 1.25 * rows]
    if not near or not wide:
        return None
    last = min(wide, key=lambda place: abs(widths[place] - 6 * rows))
    return errors[..., near].amax(-1) / errors[..., last]
