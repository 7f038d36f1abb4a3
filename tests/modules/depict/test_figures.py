"""What DEPICT's figures say."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from framework.clustering.cluster_samples import KeptSamples
from framework.figures.style import COLORS
from framework.metrics.embedding_sample import EmbeddingSnapshot
from modules.depict.figures import (
    cluster_sheet,
    code_projection,
    evaluation_figures,
)
from modules.depict.snapshots import Snapshots

# cluster 0 is class c, 1 is a, 2 gets no class, 3 is b with a single sample of it
TABLE = torch.tensor([[0, 1, 9], [8, 0, 2], [1, 0, 7], [0, 1, 1]])
NAMES = ["a", "b", "c"]


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def sheet_of(clusters: int, shape: tuple[int, int, int], per_cluster: int = 3) -> Figure:
    images = torch.zeros(clusters, per_cluster, *shape)
    filled = torch.ones(clusters, per_cluster, dtype=torch.bool)
    return cluster_sheet(images, filled, torch.arange(1, clusters + 1))


def pixels(axes: Axes) -> np.ndarray:
    (image,) = axes.images
    assert isinstance(image, AxesImage)
    return np.asarray(image.get_array())


def test_rows_are_in_the_order_of_their_classes() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 2, 1, 14, 14) / 2 - 1
    filled = torch.ones(4, 2, dtype=torch.bool)
    figure = cluster_sheet(images, filled, TABLE.sum(1), TABLE, NAMES)
    (axes,) = figure.axes
    assert labels(axes) == [
        "cluster 1\n10 images (33.3%)\nmatched: a (80% right)",
        "cluster 3\n2 images (6.7%)\nmatched: b (50% right)",
        "cluster 0\n10 images (33.3%)\nmatched: c (90% right)",
        "cluster 2\n8 images (26.7%)",
    ]
    # a gap of one pixel below and beside each image of 14
    sheet = pixels(axes)
    assert sheet.shape == (4 * 15, 2 * 15, 3)
    assert [sheet[15 * row, 0, 0] for row in range(4)] == [0.25, 0.75, 0.0, 0.5]
    # a label stands at the middle of its row
    assert axes.get_yticks().tolist() == [6.5, 21.5, 36.5, 51.5]
    assert "30 images in 4 clusters" in figure.get_supxlabel()
    assert "Matched: the class" in figure.get_supxlabel()


def test_without_classes_rows_are_in_the_order_of_the_clusters() -> None:
    figure = cluster_sheet(
        torch.zeros(2, 1, 1, 8, 8), torch.ones(2, 1, dtype=torch.bool), torch.tensor([0, 1234])
    )
    assert labels(figure.axes[0]) == [
        "cluster 0\n0 images (0.0%)",
        "cluster 1\n1,234 images (100.0%)",
    ]
    assert "atched" not in figure.get_supxlabel()


def test_color_and_missing_images() -> None:
    images = torch.tensor([1.0, -1.0, 0.0]).view(1, 1, 3, 1, 1).expand(1, 2, 3, 4, 4)
    sheet = pixels(cluster_sheet(images, torch.tensor([[True, False]]), torch.ones(1)).axes[0])
    assert sheet[0, 0].tolist() == [1, 0, 0.5]
    assert sheet[0, 4].tolist() == [1, 1, 1]
    assert sheet[0, 5].tolist() == pytest.approx([0.95] * 3)
    # two channels have no colors, and values outside are those at the edge
    images = torch.tensor([5.0, 5.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 4, 4)
    sheet = pixels(cluster_sheet(images, torch.tensor([[True]]), torch.ones(1)).axes[0])
    assert sheet[0, 0].tolist() == [1, 1, 1]


@pytest.mark.pictures
@pytest.mark.parametrize(
    ("clusters", "shape", "rows"),
    [
        (12, (1, 28, 28), [12]),
        (13, (1, 28, 28), [7, 6]),
        (68, (3, 55, 55), [34, 34]),
    ],
)
def test_many_clusters_stand_in_two_columns(
    clusters: int, shape: tuple[int, int, int], rows: list[int]
) -> None:
    figure = sheet_of(clusters, shape)
    shown = [labels(axes) for axes in figure.axes]
    assert [len(part) for part in shown] == rows
    numbers = [int(label.split()[1].rstrip(":")) for part in shown for label in part]
    assert numbers == list(range(clusters))
    # nothing overlaps: text stays on the page, and images are not stretched
    figure.draw_without_rendering()
    width = figure.bbox.width
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert min(box.x0 for box in boxes) >= 0
        assert all(lower.y1 <= upper.y0 for upper, lower in pairwise(boxes))
        assert axes.bbox.x1 <= width
        height, across, _ = pixels(axes).shape
        assert axes.bbox.height / axes.bbox.width == pytest.approx(height / across)
    if len(figure.axes) == 2:
        first, second = figure.axes
        left = min(label.get_window_extent().x0 for label in second.get_yticklabels())
        assert first.bbox.x1 < left
        assert first.bbox.y1 == pytest.approx(second.bbox.y1)


def test_a_long_class_name_leaves_room_for_the_images() -> None:
    images, filled = torch.zeros(4, 10, 1, 8, 8), torch.ones(4, 10, dtype=torch.bool)
    names = ["a" * 80, "b", "c"]
    axes = cluster_sheet(images, filled, TABLE.sum(1), TABLE, names).axes[0]
    assert f"matched: {'a' * 19}… (80% right)" in labels(axes)[0]
    assert axes.get_position().width > 0.5


def digits_codes() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    return torch.tensor(data.data[:120]), torch.tensor(data.target[:120])


def test_all_panels_show_the_plane_of_the_last() -> None:
    codes, label = digits_codes()
    earlier = codes.flip(1)
    figure = code_projection(
        [("first", earlier, label), ("last", codes, label)], list("0123456789")
    )
    plane = PCA(2, svd_solver="full").fit(codes.numpy())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["first", "last"]
    for axes, code in zip(figure.axes, (earlier, codes), strict=True):
        (points,) = axes.collections
        np.testing.assert_allclose(points.get_offsets(), plane.transform(code.numpy()))
        assert axes.get_xlim() == figure.axes[0].get_xlim()
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    assert figure.axes[0].get_ylabel() == "2nd component"
    assert {axes.get_xlabel() for axes in figure.axes} == {"1st principal component"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list("0123456789")
    share = plane.explained_variance_ratio_.sum()
    assert f"hold {share:.0%} of its variance" in legend.get_title().get_text()
    assert "color the true class" in legend.get_title().get_text()
    # names stand in the last panel
    assert [len(axes.texts) for axes in figure.axes] == [0, 10]


def test_colors_tell_groups_apart() -> None:
    codes, _ = digits_codes()
    group = torch.arange(120) % 3
    group[0] = -1
    figure = code_projection([("now", codes, group)])
    colors = [to_hex(c) for c in figure.axes[0].collections[0].get_facecolors()]
    assert colors[0] == to_hex("0.75")
    assert colors[1:4] == [COLORS[1].lower(), COLORS[2].lower(), COLORS[0].lower()]
    assert "color the cluster" in figure.legends[0].get_title().get_text()
    for groups in (10, 20, 68):
        many = code_projection([("now", codes, torch.arange(120) % groups)])
        shades = {to_hex(c) for c in many.axes[0].collections[0].get_facecolors()}
        assert len(shades) == groups
        assert len(many.legends[0].get_texts()) == (groups if groups <= 20 else 0)


def test_of_many_snapshots_the_first_and_the_last_are_among_eight() -> None:
    codes, label = digits_codes()
    figure = code_projection([(str(k), codes, label) for k in range(15)])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["0", "2", "4", "6", "8", "10", "12", "14"]


def test_a_collapsed_code_is_drawn() -> None:
    codes, label = torch.full((20, 4), 0.5), torch.arange(20) % 4
    figure = code_projection([("collapsed", codes, label)])
    assert math.isfinite(figure.get_size_inches().sum())
    assert "hold 0% of its variance" in figure.legends[0].get_title().get_text()


def test_a_projection_needs_codes() -> None:
    with pytest.raises(ValueError, match="the last of two rows and columns or more"):
        code_projection([])
    with pytest.raises(ValueError, match="the last of two rows and columns or more"):
        code_projection([("one", torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))])


def evaluation(labeled: bool) -> tuple[dict[str, Any], Snapshots]:
    codes, label = digits_codes()
    group = label % 3 if labeled else torch.full_like(label, -1)
    kept = EmbeddingSnapshot(codes, torch.arange(120) % 4, group)
    snapshots = Snapshots()
    snapshots.add("epoch 1", kept)
    values = {
        "samples": KeptSamples(torch.zeros(4, 2, 1, 8, 8), torch.ones(4, 2, dtype=torch.bool)),
        "sizes": TABLE.sum(1),
        "codes": kept,
    }
    if labeled:
        values |= {
            "confusion": TABLE,
            "accuracy": torch.tensor(0.6),
            "nmi_geometric": torch.tensor(0.5),
        }
    return values, snapshots


def test_all_figures_of_labeled_data() -> None:
    values, snapshots = evaluation(labeled=True)
    scores = {"accuracy": 0.5, "nmi_geometric": 0.4}
    stages = {"head": scores, "kmeans_code": scores, "kmeans_pixels": scores}
    figures = evaluation_figures(values, stages, snapshots)
    assert set(figures) == {"clusters", "confusion_matrix", "stages", "codes"}
    assert labels(figures["stages"].axes[0]) == [
        "k-means on pixels",
        "k-means on the code",
        "after the head",
        "DEPICT",
    ]
    assert [line.get_xdata()[0] for line in figures["stages"].axes[1].lines] == pytest.approx(
        [0.4, 0.4, 0.4, 0.5]
    )
    assert "matched: 0 (80% right)" in labels(figures["clusters"].axes[0])[0]
    assert "true class" in figures["codes"].legends[0].get_title().get_text()
    assert [text.get_text() for text in figures["codes"].axes[0].texts] == ["0", "1", "2"]


def test_figures_of_data_without_labels() -> None:
    values, snapshots = evaluation(labeled=False)
    figures = evaluation_figures(values, {}, snapshots)
    assert set(figures) == {"clusters", "codes"}
    assert "color the cluster" in figures["codes"].legends[0].get_title().get_text()
    assert len(figures["codes"].axes[0].texts) == 4
    assert set(evaluation_figures(values, {}, None)) == {"clusters"}
    assert set(evaluation_figures(values, {}, Snapshots())) == {"clusters"}
