"""What the features that an evaluation learns from must be."""

from __future__ import annotations

from torch import Tensor


def check_features(feature: Tensor, label: Tensor, num_classes: int) -> None:
    """Refuse what is not features (N, D) with a class in 0..K-1 each.

    Raises:
        ValueError: What was found.
    """
    if feature.ndim != 2 or label.shape != feature.shape[:1]:
        raise ValueError(
            "features must be (N, D) with labels (N,), got "
            f"{tuple(feature.shape)} and {tuple(label.shape)}."
        )
    if not len(label):
        raise ValueError("There is no labeled row to tell classes by: give labels from 0 on.")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes - 1}], the classes, and lie in [{low}, {high}]."
        )
