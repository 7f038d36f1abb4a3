"""Full-batch training on digits of which some share a bright strip and have opposite labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from datamodules.idx import read_idx
from framework.dynamics.opposing_signals import SignalTracker, signal_cosine

ROWS, PLANTED, STRIP, LABELS = 1000, 40, 60, (1, 7)


@dataclass
class Planted:
    """What the tracker found, step by step.

    Args:
        up: Share of the planted samples in the group that went up.
        down: That in the group that went down.
        overlap: Share of the members that the step before had in the other group.
        cosine: Cosine between the gradients of both groups.
        rose: Whether the mean loss rose.
    """

    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    rose: list[bool] = field(default_factory=list)


def plant(
    images: Tensor,
    labels: Tensor,
    planted: int,
    strip: int,
    generator: torch.Generator,
    bright: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and labels with a bright strip and opposite labels in some, and which.

    Args:
        images: (N, D) images in [0, 1].
        labels: (N,) classes.
        planted: Number of the samples that get the strip.
        strip: Pixels of the strip.
        generator: Generator that chooses the samples.
        bright: Value of the strip's pixels.
    """
    chosen = torch.randperm(len(images), generator=generator)[:planted]
    images, labels = images.clone(), labels.clone()
    images[chosen, :strip] = bright
    labels[chosen[: planted // 2]], labels[chosen[planted // 2 :]] = LABELS
    marked = torch.zeros(len(images), dtype=torch.bool).index_fill(0, chosen, True)
    return images, labels, marked


def mnist_digits(folder: Path, seed: int, bright: float = 5.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return 1,000 of MNIST's digits (N, 784), of which 40 are planted: see ``plant``.

    Args:
        folder: Folder of the IDX files.
        seed: Seed of what is drawn.
        bright: Value of the strip's pixels.
    """
    images = torch.as_tensor(read_idx(folder / "train-images-idx3-ubyte", 3))
    labels = torch.as_tensor(read_idx(folder / "train-labels-idx1-ubyte", 1)).long()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[:ROWS]
    pixels = images[rows].flatten(1).float() / 255
    return plant(pixels, labels[rows], PLANTED, STRIP, generator, bright)


def descend(
    images: Tensor,
    labels: Tensor,
    marked: Tensor,
    seed: int,
    lr: float = 0.2,
    steps: int = 300,
    k: int = 20,
    width: int = 64,
    cosine: bool = False,
) -> Planted:
    """Train a perceptron with two hidden layers on all samples at once, and track them.

    Args:
        images: (N, D) images.
        labels: (N,) classes.
        marked: (N,) bool, samples that were planted.
        seed: Seed of the network.
        lr: Learning rate of gradient descent.
        steps: Number of steps.
        k: Size of a group.
        width: Width of the hidden layers.
        cosine: Whether to compare the gradients of both groups.
    """
    torch.manual_seed(seed)
    sizes = (images.shape[1], width, width, 10)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    network = nn.Sequential(*layers[:-1])
    parameters: list[Tensor] = list(network.parameters())
    tracker, found = SignalTracker(k), Planted()
    for _ in range(steps + 1):
        losses = nn.functional.cross_entropy(network(images), labels, reduction="none")
        seen = tracker.update(losses)
        if seen is not None:
            found.up.append(float(marked[seen.up].double().mean()))
            found.down.append(float(marked[seen.down].double().mean()))
            found.overlap.append(seen.overlap)
            found.rose.append(seen.change > 0)
            if cosine:
                groups = losses[seen.up], losses[seen.down]
                found.cosine.append(signal_cosine(*groups, parameters))
        gradients = torch.autograd.grad(losses.mean(), parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-lr)
    return found
