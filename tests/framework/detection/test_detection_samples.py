"""The first images of an evaluation with their objects, whoever saw them."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from framework.detection.detection_samples import MOST_OBJECTS, DetectionSamples

SHAPE = (3, 2, 4)
IMAGES = 9


def objects(index: int) -> tuple[dict, dict]:
    """Return ``index`` detections and one true object of an image."""
    box = torch.full((4, 2), float(index)) + torch.arange(8.0).view(4, 2)
    found = {
        "boxes": box.expand(index, 4, 2),
        "scores": torch.linspace(0.9, 0.1, index),
        "labels": torch.full((index,), index),
    }
    truth = {
        "boxes": box[None],
        "labels": torch.tensor([index + 1]),
        "difficult": torch.tensor([index % 2 == 0]),
    }
    return found, truth


def update(metric: DetectionSamples, indices: list[int]) -> None:
    pairs = [objects(k) for k in indices]
    index = torch.tensor(indices, dtype=torch.int64)
    image = (index / 255).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    metric.update(image, [f for f, _ in pairs], [t for _, t in pairs], index)


def check(metric: DetectionSamples, expected: list[int]) -> None:
    kept = metric.compute()
    assert kept.images.dtype == torch.uint8
    assert kept.images[:, 0, 0, 0].tolist() == expected
    assert torch.equal(kept.images, kept.images[:, :1, :1, :1].expand(-1, *SHAPE))
    for place, index in enumerate(expected):
        found, truth = objects(index)
        for name, value in found.items():
            assert torch.equal(kept.found[place][name], value), name
        for name, value in truth.items():
            assert torch.equal(kept.truth[place][name], value), name


@pytest.mark.parametrize("batch", [9, 2, 1])
def test_the_lowest_indices_are_kept_in_their_order(batch):
    metric = DetectionSamples(SHAPE, images=4)
    order = [5, 8, 0, 3, 7, 1, 6, 4, 2]
    update(metric, [])
    for start in range(0, IMAGES, batch):
        update(metric, order[start : start + batch])
    check(metric, [0, 1, 2, 3])


def test_fewer_images_than_places():
    metric = DetectionSamples(SHAPE, images=4)
    update(metric, [6, 2])
    check(metric, [2, 6])
    metric.reset()
    update(metric, [])
    check(metric, [])


def test_more_objects_than_anyone_sees_are_cut():
    metric = DetectionSamples(SHAPE, images=1)
    update(metric, [MOST_OBJECTS + 5])
    assert len(metric.compute().found[0]["scores"]) == MOST_OBJECTS


def test_images_of_another_size_are_refused():
    metric = DetectionSamples((3, 4, 4))
    with pytest.raises(ValueError, match=r"images are \(3, 2, 4\), but .* \(3, 4, 4\)"):
        update(metric, [1])


def _on_a_rank() -> None:
    metric = DetectionSamples(SHAPE, images=4)
    update(metric, [[4, 0, 3, 8, 7, 5], [2, 1, 6]][dist.get_rank()])
    check(metric, [0, 1, 2, 3])
    empty = DetectionSamples(SHAPE, images=4)
    update(empty, [[], [7]][dist.get_rank()])
    check(empty, [7])


def test_two_ranks_keep_what_one_process_does(two_ranks):
    two_ranks(_on_a_rank)
