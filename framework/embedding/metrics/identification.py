"""Identification: whose face is it, among many others or of a gallery, if of anyone in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.embedding.metrics.roc import tar_at_far
from framework.embedding.metrics.score_blocks import ScoreSummary, summarize_scores
from framework.ops.cosines import BLOCK, full_precision, row_blocks, unit
from framework.utilities.checks import check_at_least


class Identified(NamedTuple):
    """Shares of probes that are found.

    Args:
        rate: Share found at a rank of at most k, for each k, (n,) float64.
        number: What the shares are of.
    """

    rate: Tensor
    number: int


class OpenSet(NamedTuple):
    """Errors of probes of which some are of nobody in the gallery.

    Args:
        fnir: Share of probes of the gallery's people that are not found, at each FPIR, (F,).
        threshold: Cosine above which a probe is taken for the nearest person, (F,).
        fpir: Share of the other probes that are taken for someone, as it came about, (F,).
    """

    fnir: Tensor
    threshold: Tensor
    fpir: Tensor


def identify_among_distractors(
    probe: Tensor, label: Tensor, distractor: Tensor, ks: Sequence[int] = (1,), block: int = BLOCK
) -> Identified:
    """Return how often an image finds another one of its person among distractors, as of MegaFace.

    For every ordered pair of a person's images the gallery is the second one and all distractors;
    its rank is 1 + the number of distractors that are nearer to the first.

    Args:
        probe: Embeddings of P images of persons, (P, d).
        label: Person of each, (P,) int64.
        distractor: Embeddings of images of others, (D, d).
        ks: Ranks k.
        block: Similarities that are in memory at a time.

    Example:
        >>> probe = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
        >>> distractor = torch.tensor([[0.9, 0.1]])
        >>> identify_among_distractors(probe, torch.tensor([5, 5]), distractor).rate.tolist()
        [0.0]
    """
    check_ranks(ks)
    probe, distractor = unit(probe), unit(distractor)
    found = torch.zeros(len(ks), dtype=torch.int64, device=probe.device)
    pairs = 0
    limits = torch.tensor(list(ks), device=probe.device)
    columns = min(len(distractor), max(1, block // 64))
    for rows in row_blocks(len(probe), max(len(probe), columns), block):
        nearest = probe.new_zeros(rows.stop - rows.start, 0)
        for part in distractor.split(max(1, columns)):
            with full_precision(probe.device):
                scores = torch.cat([nearest, probe[rows] @ part.T], 1)
            # a rank beyond the last that is asked for makes no difference
            nearest = scores.topk(min(max(ks), scores.shape[1])).values
        with full_precision(probe.device):
            own = probe[rows] @ probe.T
        mate = label[rows, None] == label
        mate[:, rows].fill_diagonal_(False)
        row, column = mate.nonzero(as_tuple=True)
        nearer = (nearest[row] > own[row, column, None]).sum(1)
        found += (nearer[:, None] < limits).sum(0)
        pairs += len(row)
    return Identified(found.double() / pairs, pairs)


def verify_against_distractors(
    probe: Tensor, label: Tensor, distractor: Tensor, far: Sequence[float], block: int = BLOCK
) -> ScoreSummary:
    """Return TAR@FAR, exactly, of a person's pairs of images, and of images with distractors.

    Args:
        probe: Embeddings of P images of persons, (P, d).
        label: Person of each, (P,) int64.
        distractor: Embeddings of images of others, (D, d).
        far: False acceptance rates.
        block: Similarities that are in memory at a time.
    """
    probe, distractor = unit(probe), unit(distractor)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in row_blocks(len(probe), len(probe), block):
            with full_precision(probe.device):
                own = probe[rows] @ probe.T
            place = torch.arange(len(probe), device=probe.device)
            mate = (label[rows, None] == label) & (place[rows, None] < place)
            yield own[mate], mate[mate]
        for rows in row_blocks(len(distractor), len(probe), block):
            with full_precision(probe.device):
                scores = (distractor[rows] @ probe.T).flatten()
            yield scores, torch.zeros_like(scores, dtype=torch.bool)

    return summarize_scores(blocks, far, probe.device)


def identify(
    probe: Tensor,
    label: Tensor,
    gallery: Tensor,
    gallery_label: Tensor,
    ks: Sequence[int] = (1,),
    fpir: Sequence[float] = (),
    block: int = BLOCK,
) -> tuple[Identified, OpenSet]:
    """Return how often probes find their person in a gallery, and the errors where some have none.

    A person's score is that of the nearest of his or her images, and the rank 1 + the number of
    persons with a higher one. In the open set a probe is taken for the nearest person if the score
    is above a threshold, which is chosen as by ``tar_at_far`` on probes of nobody in the gallery.

    Args:
        probe: Embeddings of the probes, (P, d).
        label: Person of each, (P,) int64.
        gallery: Embeddings of the gallery, (G, d).
        gallery_label: Person of each, (G,) int64.
        ks: Ranks k.
        fpir: False positive identification rates; with any there must be probes of both kinds.
        block: Similarities that are in memory at a time.

    Raises:
        ValueError: A rank below 1, or an empty gallery.

    Example:
        >>> gallery, persons = torch.eye(2), torch.tensor([3, 8])
        >>> probe = torch.tensor([[0.9, 0.1], [0.4, 0.5]])
        >>> identify(probe, torch.tensor([3, 3]), gallery, persons, ks=(1, 2))[0].rate.tolist()
        [0.5, 1.0]
    """
    check_ranks(ks)
    if not len(gallery):
        raise ValueError("The gallery has no image.")
    probe, gallery = unit(probe), unit(gallery)
    persons, column = gallery_label.unique(return_inverse=True)
    own = torch.searchsorted(persons, label).clamp(max=len(persons) - 1)
    mated = persons[own] == label
    best, rank = [probe.new_zeros(0)], [label.new_zeros(0)]
    for rows in row_blocks(len(probe), len(gallery), block):
        with full_precision(probe.device):
            images = probe[rows] @ gallery.T
        score = images.new_full((len(images), len(persons)), -torch.inf)
        score.scatter_reduce_(1, column.expand_as(images), images, "amax")
        best.append(score.amax(1))
        rank.append(1 + (score > score.gather(1, own[rows, None])).sum(1))
    ranks, scores = torch.cat(rank), torch.cat(best)
    limits = torch.tensor(list(ks), device=probe.device)
    number = int(mated.sum())
    rate = (ranks[mated, None] <= limits).sum(0).double() / number
    # who is not at the first rank is not found at any threshold
    scores = torch.where(mated & (ranks > 1), -torch.inf, scores)
    if not fpir:
        return Identified(rate, number), OpenSet(*[rate.new_zeros(0)] * 3)
    errors = tar_at_far(scores, mated, fpir)
    return Identified(rate, number), OpenSet(1 - errors.tar, errors.threshold, errors.far)


def check_ranks(ks: Sequence[int]) -> None:
    """Raise ``ValueError`` unless every rank is 1 at least."""
    for k in ks:
        check_at_least(1, k=k)
