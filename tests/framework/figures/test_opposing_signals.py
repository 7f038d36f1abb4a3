"""The panel of opposing signals, with and without what a batch may lack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framework.figures.opposing_signals import (
    SignalPicture,
    as_pictures,
    member_table,
    opposing_signals,
)

MINUS = "\N{MINUS SIGN}"


def _picture(**more: Any) -> SignalPicture:
    losses = np.array([[1.0, 1.0, 2.0, 0.5], [1.5, 1.0, 2.5, 0.5], [1.0, 1.0, 3.0, 0.25]])
    group: dict[str, Any] = {"up": np.array([2]), "down": np.array([0])}
    return SignalPicture(steps=np.array([4, 8, 9]), losses=losses, **group, **more)


def test_it_says_what_is_shown() -> None:
    images, labels = np.zeros((2, 1, 8, 8)), np.array([[1], [0]])
    names = ["cat", "dog"]
    picture = _picture(images=images, labels=labels, class_names=names, overlap=0.5, cosine=-0.9)
    figure = opposing_signals(picture)
    assert figure.get_suptitle() == "Opposing signals in step 9"
    losses, classes, up, down = figure.axes[:2] + [a for a in figure.axes if a.images]
    assert "overlap: 50%" in losses.get_xlabel()
    assert f"cosine of the groups' gradients {MINUS}0.90" in losses.get_xlabel()
    said = [axes.texts[0].get_text() for axes in (up, down)]
    assert said == ["dog\n+0.5", f"cat\n{MINUS}0.5"]
    assert [t.get_text() for t in classes.get_yticklabels()] == ["cat", "dog"]
    # steps between looks are not joined
    (line, *_) = losses.lines
    np.testing.assert_equal(line.get_xdata(), [4, np.nan, 8, 9])
    np.testing.assert_equal(line.get_ydata(), [2, np.nan, 2.5, 3])


def test_it_does_without_images_classes_overlap_and_cosine() -> None:
    figure = opposing_signals(_picture())
    assert len(figure.axes) == 1
    assert figure.axes[0].get_xlabel() == "optimizer step"


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 8), (4, 1, 1, 8)])
def test_what_is_no_picture_is_not_shown(shape: tuple[int, ...]) -> None:
    assert as_pictures(np.zeros(shape)) is None


def test_pictures_are_those_that_changed_most_and_lie_in_0_and_1() -> None:
    images = np.arange(40.0)[:, None, None, None] * np.ones((40, 3, 2, 2))
    shown = as_pictures(images)
    assert shown is not None
    assert shown.shape == (2, 12, 2, 2, 3)
    assert shown[:, 0, 0, 0, 0] == pytest.approx([0, 20 / 39])
    within = as_pictures(images / 100)
    assert within is not None
    assert within.max() == pytest.approx(0.31)


def test_the_table_has_every_member() -> None:
    table = member_table(_picture(labels=np.array([[3], [0]])), [10, 11, 12, 13])
    assert table.rows == [("G+", 12, "3", 2.5, 3.0), (f"G{MINUS}", 10, "0", 1.5, 1.0)]
    assert table.caption == "Opposing signals in step 9"
    partly = member_table(_picture(labels=np.array([[-100], [0]])), [10, 11, 12, 13])
    assert [row[2] for row in partly.rows] == ["unlabeled", "0"]
