"""Overlaps, and the greedy matching of pedestrian detection."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from framework.detection.body_parts.matching import match_greedily, overlaps


def test_overlaps_are_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(30, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([low, low + torch.rand(30, 2, generator=generator)], 1)
    a, b = boxes[:18], boxes[18:]
    iou, share = overlaps(a.numpy(), b.numpy())
    torch.testing.assert_close(torch.from_numpy(iou), box_iou(a, b))
    union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)
    shared = box_iou(a, b) / (1 + box_iou(a, b)) * union
    torch.testing.assert_close(
        torch.from_numpy(share), shared / (a[:, 2:] - a[:, :2]).prod(1)[:, None]
    )


def test_boxes_without_area_or_numbers_overlap_nothing() -> None:
    box = np.array([[0.0, 0, 4, 4]])
    for corners in ([1, 1, 1, 3], [3, 3, 1, 1], [math.nan] * 4, [0, 0, math.inf, math.nan]):
        iou, share = overlaps(np.array([corners], dtype=float), box)
        assert not (iou > 0).any()
        assert not (share > 0).any()
    assert overlaps(box[:0], box)[0].shape == (0, 1)
    assert overlaps(box, box[:0])[1].shape == (1, 0)


@pytest.mark.parametrize("inclusive", [False, True])
def test_ties(inclusive: bool) -> None:
    nobody = np.zeros((2, 0), dtype=bool)
    # exactly at the threshold
    one = np.array([[0.5], [0.6]])
    found = match_greedily([one], nobody, threshold=0.5, inclusive=inclusive)
    assert found.tolist() == ([1, 0] if inclusive else [0, 1])
    # the first of two equal objects is kept, or the last; the next detection needs the first
    two = np.array([[0.7, 0.7], [0.8, 0.1]])
    found = match_greedily([two], nobody, threshold=0.5, inclusive=inclusive)
    assert found.tolist() == ([1, 1] if inclusive else [1, 0])


def test_both_overlaps_rise_together() -> None:
    # the second object is better in one sense only, so that the first is kept
    body, part = np.array([[0.6, 0.9], [0.0, 0.8]]), np.array([[0.8, 0.7], [0.0, 0.8]])
    nobody = np.zeros((2, 0), dtype=bool)
    found = match_greedily([body, part], nobody, threshold=0.5, inclusive=True)
    assert found.tolist() == [1, 1]
    # as good in the other sense it is better, and the next detection finds it taken
    part[0, 1] = 0.8
    found = match_greedily([body, part], nobody, threshold=0.5, inclusive=True)
    assert found.tolist() == [1, 0]
