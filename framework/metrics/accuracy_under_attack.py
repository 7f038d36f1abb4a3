"""Accuracy under attack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.attacks.attack import Attack, Forward, under_attack
from framework.distributed.collectives import shared_generator
from framework.objectives.labels import IGNORE_INDEX
from framework.utilities.randomness import global_seed


def correct_under_attack(
    model: Forward,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return which rows are still classified correctly after an attack on their cross-entropy.

    The model is attacked and asked in evaluation mode, and is as it was afterwards. Parameters get
    no gradient. It works inside ``torch.no_grad`` and ``torch.inference_mode``, and with several
    ranks all must call it.

    Args:
        model: Module, or function, from images to logits (B, C); the modules behind a function
            keep their modes.
        images: Images (B, ...); B may be 0.
        labels: Classes (B,) int64.
        attack: Attack that looks for images near the given ones, such as ``PGDAttack``; it is told
            how the images are normalized by its ``mean`` and ``std``.
        generator: Generator of random starts, in the same state on every rank; default one that
            depends on the run's seed alone.

    Returns:
        Correctness (B,) bool.

    Raises:
        ValueError: The model returns no logits (B, C).

    Example:
        >>> from framework.attacks.pgd import PGDAttack
        >>> images, labels = torch.tensor([[0.9, 0.1], [0.55, 0.45]]), torch.tensor([0, 0])
        >>> correct_under_attack(torch.nn.Identity(), images, labels, PGDAttack(eps=0.2, steps=5))
        tensor([ True, False])
    """
    with torch.inference_mode(False):
        # a tensor of inference mode cannot take part in a gradient
        labels = labels.clone()
    if generator is None:
        generator = shared_generator(global_seed(), 0, "robust_accuracy", images.device)

    def objective(logits: Tensor) -> Tensor:
        if logits.ndim != 2:
            raise ValueError(
                f"Accuracy under attack needs logits (B, C), got {tuple(logits.shape)}."
            )
        return F.cross_entropy(logits.float(), labels, reduction="sum")

    attacked = attack.perturb(model, images, objective, generator=generator)
    with under_attack(model, images.device), torch.no_grad():
        return model(attacked).argmax(1) == labels


def robust_accuracy(
    model: Forward,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the accuracy under attack on this rank's rows, a scalar; NaN without rows.

    Rows whose label is -100 do not count.

    Arguments and errors are those of ``correct_under_attack``.

    Example:
        >>> from framework.attacks.pgd import PGDAttack
        >>> images, labels = torch.tensor([[0.9, 0.1], [0.55, 0.45]]), torch.tensor([0, 0])
        >>> robust_accuracy(torch.nn.Identity(), images, labels, PGDAttack(eps=0.2, steps=5))
        tensor(0.5000)
    """
    right = correct_under_attack(model, images, labels, attack, generator)
    return right.sum() / (labels != IGNORE_INDEX).sum()
