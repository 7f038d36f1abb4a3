"""Greedy suppression of oriented boxes."""

import math

import pytest
import torch

from framework.detection.rotated import cxcywhr_to_quad, orc_to_quad, rotated_iou, rotated_nms

SQUARE = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]])


def scene(seed: int, count: int = 25) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return quads, scores with ties, and labels of a crowded scene."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(4, 2, generator=generator) * 60
    u = torch.rand(count, 10, generator=generator)
    which = torch.randint(4, (count,), generator=generator)
    low = center[which] + 4 * u[:, :2]
    box = torch.cat([low, low + 20 + 10 * u[:, 2:4]], 1)
    scores = (u[:, 8] * 20).floor() / 20
    return orc_to_quad(box, 0.2 * u[:, 4:8]), scores, (u[:, 9] * 2).long()


def one_after_the_other(
    quads: torch.Tensor, scores: torch.Tensor, threshold: float, labels: torch.Tensor
) -> list[int]:
    overlap = (rotated_iou(quads.double(), quads.double()) > threshold).tolist()
    kept: list[int] = []
    for i in sorted(range(len(quads)), key=lambda i: (-scores[i].item(), i)):
        if not any(overlap[k][i] and labels[k] == labels[i] for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("part", range(4))
def test_it_is_the_sequential_rule(part: int) -> None:
    # 1,000 scenes in all, 250 a call: the scenes are the images
    threshold = (0.1, 0.3, 0.45, 0.7)[part]
    quads, scores, labels, expected = [], [], [], {}
    for image in range(250):
        q, s, c = scene(1000 * part + image)
        expected[image] = one_after_the_other(q, s, threshold, c)
        quads.append(q), scores.append(s), labels.append(2 * image + c)
    q, s, c = torch.cat(quads), torch.cat(scores), torch.cat(labels)
    kept = rotated_nms(q, s, threshold, c)
    assert 0.1 < len(kept) / len(q) < 0.9
    assert (s[kept].diff() <= 0).all()
    for image in range(250):
        assert (kept[kept // 25 == image] % 25).tolist() == expected[image]
    q, s, c = scene(part)
    assert rotated_nms(q, s, threshold, c).tolist() == one_after_the_other(q, s, threshold, c)


def test_what_is_dropped_drops_no_other() -> None:
    # a chain in which each overlaps the next only
    quads = torch.stack([SQUARE + torch.tensor([3.0 * k, 0.0]) for k in range(7)])
    scores = torch.linspace(0.9, 0.3, 7)
    assert rotated_nms(quads, scores, 0.4).tolist() == [0, 2, 4, 6]
    assert rotated_nms(quads, scores.flip(0), 0.4).tolist() == [6, 4, 2, 0]
    assert rotated_nms(quads, scores, 0.4, max_detections=3).tolist() == [0, 2, 4]


def test_of_equal_scores_the_first_is_kept() -> None:
    quads = torch.stack([SQUARE + 40, SQUARE, SQUARE + 1, SQUARE + 41])
    assert rotated_nms(quads, torch.ones(4), 0.3).tolist() == [0, 1]


def test_only_more_than_the_threshold_drops() -> None:
    half = SQUARE * torch.tensor([1.0, 0.5])
    quads = torch.stack([SQUARE, half])
    assert rotated_nms(quads, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert rotated_nms(quads, torch.tensor([0.9, 0.8]), 0.499).tolist() == [0]


def test_a_small_box_in_a_large_one_is_kept() -> None:
    quads = torch.stack([SQUARE, SQUARE / 3 + 2])
    assert rotated_nms(quads, torch.tensor([0.9, 0.8]), 0.3).tolist() == [0, 1]


def test_the_nearly_parallel_pair() -> None:
    first = [228.44654846191406, 280.7284240722656, 70.29969024658203, 16.38966941833496]
    second = [227.12342834472656, 278.3567810058594, 65.87997436523438, 13.172192573547363]
    pair = torch.tensor([[*first, 0.26054954528808594], [*second, 0.2501770853996277]])
    for scores in ([0.9, 0.8], [0.8, 0.9]):
        kept = rotated_nms(pair, torch.tensor(scores), 0.5, fmt="cxcywhr")
        assert kept.tolist() == [scores.index(0.9)]


def test_boxes_of_other_labels_do_not_meet() -> None:
    quads = SQUARE.expand(4, 4, 2)
    labels = torch.tensor([7, 10**15, 7, 0])
    kept = rotated_nms(quads, torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.5, labels)
    assert kept.tolist() == [3, 2, 1]


def test_boxes_without_area_are_never_kept() -> None:
    line = cxcywhr_to_quad(torch.tensor([903.34, 1034.4, 20.0, 1e-3, 0.3]))
    quads = torch.stack(
        [line, SQUARE * 0, SQUARE * math.nan, SQUARE * math.inf, SQUARE, SQUARE * 1e-3, SQUARE + 30]
    )
    scores = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.2, 0.9, 0.3])
    assert rotated_nms(quads, scores, 0.3).tolist() == [6, 4]
    assert rotated_nms(quads[:4], scores[:4], 0.3).tolist() == []
    assert rotated_nms(quads[:0], scores[:0], 0.3, labels=torch.zeros(0).long()).tolist() == []


def test_bad_arguments_are_refused() -> None:
    quads = SQUARE[None]
    with pytest.raises(ValueError, match=r"iou_threshold must lie in \[0, 1\], got 45"):
        rotated_nms(quads, torch.ones(1), 45)
    with pytest.raises(ValueError, match=r"one length, got \(1, 4, 2\), \(2,\) and None"):
        rotated_nms(quads, torch.ones(2), 0.5)
    with pytest.raises(ValueError, match=r"\(1,\) and \(2,\)"):
        rotated_nms(quads, torch.ones(1), 0.5, torch.zeros(2))
