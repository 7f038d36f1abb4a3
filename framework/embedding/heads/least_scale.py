"""The least scale with which softmax of cosines can be sure of a class."""

from __future__ import annotations

import math

from framework.utilities.checks import check_at_least, check_interval


def least_scale(num_classes: int, probability: float = 0.9999) -> float:
    """Return the scale at which a perfect embedding of a class gets a probability.

    Perfect are class vectors as far apart as so many can be, and an embedding along its own. With a
    smaller scale the loss pulls at samples that nothing can improve.

    Args:
        num_classes: Number C of classes, at least 2.
        probability: Probability of the own class, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.

    Paper: Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition.
    arXiv:1801.09414

    Example:
        >>> round(least_scale(num_classes=93431), 6)
        20.654987
    """
    check_at_least(2, num_classes=num_classes)
    check_interval("(0, 1)", probability=probability)
    others = num_classes - 1
    return others / num_classes * math.log(others * probability / (1 - probability))
