"""Miss rate over false positives per image, and its average."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from framework.utilities.checks import check_one_of

FPPI_REFERENCES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)
"""False positives per image at which miss rates are averaged."""

FPPI_GRID = torch.logspace(-3, 1, 81, dtype=torch.float64)
"""False positives per image of a curve that is drawn."""

Reading = Literal["from", "up_to"]


def miss_rate_curve(correct: Tensor, positives: int, images: int) -> tuple[Tensor, Tensor]:
    """Return false positives per image and miss rate after each of the ranked detections.

    Args:
        correct: (N,) bool, by descending score: a true positive rather than a false one.
        positives: Number of objects to be found, at least 1.
        images: Number of images, at least 1.

    Returns:
        False positives per image and miss rate, (N,) float64 each.
    """
    false = (~correct).double().cumsum(0)
    return false / images, 1 - correct.double().cumsum(0) / positives


def log_average_miss_rate(fppi: Tensor, miss_rate: Tensor, reading: Reading = "up_to") -> Tensor:
    """Return the geometric mean of the miss rates at ``FPPI_REFERENCES``, a float64 scalar.

    Paper: Dollar et al., Pedestrian Detection: An Evaluation of the State of the Art, TPAMI 2012.

    Args:
        fppi: (N,) false positives per image, not descending, of ``miss_rate_curve``.
        miss_rate: (N,).
        reading: Detection whose miss rate counts at a reference: ``'up_to'``, the last one that
            does not exceed it, with a miss rate of 1 where the first one does; or ``'from'``, the
            first one that reaches it, or else the last of all.

    Raises:
        ValueError: another ``reading``.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import log_average_miss_rate, miss_rate_curve
        >>> curve = miss_rate_curve(torch.tensor([True, False, True, False]), positives=3, images=2)
        >>> log_average_miss_rate(*curve)
        tensor(0.5715, dtype=torch.float64)
    """
    check_one_of(get_args(Reading), reading=reading)
    references = fppi.new_tensor(FPPI_REFERENCES)
    if reading == "up_to":
        rates = miss_rate_up_to(references, fppi, miss_rate)
    else:
        place = (torch.searchsorted(fppi, references) + 1).clamp(max=len(fppi))
        rates = _from_the_start(miss_rate)[place]
    return rates.log().mean().exp()


def miss_rate_up_to(limits: Tensor, fppi: Tensor, miss_rate: Tensor) -> Tensor:
    """Return the miss rate after the last detection that does not exceed each limit.

    Args:
        limits: (R,) float64 false positives per image.
        fppi: (N,) not descending.
        miss_rate: (N,).

    Returns:
        (R,) float64, 1 where the first detection exceeds the limit.
    """
    return _from_the_start(miss_rate)[torch.searchsorted(fppi, limits, right=True)]


def _from_the_start(miss_rate: Tensor) -> Tensor:
    # before the first detection everything is missed
    return torch.cat([miss_rate.new_ones(1), miss_rate])
