"""Figures of embeddings."""

import warnings

import pytest
import torch
from matplotlib.colors import to_hex

from framework.embedding.figures.neighbors import RIGHT, WRONG, neighbor_rows
from framework.embedding.figures.roc import roc_curves
from framework.embedding.figures.similarities import similarity_histograms
from framework.embedding.metrics.embedding_evaluation import QueryNeighbors
from framework.embedding.metrics.roc import roc_curve

pytestmark = pytest.mark.pictures


def test_roc_curves_begin_where_they_can_be_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    curves = {}
    for name, number in (("few", 300), ("many", 3000)):
        same = torch.arange(number) % 3 == 0
        curves[name] = roc_curve(torch.randn(number, generator=generator) + 2 * same, same)
    (axes,) = roc_curves(curves).axes
    few, many, chance = axes.lines[:3]
    assert few.get_xdata()[0] == 1 / 200
    assert many.get_xdata()[0] == 1 / 2000
    assert axes.get_xlim() == pytest.approx((1e-4, 1))
    told = float(curves["many"].tar[curves["many"].far <= 1e-2].max())
    assert many.get_label() == f"many: {told:.1%}"
    assert axes.get_title("left").endswith("1e-2")
    assert chance.get_label() == "chance"
    assert roc_curves({}).axes
    # nothing between 0 and 1 can be measured: one pair of two classes, or one score
    same = torch.tensor([True, True, False])
    for scores in (torch.tensor([0.9, 0.1, 0.5]), torch.zeros(3)):
        with warnings.catch_warnings(action="error"):
            (axes,) = roc_curves({"one": roc_curve(scores, same)}).axes
        assert axes.get_xlim() == (0.1, 1)


def test_histograms_are_shares_of_each_kind() -> None:
    counts = torch.zeros(2, 128, dtype=torch.int64)
    counts[0, 40], counts[1, 100] = 4000, 10
    # few pairs are shown in coarser parts
    figure = similarity_histograms({"faces": counts, "all pairs": counts * 1000}, {"faces": 0.25})
    coarse, fine = figure.axes
    assert coarse.get_title("left") == "faces, threshold 0.25"
    assert fine.get_title("left") == "all pairs"
    for axes, parts in ((coarse, 32), (fine, 128)):
        for stairs in axes.patches:
            assert stairs.get_data().values.sum() == 1
            assert len(stairs.get_data().values) == parts
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "pairs of two classes", "pairs of one class", "threshold"
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_say_what_is_of_the_class_of_the_query(channels: int) -> None:
    images = torch.randint(0, 256, (2, 4, channels, 6, 4), dtype=torch.uint8)
    same = torch.tensor([[True, False, True], [False, False, True]])
    place = torch.arange(6).view(2, 3)
    found = QueryNeighbors(torch.tensor([7, 9]), place, same, place / 10)
    for shown in (images, images / 255):
        figure = neighbor_rows(shown[:, 0], shown[:, 1:], found)
        (axes,) = figure.axes
        colors = [to_hex(patch.get_edgecolor()).upper() for patch in axes.patches]
        assert colors == [RIGHT if one else WRONG for one in same.flatten()]
        assert [text.get_text() for text in axes.texts][:3] == ["0.00", "0.10", "0.20"]
        assert len(axes.images) == 8
        assert "50% are of its class" in axes.get_title("left")
        drawn = torch.from_numpy(axes.images[0].get_array().data[..., 0].copy())
        torch.testing.assert_close(drawn.float(), images[0, 0, 0] / 255)
