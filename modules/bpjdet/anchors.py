"""Anchors: the published ones, how many objects they can find, and a search for better ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.utilities.checks import check_at_least, check_interval

P6_ANCHORS = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
"""Published widths and heights in pixels at strides 8, 16, 32 and 64, for images of 1280 pixels."""

MOST_SIZES = 10_000
"""Number of sizes to which a larger set is thinned for the search."""


def best_possible_recall(sizes: Tensor, anchors: Tensor, ratio: float = 4.0) -> float:
    """Return the share of objects that some anchor matches in width and height; 1 without objects.

    Args:
        sizes: Widths and heights in the pixels of the network's input, (n, 2).
        anchors: Widths and heights in the same pixels, (..., 2).
        ratio: Factor by which both sides must differ by less.

    Example:
        >>> import torch
        >>> from modules.bpjdet.anchors import best_possible_recall
        >>> sizes = torch.tensor([[10.0, 20], [10, 79], [10, 80]])
        >>> best_possible_recall(sizes, torch.tensor([[20.0, 20]]))
        0.6666666666666666
    """
    if not len(sizes):
        return 1.0
    return float((_closeness(_array(sizes), _array(anchors)) > 1 / ratio).mean())


def fit_anchors(
    sizes: Tensor,
    anchors: Tensor,
    ratio: float = 4.0,
    threshold: float = 0.98,
    generations: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Return anchors that fit the objects, or those that are there where these do.

    Where the best possible recall is below ``threshold``, the centers of a k-means clustering of
    the sizes are improved by a genetic search: each generation multiplies most of them by random
    factors and stays if the objects' mean closeness to their best anchor grows. The result goes to
    the levels by its area, and is taken only if its recall is higher. The same sizes and seed give
    the same anchors on every rank. Sizes that are not positive are left out, and where fewer
    different ones than anchors remain, the anchors stay as they are.

    Auto-anchor of YOLOv5, on which the paper's code stands; there the search sees all objects, here
    at most 10,000 of them.

    Args:
        sizes: Widths and heights in the pixels of the network's input, (n, 2).
        anchors: Widths and heights in the same pixels, (L, A, 2), levels from fine to coarse.
        ratio: Factor by which both sides of an object differ by less from those of its anchor.
        threshold: Best possible recall from which the anchors stay as they are.
        generations: Number of generations of the search.
        seed: Seed of the search.

    Returns:
        Anchors (L, A, 2) of the type of ``anchors``, on their device.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.bpjdet.anchors import P6_ANCHORS, best_possible_recall, fit_anchors
        >>> anchors, sizes = torch.tensor(P6_ANCHORS).float(), torch.rand(200, 2) * 8 + 4
        >>> best_possible_recall(sizes, anchors) < 0.98
        True
        >>> best_possible_recall(sizes, fit_anchors(sizes, anchors, generations=10))
        1.0
    """
    if sizes.ndim != 2 or sizes.shape[1] != 2:
        raise ValueError(f"sizes must be (n, 2), got {tuple(sizes.shape)}.")
    check_interval("[0, 1]", threshold=threshold)
    check_at_least(0, generations=generations)
    check_at_least(1, ratio=ratio)
    objects = _array(sizes)
    objects = objects[(np.isfinite(objects) & (objects > 0)).all(axis=1)]
    number = anchors.shape[:-1].numel()
    if len(np.unique(objects, axis=0)) < number:
        return anchors
    before = best_possible_recall(torch.from_numpy(objects), anchors, ratio)
    if before >= threshold:
        return anchors
    random = np.random.default_rng(seed)
    seen = objects
    if len(seen) > MOST_SIZES:
        seen = seen[np.sort(random.choice(len(seen), MOST_SIZES, replace=False))]
    found = _evolved(seen, _centers(seen, number, seed), ratio, generations, random)
    # the last bits, in which machines differ, go
    found = found[found.prod(axis=1).argsort(kind="stable")].round(2).clip(min=0.01)
    better = torch.from_numpy(found).reshape(anchors.shape).to(anchors)
    after = best_possible_recall(torch.from_numpy(objects), better, ratio)
    return better if after > before else anchors


def _centers(sizes: NDArray[np.float64], number: int, seed: int) -> NDArray[np.float64]:
    from sklearn.cluster import KMeans

    # a side that all objects share has no spread
    spread = np.maximum(sizes.std(axis=0), 1e-6)
    kmeans = KMeans(number, n_init=3, random_state=seed).fit(sizes / spread)
    centers: NDArray[np.float64] = kmeans.cluster_centers_ * spread
    return centers


def _evolved(
    sizes: NDArray[np.float64],
    anchors: NDArray[np.float64],
    ratio: float,
    generations: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    best = _fitness(sizes, anchors, ratio)
    for _ in range(generations):
        # near the optimum only small steps improve
        factor = random.normal(1, 0.1 * random.random(), anchors.shape).clip(0.3, 3)
        mutant = anchors * np.where(random.random(anchors.shape) < 0.9, factor, 1)
        fitness = _fitness(sizes, mutant, ratio)
        if fitness > best:
            anchors, best = mutant, fitness
    return anchors


def _fitness(sizes: NDArray[np.float64], anchors: NDArray[np.float64], ratio: float) -> float:
    """Return the mean closeness, in which an object without a matching anchor counts as 0."""
    closeness = _closeness(sizes, anchors)
    return float((closeness * (closeness > 1 / ratio)).mean())


def _closeness(sizes: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how close the best anchor is to each size, (n,): 1 if equal, else below."""
    quotient = sizes[:, None] / anchors
    closeness: NDArray[np.float64] = np.minimum(quotient, 1 / quotient).min(axis=2).max(axis=1)
    return closeness


def _array(sizes: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = sizes.detach().cpu().double().reshape(-1, 2).numpy()
    return array
