"""Augmentation and normalization of a training image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from framework.data.datasets import Sample
from framework.utilities.randomness import seeded


class Normalize:
    """Subtracts a mean and divides by a standard deviation per channel.

    Args:
        mean: Means of the C channels, or one for all, in units of images in [0, 1].
        std: Standard deviations, as many as ``mean`` has, positive.

    Raises:
        ValueError: the numbers of values differ, or a std is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(
                f"mean and std need as many values each and positive std, got {mean} and {std}."
            )
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the normalized image (..., C, H, W)."""
        return (image - self.mean) / self.std

    def undo(self, image: Tensor) -> Tensor:
        """Return the image (..., C, H, W) in [0, 1] of a normalized one."""
        return image * self.std + self.mean


class Augmentation:
    """Transforms a training image, normalizes it, and mixes it with another one.

    Mixup is that of Zhang et al. 2018, arXiv:1710.09412: the image and the one-hot label become
    λ x_i + (1 - λ) x_j and λ y_i + (1 - λ) y_j, λ ~ Beta(α, α). The authors' code draws one λ per
    batch and takes x_j from the same batch; here λ and x_j, from the whole training set, are drawn
    per sample, so that a sample does not depend on how batches fall on ranks.

    Args:
        transforms: Modules from image to image, such as those of ``torchvision.transforms.v2``.
        normalize: Normalization after the transforms.
        mixup: Parameter α of mixup; 0 for none.
        partners: Data set that x_j is drawn from, not yet normalized.
        num_classes: Classes K of the soft label (K,) float32 that mixup makes.
    """

    def __init__(
        self,
        transforms: Sequence[nn.Module],
        normalize: Callable[[Tensor], Tensor] | None,
        mixup: float,
        partners: Dataset[Sample],
        num_classes: int,
    ) -> None:
        self.transforms = nn.Sequential(*transforms)
        self.normalize = normalize
        self.share = torch.distributions.Beta(mixup, mixup) if mixup else None
        self.partners = partners
        self.num_classes = num_classes

    def __call__(self, sample: Sample) -> Sample:
        """Return the augmented sample; random numbers come from the global generators."""
        sample = {**sample, "image": self._view(sample["image"])}
        if self.share is not None:
            share = float(self.share.sample())
            row = int(torch.randint(len(self.partners), ()))  # type: ignore[arg-type]
            partner = self.partners[row]
            sample["image"] = torch.lerp(self._view(partner["image"]), sample["image"], share)
            sample["label"] = torch.lerp(
                self._one_hot(partner["label"]), self._one_hot(sample["label"]), share
            )
        return sample

    def _view(self, image: Tensor) -> Tensor:
        image = self.transforms(image)
        return image if self.normalize is None else self.normalize(image)

    def _one_hot(self, label: Tensor) -> Tensor:
        return F.one_hot(label, self.num_classes).float()


def check_keeps_shape(
    transforms: Sequence[nn.Module], image: Tensor, shape: Sequence[int], advice: str
) -> None:
    """Refuse transforms that make another shape than evaluation has, by trying them once.

    Args:
        transforms: Modules from image to image.
        image: Image that they get in training.
        shape: Shape (C, H, W) of evaluation.
        advice: What to do, for the message.

    Raises:
        ValueError: both shapes.
    """
    with seeded("check of augment"):
        found = nn.Sequential(*transforms)(image).shape
    if tuple(found) != tuple(shape):
        raise ValueError(
            f"augment makes images of shape {list(found)}, and evaluation has {list(shape)}: "
            f"{advice}."
        )
