"""The learning-rate schedule that fits the gradient norms of an earlier run best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from framework.utilities.checks import check_at_least, check_interval, check_one_of, check_positive

POWERS = {"sgd": 2.0, "adam": 1.0}
"""Power p of the weights ``norm ** -p``, by the kind of optimizer."""
EARLY, SHARE = 0.2, 0.5
"""Share of the run within which a schedule that falls below this share of the linear decay is
worth a warning, where it begins with its peak."""


def refine_schedule(
    norms: Tensor | Sequence[float],
    total_steps: int,
    kind: Literal["sgd", "adam"] | float = "sgd",
    smoothing: float = 0.1,
    ignore_first: float = 0.0,
    floor: float = 0.0,
) -> Tensor:
    """Return the schedule that minimizes the bound of the last iterate for these gradient norms.

    With the smoothed norms G_t of steps t = 1, ..., T and w_t = G_t ** -p it is
    ``w_t * (w_{t+1} + ... + w_T)``, divided by its maximum, and so 0 in the last step. Equal norms
    give the linear decay, of which the norms' scale is no part.

    The norms are smoothed by a median over ``smoothing * T`` steps, so that outliers have no
    effect. Values that are not finite are interpolated before, and a series of another length is
    stretched to T.

    Shapes: norms (n,), n >= 1; returns (T,) float64.

    Paper: Defazio et al., *When, Why and How Much? Adaptive Learning Rate Scheduling by
    Refinement*, 2023, arXiv:2310.07831. The authors' plots take the width of the median from
    10,000 steps whatever T is, and leave two steps out at each end; here the width is that of the
    paper, and every step counts. ``ignore_first`` and ``floor`` are ours.

    Args:
        norms: Norms of the gradients, one per optimizer step.
        total_steps: Optimizer steps T of the schedule.
        kind: Kind of the optimizer, ``'sgd'`` for p = 2 on L2 norms, ``'adam'`` for p = 1 on L1
            norms; or the power p itself.
        smoothing: Share of the steps that the median is taken over, in [0, 1].
        ignore_first: Share of the first steps whose norms are replaced by the next one, in [0, 1).
        floor: Share of the median norm that no smoothed norm falls below; 0 for none.

    Raises:
        ValueError: An argument is out of range, a norm is negative, none is finite, or a smoothed
            norm is 0 and so its weight infinite.

    Example:
        >>> refine_schedule([4.0, 2.0, 1.0, 1.0, 2.0], total_steps=5, kind="sgd")
        tensor([0.1250, 0.4500, 1.0000, 0.2000, 0.0000], dtype=torch.float64)
    """
    power = check_refinement(total_steps, kind, smoothing, ignore_first, floor)
    series = resampled(_finite(norms), total_steps)
    ignored = _floor_of(ignore_first, total_steps)
    series[:ignored] = series[ignored]
    smooth = _median_filtered(series, smoothing)
    smooth = np.maximum(smooth, floor * np.median(smooth))
    if smooth.min() <= 0:
        raise ValueError(
            f"The smoothed gradient norm is 0 in step {int(smooth.argmin())} of {total_steps}, "
            "whose weight would be infinite: set floor, such as 0.001."
        )
    # in units of the largest norm, so that no weight is more than it can hold
    with np.errstate(all="ignore"):
        weights = (smooth / smooth.max()) ** -power
        rest = np.append(weights[::-1].cumsum()[::-1][1:], 0.0)
        schedule = weights * rest
    if not math.isfinite(schedule.max()):
        raise ValueError(
            "The gradient norms differ so much that their weights are too large for a number: set "
            "floor, such as 0.001."
        )
    if schedule.max() > 0:  # it is 0 where there is one step only
        schedule /= schedule.max()
    _warn_of_early_peak(schedule)
    return torch.from_numpy(schedule)


def check_refinement(
    total_steps: int, kind: str | float, smoothing: float, ignore_first: float, floor: float
) -> float:
    """Return the power p of a kind, or raise ``ValueError`` for an argument out of range."""
    check_at_least(1, total_steps=total_steps)
    check_interval("[0, 1]", smoothing=smoothing)
    check_interval("[0, 1)", ignore_first=ignore_first)
    check_at_least(0, floor=floor)
    if isinstance(kind, str):
        check_one_of(POWERS, kind=kind)
        return POWERS[kind]
    check_positive(kind=kind)
    return float(kind)


def _finite(norms: Tensor | Sequence[float]) -> np.ndarray:
    """Return the norms in float64, with those that are not finite interpolated."""
    series = torch.as_tensor(norms, dtype=torch.float64).detach().cpu().numpy()
    if series.ndim != 1:
        raise ValueError(f"norms must be one value per step, got the shape {series.shape}.")
    known = np.isfinite(series)
    if not known.any():
        raise ValueError("norms hold no finite value, so that there is nothing to refine.")
    if series[known].min() < 0:
        raise ValueError(f"norms must be at least 0, got {series[known].min():g}.")
    steps = np.arange(len(series))
    return np.interp(steps, steps[known], series[known])


def resampled(series: np.ndarray, total_steps: int) -> np.ndarray:
    """Return a series of another length, by linear interpolation."""
    if len(series) == total_steps:
        return series
    places = np.linspace(0, len(series) - 1, total_steps)
    return np.interp(places, np.arange(len(series)), series)


def _median_filtered(series: np.ndarray, smoothing: float) -> np.ndarray:
    """Return medians over an odd number of steps; the right end is reflected, the left repeated."""
    from scipy.ndimage import median_filter

    width = 2 * (_floor_of(smoothing, len(series)) // 2) + 1
    padded = np.pad(series, (0, 2 * width), mode="reflect")
    return median_filter(padded, size=width, mode="nearest")[: len(series)]


def _floor_of(share: float, steps: int) -> int:
    # 0.29 * 100 is 28.999999999999996 in floating point
    return math.floor(share * steps + 1e-9)


def _warn_of_early_peak(schedule: np.ndarray) -> None:
    early = np.arange(1, 1 + _floor_of(EARLY, len(schedule)))
    if schedule.argmax() != 0 or not len(early):
        return
    shares = schedule[early] / (1 - early / len(schedule))
    if shares.min() < SHARE:
        step = int(early[shares.argmin()])
        warnings.warn(
            f"The refined schedule is largest in its first step and falls to {schedule[step]:.2f} "
            f"by step {step} of {len(schedule)}, as the norms of the first steps are small: set "
            "ignore_first, such as 0.1, to leave them out.",
            stacklevel=3,
        )
