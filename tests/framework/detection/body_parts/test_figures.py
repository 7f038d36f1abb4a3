"""Pictures of people with the parts of their bodies."""

from __future__ import annotations

import pytest
import torch
from matplotlib.colors import to_hex

from framework.detection.body_parts import pictures
from framework.detection.body_parts.figures import people_panels
from framework.detection.body_parts.people import People
from framework.detection.body_parts.people_samples import (
    MOST_BOXES,
    KeptPeople,
    PeopleSamples,
    people_rows,
)
from framework.detection.body_parts.pictures import LONE_COLOR, draw_people, person_colors
from framework.detection.panels import SHOWN_SCORE

pytestmark = pytest.mark.pictures

NAMES = ["body", "head"]
BODIES = torch.tensor([[2.0, 2, 30, 60], [34, 2, 62, 60]])
HEADS = torch.tensor([[10.0, 4, 20, 14], [40, 4, 50, 14], [24, 4, 34, 14]])


def found(scores=(0.9, 0.8, 0.7, 0.6, 0.5), body=(-1, -1, 0, 1, -1)):
    """Return two bodies, each with its head, and a head without a body."""
    return {
        "boxes": torch.cat([BODIES, HEADS]),
        "labels": torch.tensor([0, 0, 1, 1, 1]),
        "scores": torch.tensor(scores),
        "body": torch.tensor(body),
    }


def truth():
    return People(
        bodies=BODIES,
        parts=HEADS[:2, None],
        visible=torch.tensor([[True], [False]]),
        part_ignored=torch.tensor([[False], [True]]),
        visible_ratio=torch.ones(2),
        ignored=torch.tensor([False, True]),
    ).fields()


def panel(found):
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    return people_panels(KeptPeople(images, people_rows(found, truth())[None]), NAMES)


def test_samples_keep_what_was_found_and_what_is_true():
    samples = PeopleSamples((3, 4, 4), images=2)
    nothing = {name: value[:0] for name, value in found().items()}
    nobody = People.none(1).fields()
    samples.update(
        torch.zeros(3, 3, 4, 4),
        [nothing, found(), nothing],
        [nobody, truth(), nobody],
        torch.tensor([9, 4, 2]),
    )
    kept = samples.compute()
    assert [len(one["scores"]) for one in kept.found] == [0, 5]
    for name, value in found().items():
        assert torch.equal(kept.found[1][name], value), name
    assert torch.equal(kept.truth[1]["boxes"], torch.cat([BODIES, HEADS[:2]]))
    assert kept.truth[1]["labels"].tolist() == [0, 0, 1, 1]
    assert kept.truth[1]["ignored"].tolist() == [False, True, False, True]
    assert kept.truth[1]["body"].tolist() == [-1, -1, 0, 1]


def test_a_part_whose_body_was_cut_off_has_none():
    many = {name: value[[0] * MOST_BOXES + [1]] for name, value in found().items()}
    many["body"][3], many["labels"][3] = MOST_BOXES, 1
    rows = people_rows(many, truth())
    assert rows.shape == (2, MOST_BOXES, 7)
    assert rows[0, 3, 6] == -1


def test_panels_join_parts_to_their_bodies():
    (axes,) = panel(found()).axes
    white, colored = axes.patches[:4], axes.patches[4:]
    assert [to_hex(patch.get_edgecolor()) for patch in white] == ["#ffffff"] * 4
    assert [patch.get_linestyle() for patch in white] == ["-", ":", "-", ":"]
    assert [patch.get_linestyle() for patch in colored] == ["-", "-", "-", "-", "--"]
    first, second, *heads, lone = [to_hex(patch.get_edgecolor()) for patch in colored]
    assert first != second
    assert heads == [first, second]
    assert lone == LONE_COLOR.lower()
    # imshow has the center of a pixel at whole numbers
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[14.5, 8.5], [15.5, 30.5]],
        [[44.5, 8.5], [47.5, 30.5]],
    ]
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.80"]
    assert axes.get_xlim() == (-0.5, 63.5)


def test_doubtful_people_are_left_out_and_their_parts_are_alone():
    (axes,) = panel(found(scores=(0.9, SHOWN_SCORE - 0.01, 0.7, 0.6, 0.1))).axes
    colored = axes.patches[4:]
    assert [patch.get_linestyle() for patch in colored] == ["-", "-", "--"]
    assert len(axes.lines) == 1


def test_panels_without_people_or_images():
    nothing = {name: value[:0] for name, value in found().items()}
    assert len(panel(nothing).axes[0].patches) == 4
    none = KeptPeople(torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0, 2, 9, 7))
    assert not people_panels(none, NAMES).axes


def rgb(color):
    return torch.tensor([int(color[k : k + 2], 16) for k in (1, 3, 5)], dtype=torch.uint8)


def test_drawn_people(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_NAMED", 0)
    image = torch.zeros(3, 64, 64)
    drawn = draw_people(image, found(), NAMES)
    colors = person_colors(found()["labels"], found()["body"])
    for color, (x, y) in zip(
        colors, ((2, 50), (62, 50), (10, 13), (40, 13), (24, 13)), strict=True
    ):
        assert torch.equal(drawn[:, y, x], rgb(color)), (x, y)
    assert torch.equal(drawn[:, 31, 16], rgb(colors[0])), "a line ends in the middle of its body"
    assert not image.any()
    nothing = {name: value[:0] for name, value in found().items()}
    assert not draw_people(image, nothing, NAMES).any()
