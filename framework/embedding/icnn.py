"""The Inter- and Intra-Class Nearest Neighbors score, as a number and as a loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from framework.embedding.prototypes import distances
from framework.utilities.checks import check_at_least

EPS = 1e-7
LEAST_SCORE = 1e-6
"""Score that a loss takes the logarithm of at least."""


class ICNN(NamedTuple):
    """Parts of the score, each of every episode (...).

    Args:
        same: How near neighbors of the same class are, in the unit of the nearest other point.
        different: How far neighbors of other classes are.
        share: Mean share of the same class among the neighbors, without a gradient.
        variance: One minus the variances of both kinds of distances.
        score: Mean of these, as ``use_variance`` says, in (0, 1]; higher is better.
    """

    same: Tensor
    different: Tensor
    share: Tensor
    variance: Tensor
    score: Tensor


def icnn_score(
    embedding: Tensor,
    label: Tensor,
    targets: Tensor | None = None,
    target_label: Tensor | None = None,
    k: int = 4,
    neighborhood: int | None = None,
    use_variance: bool = False,
) -> ICNN:
    r"""Return how well the neighborhoods of points say their classes.

    The k nearest targets of every point count; the distance to the nearest one of another class
    among its ``neighborhood`` nearest is the unit of those of its own class. With k + 2 targets or
    fewer, k is two less than their number, and the share of the same class counts as 1.

    Paper: Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv:2305.09062, as in the
    authors' code, but that no point is left out where the targets are another set.

    Args:
        embedding: Points (..., n, d).
        label: Their classes (..., n) int64.
        targets: Points among which neighbors are sought, (..., m, d); default the points
            themselves, each without itself.
        target_label: Classes of the targets (..., m) int64.
        k: Number of neighbors.
        neighborhood: Number of nearest targets among which the nearest one of another class is
            sought; default k + 1.
        use_variance: Whether the score is the mean of three parts, the third of which falls with
            the variance of the distances of a point's neighbors. The paper's earlier form has it,
            the authors' code does not.

    Raises:
        ValueError: There are fewer than three targets, or points without a class.

    Example:
        >>> points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [4, 4], [4, 5], [5, 4]])
        >>> label = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> round(float(icnn_score(points, label, k=2, neighborhood=3).score), 4)
        0.9464
    """
    itself = targets is None
    if targets is None:
        targets, target_label = embedding, label
    if target_label is None:
        raise ValueError("ICNN needs the classes of the targets: give target_label.")
    number = targets.shape[-2]
    if number < 3:
        raise ValueError(
            f"ICNN needs three targets at least, got {number}: give more classes, or more images "
            "of each."
        )
    _check_label(embedding, label, "label")
    _check_label(targets, target_label, "target_label")
    all_near = k + 2 >= number
    k = number - 2 if all_near else k
    found = distances(embedding, targets)
    if itself:
        # by position: other points may lie in the same place
        diagonal = torch.eye(number, dtype=torch.bool, device=found.device)
        found = found.masked_fill(diagonal, float("inf"))
    within = max(k + 1 if neighborhood is None else neighborhood, k)
    near, place = found.topk(min(within, number - itself), dim=-1, largest=False)
    neighbor = target_label[..., None, :].expand_as(found).gather(-1, place)
    same = neighbor == label[..., None]
    nearest_other = near.masked_fill(same, float("inf")).amin(-1, keepdim=True)
    near, same = near[..., :k], same[..., :k]
    return _score(near, same, nearest_other, all_near, use_variance)


def _check_label(points: Tensor, label: Tensor, name: str) -> None:
    if label.shape != points.shape[:-1]:
        raise ValueError(
            f"{name} must have the shape {tuple(points.shape[:-1])}, a class of each point, got "
            f"{tuple(label.shape)}."
        )


def _score(
    near: Tensor, same: Tensor, nearest_other: Tensor, all_near: bool, use_variance: bool
) -> ICNN:
    """Return the score of points whose k neighbors are at distances ``near``, (..., n, k)."""
    pull = near / (nearest_other + EPS)
    pull = pull / pull.amax(-1, keepdim=True).clamp(min=1)
    pull_mean, pull_variance, has_same = _moments(pull, same)
    push = near.masked_fill(same, 0.0)
    push = push / (push.amax((-2, -1), keepdim=True) + EPS)
    push_mean, push_variance, has_other = _moments(push, ~same)
    # where every neighbor is of the own class, others are as far as can be
    alone = (~has_other.any(-1)).to(near.dtype)
    lambda_same = 1 - _mean(pull_mean, has_same)
    lambda_different = (_mean(push_mean, has_other) - alone).abs()
    share = same.to(near.dtype).mean((-2, -1))
    if all_near:
        share = torch.ones_like(share)
    variance = 1 - _mean(pull_variance, has_same) - _mean(push_variance, has_other)
    separation = (lambda_same + lambda_different) / 2
    score = (separation + share + variance) / 3 if use_variance else (separation + share) / 2
    return ICNN(lambda_same, lambda_different, share, variance, score)


def _moments(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance over the chosen neighbors of every point, and if it has any."""
    weight = chosen.to(values.dtype)
    count = weight.sum(-1)
    mean = (values * weight).sum(-1) / (count + EPS)
    square = ((values - mean[..., None]).square() * weight).sum(-1) / (count + EPS)
    return mean, square, count > 0


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    weight = chosen.to(values.dtype)
    return (values * weight).sum(-1) / (weight.sum(-1) + EPS)


class ICNNLoss(nn.Module):
    """Negative logarithm of the ICNN score: neighbors of a point shall be of its class, and near.

    It is at least 0, and small beside a cross-entropy at the start: an average of both halves the
    gradient of the latter. Neighbors are chosen anew in every call, so that the gradient jumps
    where they change, and is finite.

    Shapes: points (..., n, d) and labels (..., n) int64, and of other targets (..., m, d) and
    (..., m); returns one value per episode, (...), of one episode a scalar.

    Paper: Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv:2305.09062.

    Args:
        k: Number of neighbors.
        neighborhood: Number of nearest targets among which the nearest one of another class is
            sought; default k + 1.
        use_variance: Whether the variance of the distances counts as a third part.

    Raises:
        ValueError: An argument out of its range, or fewer than three targets.

    Example:
        >>> points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [4, 4], [4, 5], [5, 4]])
        >>> label = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> round(float(ICNNLoss(k=2, neighborhood=3)(points, label)), 4)
        0.0551
    """

    def __init__(
        self, k: int = 4, neighborhood: int | None = None, use_variance: bool = False
    ) -> None:
        super().__init__()
        check_at_least(1, k=k, neighborhood=neighborhood)
        self.k = k
        self.neighborhood = neighborhood
        self.use_variance = use_variance

    def forward(
        self,
        embedding: Tensor,
        label: Tensor,
        targets: Tensor | None = None,
        target_label: Tensor | None = None,
        neighborhood: int | None = None,
    ) -> Tensor:
        """Return the loss of every episode.

        Args:
            embedding: Points (..., n, d).
            label: Their classes (..., n).
            targets: Points among which neighbors are sought, (..., m, d); default the points.
            target_label: Classes of the targets (..., m).
            neighborhood: Neighborhood where the constructor has none.
        """
        found = icnn_score(
            embedding,
            label,
            targets,
            target_label,
            self.k,
            neighborhood if self.neighborhood is None else self.neighborhood,
            self.use_variance,
        )
        return -found.score.clamp(min=LEAST_SCORE).log()
