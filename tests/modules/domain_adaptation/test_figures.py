"""What the figures of two domains say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from sklearn.decomposition import PCA
from torch import Tensor

from framework.figures.style import COLORS
from framework.metrics.embedding_sample import EmbeddingSnapshot
from modules.domain_adaptation.figures import UNKNOWN, adaptation_figures, feature_projection


def kept(rows: int, seed: int, label: Tensor | None = None, features: int = 5) -> EmbeddingSnapshot:
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(rows, features, generator=generator)
    label = torch.arange(rows) % 3 if label is None else label
    return EmbeddingSnapshot(code, torch.zeros(rows, dtype=torch.int64), label)


BEFORE, NOW = [kept(30, 0), kept(20, 1)], [kept(30, 2), kept(20, 3)]


def test_each_panel_is_in_its_own_plane_of_both_domains() -> None:
    figure = feature_projection([("before", BEFORE), ("now", NOW)], ["a", "b", "c"])
    for axes, (title, both) in zip(figure.axes, (("before", BEFORE), ("now", NOW)), strict=True):
        plane = PCA(n_components=2, svd_solver="full")
        plane.fit(np.concatenate([part.code.numpy() for part in both]))
        share = plane.explained_variance_ratio_.sum()
        assert axes.get_title(loc="left") == f"{title} ({share:.0%} of the variance)"
        for points, part in zip(axes.collections, both, strict=True):
            expected = plane.transform(part.code.double().numpy())
            np.testing.assert_allclose(points.get_offsets(), expected, atol=1e-5)
    # the target lies above the source, in another mark
    source, target = figure.axes[1].collections
    assert len(source.get_paths()[0].vertices) != len(target.get_paths()[0].vertices)
    assert source.get_alpha() < target.get_alpha()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["source", "target"]
    # names stand in the last panel
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes] == [[], ["a", "b", "c"]]


def test_colors_are_classes() -> None:
    unknown = kept(20, 3, torch.full((20,), -1))
    figure = feature_projection([("now", [NOW[0], unknown])])
    source, target = figure.axes[0].collections
    first = [to_hex(color) for color in source.get_facecolors()[:3]]
    assert first == [color.lower() for color in COLORS[:3]]
    assert {to_hex(color) for color in target.get_facecolors()} == {to_hex(UNKNOWN)}
    assert "gray where it is not known" in figure.legends[0].get_title().get_text()
    known = feature_projection([("now", NOW)])
    assert "gray" not in known.legends[0].get_title().get_text()
    many = feature_projection([("now", [kept(60, 0, torch.arange(60) % 30), NOW[1]])])
    assert len({to_hex(c) for c in many.axes[0].collections[0].get_facecolors()}) == 30
    assert not many.axes[0].texts


def test_one_domain_may_be_missing() -> None:
    figure = feature_projection([("now", [kept(0, 0), NOW[1]])])
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [0, 20]


def test_collapsed_features_are_drawn() -> None:
    same = EmbeddingSnapshot(torch.ones(9, 5), torch.zeros(9), torch.zeros(9, dtype=torch.int64))
    figure = feature_projection([("now", [same, same])])
    assert math.isfinite(figure.get_size_inches().sum())
    assert figure.axes[0].get_title(loc="left") == "now (0% of the variance)"


def test_no_plane_no_projection() -> None:
    for both in ([kept(1, 0), kept(0, 0)], [kept(5, 0, features=1), kept(5, 1, features=1)]):
        with pytest.raises(ValueError, match="two rows and features or more"):
            feature_projection([("now", both)])
    with pytest.raises(ValueError, match="two rows and features or more"):
        feature_projection([])


def test_what_an_evaluation_shows() -> None:
    values = {"source_features": NOW[0], "target_features": NOW[1]}
    values["confusion"] = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 4]])
    figures = adaptation_figures(values, BEFORE, "after 7 steps", ["a", "b", "c"])
    assert list(figures) == ["features", "confusion_matrix"]
    titles = [axes.get_title(loc="left")[:14] for axes in figures["features"].axes]
    assert titles == ["before trainin", "after 7 steps "]
    # nothing of what is not known: no labels of the target, no start, no plane
    values["confusion"] = torch.zeros(3, 3, dtype=torch.int64)
    figures = adaptation_figures(values, None, "test samples")
    assert list(figures) == ["features"]
    assert len(figures["features"].axes) == 1
    values["source_features"], values["target_features"] = kept(1, 0), kept(0, 0)
    figures = adaptation_figures(values, BEFORE, "after 7 steps")
    assert len(figures["features"].axes) == 1
    assert adaptation_figures(values, None, "test samples") == {}
    values |= dict.fromkeys(("source_features", "target_features"), kept(9, 0, features=1))
    assert adaptation_figures(values, None, "test samples") == {}
