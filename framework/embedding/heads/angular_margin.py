"""Margins that are added to the angle of an embedding and the vector of its class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BEYOND = ("guard", "easy", "none")
GRADIENTS = ("exact", "straight_through")
CLAMP = 1e-7


def clamped(cosine: Tensor) -> Tensor:
    """Return cosines inside (-1, 1), where the angle has a finite gradient."""
    return cosine.clamp(-1 + CLAMP, 1 - CLAMP)


def shifted_cosine(
    cosine: Tensor, margin: Tensor | float, beyond: str = "guard", multiplier: float = 1.0
) -> Tensor:
    r"""Return :math:`\cos(m_1 \theta + m)` of :math:`\cos\theta`, with care where it turns.

    Beyond :math:`m_1 \theta + m = \pi` it would rise with the angle. ``'guard'`` takes
    :math:`\cos\theta - m \sin m` there (with :math:`m_1 \ne 1` the continuous
    :math:`\cos\theta - \cos\theta_0 - 1`, where :math:`\theta_0` is the angle of the bound),
    ``'easy'`` adds no margin where :math:`\cos\theta \le 0`, ``'none'`` takes it as it is.

    Args:
        cosine: (B,).
        margin: Angle m that is added, in radians, a number or one for each row.
        beyond: What to do beyond the bound: ``'guard'``, ``'easy'`` or ``'none'``.
        multiplier: Number m_1 that multiplies the angle.
    """
    cosine = clamped(cosine)
    angle = multiplier * cosine.acos() + margin
    shifted = angle.cos()
    if beyond == "easy":
        return torch.where(cosine > 0, shifted, cosine)
    if beyond == "none":
        return shifted
    drop: Tensor | float
    if multiplier != 1:
        drop = 1 + _cos((math.pi - margin) / multiplier)
    else:
        drop = margin * _cos(margin - math.pi / 2)
    return torch.where(angle <= math.pi, shifted, cosine - drop)


def straight_through(cosine: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``cosine``."""
    return cosine + (value - cosine).detach()


def _cos(angle: Tensor | float) -> Tensor | float:
    return angle.cos() if isinstance(angle, Tensor) else math.cos(angle)
