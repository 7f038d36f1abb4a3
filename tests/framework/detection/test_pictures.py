"""Pictures of detections."""

from __future__ import annotations

import pytest
import torch

from framework.detection import figures, pictures
from framework.detection.detection_samples import KeptDetections, object_rows
from framework.figures.style import save_png

pytestmark = pytest.mark.pictures

BOX = torch.tensor([[[2.0, 3], [12, 3], [12, 9], [2, 9]]])


def found(score=0.8, label=1):
    return {
        "boxes": BOX,
        "scores": torch.tensor([score]),
        "labels": torch.tensor([label]),
    }


def test_the_outline_has_the_color_of_the_class():
    image = torch.zeros(3, 20, 20)
    drawn = pictures.draw_detections(image, found(), ["a", "b"])
    color = figures.class_color(1).lstrip("#")
    rgb = torch.tensor([int(color[k : k + 2], 16) for k in (0, 2, 4)], dtype=torch.uint8)
    for x, y in ((2, 6), (12, 6), (7, 9)):
        assert torch.equal(drawn[:, y, x], rgb), (x, y)
    assert not drawn[:, 15:].any()
    assert not image.any()


def test_nothing_found_leaves_the_image_as_it_is():
    image = torch.rand(3, 5, 5)
    nothing = {name: value[:0] for name, value in found().items()}
    drawn = pictures.draw_detections(image, nothing, ["a"])
    assert torch.equal(drawn, (image * 255).round().to(torch.uint8))


def test_a_picture_is_read_as_it_was_written(tmp_path):
    image = torch.randint(256, (3, 7, 5), dtype=torch.uint8)
    pictures.write_picture(image, tmp_path / "new" / "a.png")
    assert torch.equal(pictures.read_picture(tmp_path / "new" / "a.png"), image)


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_broken_picture_is_named(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png cannot be decoded as an image"):
        pictures.read_picture(tmp_path / "broken.png")


def panels(kept):
    return figures.detection_panels(kept, ["a", "b"])


def test_panels_show_truth_and_certain_detections():
    truth = {
        "boxes": BOX.repeat(2, 1, 1),
        "labels": torch.tensor([0, 1]),
        "difficult": torch.tensor([False, True]),
    }
    certain, doubtful = found(0.8, 1), found(figures.SHOWN_SCORE - 0.01, 0)
    rows = torch.stack([object_rows(one, truth) for one in (certain, doubtful)])
    kept = KeptDetections(torch.zeros(2, 3, 20, 20, dtype=torch.uint8), rows)
    figure = panels(kept)
    first, second = figure.axes
    styles = [(p.get_linestyle(), p.get_facecolor()[3]) for p in first.patches]
    assert [style for style, _ in styles] == ["-", ":", "-"]
    assert [t.get_text() for t in first.texts] == ["0.80"]
    assert len(second.patches) == 2
    assert not second.texts
    assert [t.get_text() for t in figure.legends[0].texts][1:] == ["b"]
    # a corner at pixel coordinate 2 is the left edge of column 2, which imshow centers at 2
    assert first.patches[0].get_xy()[0].tolist() == [1.5, 2.5]


def test_true_boxes_are_thin_and_are_seen_on_white_objects(tmp_path):
    truth = {"boxes": BOX, "labels": torch.tensor([0]), "difficult": torch.tensor([False])}
    rows = object_rows({name: value[:0] for name, value in found().items()}, truth)
    white = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    figure = panels(KeptDetections(white, rows[None]))
    save_png(figure, tmp_path / "a.png")
    (outline,) = figure.axes[0].patches
    # the middle of the panel, without its title and its legend
    pixels = pictures.read_picture(tmp_path / "a.png").float().amax(0)
    box = figure.axes[0].get_window_extent().extents / figure.bbox.extents[[2, 3, 2, 3]]
    rows, columns = pixels.shape
    top, bottom = int((1 - box[3]) * rows), int((1 - box[1]) * rows)
    dark = pixels[top:bottom, int(box[0] * columns) : int(box[2] * columns)] < 100
    assert outline.get_linewidth() <= 1
    assert 0 < float(dark.float().mean()) < 0.05


def test_panels_without_images():
    assert not panels(KeptDetections(torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0, 2, 9, 10))).axes


def test_curves_leave_out_classes_without_objects():
    grid = torch.linspace(0, 1, 5).expand(3, 5)
    values = {
        "recall_50": grid,
        "precision_50": 1 - grid,
        "ap_50": torch.tensor([0.5, torch.nan, 0.25]),
    }
    (axes,) = figures.precision_recall(values, ["a", "b", "c"]).axes
    assert [line.get_label() for line in axes.lines] == ["a: 0.500", "c: 0.250"]
