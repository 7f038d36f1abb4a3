from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from framework.figures.curves import learning_curves
from framework.figures.panels import Curve
from framework.figures.panels import panels as panels_of
from framework.figures.scatter import predicted_against_true
from framework.figures.style import save_png
from framework.figures.tables import class_scores, confusion_matrix, count_matrix

pytestmark = pytest.mark.pictures

ROWS: list[dict[str, Any]] = [
    {"epoch": "0", "step": 0, "train/loss": "4.0", "train/fit": "3.0", "lr-SGD/pg1": "0.1"},
    {"epoch": "0", "step": 1, "train/loss": "2.0", "train/fit": "nan", "lr-SGD/pg1": "0.2"},
    {"step": 1, "train/loss_epoch": "3.0", "val/loss": "5.0", "val/accuracy": "0.5"},
    {"step": 2, "train/loss": "1.0", "train/fit": "0.5", "lr-SGD/pg1": "0.3", "val/accuracy": ""},
]


def panels(figure: Figure) -> dict[str, list[tuple[list[float], list[float]]]]:
    return {
        axes.get_title(loc="left"): [
            (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
        ]
        for axes in figure.axes
    }


def test_every_value_is_drawn_at_its_step() -> None:
    assert panels(learning_curves(ROWS)) == {
        "loss": [([1, 2, 3], [4, 2, 1]), ([2], [3]), ([2], [5])],
        "fit": [([1, 3], [3, 0.5])],
        "accuracy": [([2], [0.5])],
        "learning rate": [([1, 2, 3], [0.1, 0.2, 0.3])],
    }


def test_the_legend_names_what_is_drawn() -> None:
    (legend,) = learning_curves(ROWS).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "train, each step",
        "train, epoch mean",
        "validation",
    ]


def test_a_single_term_is_not_drawn_twice() -> None:
    rows = [{"step": s, "train/loss": 1 / (s + 1), "train/only": 1 / (s + 1)} for s in range(3)]
    assert list(panels(learning_curves(rows))) == ["loss"]


def test_equal_learning_rates_are_one_curve_and_others_are_named() -> None:
    rows = [{"step": s, "lr-A/pg1": s, "lr-A/pg2": s, "lr-B": 2 * s} for s in range(3)]
    figure = learning_curves(rows)
    assert len(panels(figure)["learning rate"]) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A/pg1", "B"]


def test_a_value_without_a_stage_has_its_own_panel() -> None:
    assert panels(learning_curves([{"epoch": 0, "step": 4, "norm": 2}])) == {"norm": [([5], [2])]}


def test_nothing_finite_is_an_empty_figure() -> None:
    figure = learning_curves([{"epoch": "0", "step": 0, "train/loss": "nan"}])
    assert not figure.axes
    assert not learning_curves([]).axes


def test_the_scores_of_classes_begin_with_the_lowest(tmp_path: Path) -> None:
    matrix = [[6, 2, 0, 0], [1, 1, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]]
    figure = class_scores(torch.tensor(matrix), ["cat", "dog", "fox", "owl"])
    (table,) = figure.axes[0].tables
    texts: dict[int, list[str]] = {}
    for (row, _), cell in sorted(table.get_celld().items()):
        texts.setdefault(row, []).append(cell.get_text().get_text())
    assert list(texts.values()) == [
        ["class", "samples", "precision", "recall", "F1"],
        ["dog", "2", "0.333", "0.500", "0.400"],
        ["cat", "8", "0.857", "0.750", "0.800"],
        ["fox", "4", "1.000", "1.000", "1.000"],
    ]
    save_png(figure, tmp_path / "a.png")
    shown = class_scores(torch.eye(40), rows=3)
    assert shown.get_suptitle() == "Scores of the 3 lowest of 40 classes"
    class_scores(torch.zeros(2, 2))


def test_values_of_a_set_and_reference_values_of_a_metric_are_told_apart() -> None:
    logged = ["val/accuracy", "val/accuracy/chance", "val/lfw/acc", "test/lfw/acc", "val/lfw/far"]
    curve = Curve(np.array([1.0]), np.array([0.5]))
    found = {name: list(labels) for name, labels in panels_of(dict.fromkeys(logged, curve)).items()}
    assert found == {
        "accuracy": ["validation", "chance"],
        "lfw/acc": ["validation", "test"],
        "lfw/far": ["validation"],
    }


def test_confusion_matrix_shows_shares_and_counts() -> None:
    figure = confusion_matrix(torch.tensor([[8, 2], [0, 0]]), ["cat", "dog"])
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[0.8, 0.2], [0.0, 0.0]]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {((0, 0), "8"), ((1, 0), "2")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert "8 of 10 samples" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_many_classes_stay_readable() -> None:
    axes = confusion_matrix(torch.eye(100)).axes[0]
    assert len(axes.get_xticks()) <= 30
    assert not axes.texts


def test_a_table_of_counts_need_not_be_square() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0]])
    names = (["a", "b"], ["x", "y", "z"])
    figure = count_matrix(counts, names, ("row", "column"), "Title", "A sentence.")
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25, 0], [0, 0, 0]]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {((0, 0), "3"), ((1, 0), "1")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("row", "column")
    assert (figure.get_suptitle(), axes.get_title()) == ("Title", "A sentence.")
    assert figure.axes[1].get_ylabel() == "share of the row"


def test_of_very_many_metrics_the_first_ones_are_drawn() -> None:
    rows = [{"step": 0, "train/loss": 1.0, **{f"val/{k}": float(k) for k in range(1200)}}]
    figure = learning_curves(rows)
    assert list(panels(figure)) == ["loss", *map(str, range(59))]
    assert "60 of 1,201 metrics" in figure.get_suptitle()


def test_wrong_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        confusion_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="3 class names do not fit a 2 x 2"):
        confusion_matrix(torch.eye(2), ["a", "b", "c"])


def test_predictions_are_drawn_over_the_true_values() -> None:
    predicted, true = torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([2.0, 5.0, 1.0])
    figure = predicted_against_true(predicted, true, "blood_pressure")
    (axes,) = figure.axes
    (points,) = axes.collections
    assert points.get_offsets().tolist() == [[2, 1], [5, 3]]
    (line,) = axes.lines
    assert (line.get_xy1(), line.get_slope()) == ((2, 2), 1)
    assert "blood pressure" in figure.get_suptitle()
    assert not predicted_against_true(predicted[:0], true[:0]).axes[0].lines


def test_png_is_whole_and_global_state_untouched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_png(learning_curves(ROWS), tmp_path / "figures" / "curves.png")
    with Image.open(tmp_path / "figures" / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == 1200
        assert len(image.convert("RGB").getcolors(2**20) or []) > 10
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []
