"""Templates: several images of one person, in photographs and videos, as one vector."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.ops.cosines import BLOCK
from framework.utilities.precision import at_least_float32


class Templates(NamedTuple):
    """One vector for each template.

    Args:
        number: Numbers of the templates, ascending, (T,) int64.
        vector: Their vectors, of norm 1, (T, d).
    """

    number: Tensor
    vector: Tensor


def pool_templates(
    embedding: Tensor,
    template: Tensor,
    media: Tensor,
    *,
    norm_score: bool = True,
    faceness: Tensor | None = None,
) -> Templates:
    """Return the vector of each template, as of IJB-B and IJB-C.

    Images of one medium, such as frames of a video, are averaged within a template, media are
    summed, and the sum gets norm 1. By default an image counts by the norm of its embedding, which
    says how well a face is seen. Where an image's mirror is embedded too, the sum of both is given.

    Args:
        embedding: Embedding of each image, (N, d).
        template: Number of its template, (N,) int64.
        media: Number of its medium, (N,) int64.
        norm_score: Whether an image counts by the norm of its embedding; otherwise all alike.
        faceness: How certainly each image shows a face, (N,), by which it counts too.

    Example:
        >>> images = torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, 2.0]])
        >>> pool_templates(images, torch.tensor([7, 7, 7]), torch.tensor([0, 1, 1])).vector
        tensor([[0.5547, 0.8321]])
    """
    embedding = at_least_float32(embedding)
    if not norm_score:
        embedding = F.normalize(embedding, dim=1)
    number, row = template.unique(return_inverse=True)
    medium = media.unique(return_inverse=True)[1]
    # of each medium in each template the mean: an image weighs one through its images
    _, group, images = (row * (len(media) + 1) + medium).unique(
        return_inverse=True, return_counts=True
    )
    weight = 1 / images[group].to(embedding)
    if faceness is not None:
        weight = weight * faceness.to(embedding)
    # the sum of thousands of images in float64
    total = torch.zeros(
        len(number), embedding.shape[1], dtype=torch.float64, device=embedding.device
    )
    for rows in torch.arange(len(row), device=row.device).split(
        max(1, BLOCK // max(1, embedding.shape[1]))
    ):
        total.index_add_(0, row[rows], (embedding[rows] * weight[rows, None]).double())
    return Templates(number, F.normalize(total, dim=1).to(embedding.dtype))


def template_scores(templates: Templates, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of pairs of templates, and which pairs these are.

    Args:
        templates: Templates.
        first: Number of the first template of each pair, (M,) int64.
        second: Number of the second.

    Returns:
        Cosines (m,) of the pairs of which both templates are there, and which these are, (M,) bool.
    """
    number, vector = templates
    last = max(0, len(number) - 1)
    rows = [torch.searchsorted(number, part).clamp(max=last) for part in (first, second)]
    if not len(number):
        return vector.new_zeros(0), torch.zeros_like(first, dtype=torch.bool)
    known = (number[rows[0]] == first) & (number[rows[1]] == second)
    size = max(1, BLOCK // max(1, vector.shape[1]))
    parts = zip(rows[0][known].split(size), rows[1][known].split(size), strict=True)
    scores = [(vector[one] * vector[other]).sum(1) for one, other in parts]
    return torch.cat(scores), known
