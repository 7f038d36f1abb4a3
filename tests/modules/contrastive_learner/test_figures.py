"""Maps and neighbors show the rows that they say."""

import numpy as np
import pytest
import torch

from datamodules import Digits, LongTailed, Tabular, TwoViews
from framework.figures.style import save_png
from framework.ops.cosines import unit
from modules.contrastive_learner.figures import (
    nearest_of_some,
    representation_figures,
    training_pictures,
)

pytestmark = pytest.mark.pictures


def test_neighbors_are_the_nearest_other_rows():
    rows = unit(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    label = torch.arange(50) % 3
    found = nearest_of_some(rows, label, queries=5, neighbors=4)
    assert found.query.tolist() == [0, 10, 20, 30, 40]
    cosine = rows @ rows.T
    cosine.fill_diagonal_(-2)
    expected = cosine[found.query].topk(4)
    assert torch.equal(found.found, expected.indices)
    torch.testing.assert_close(found.similarity, expected.values)
    assert torch.equal(found.same, label[found.found] == label[found.query, None])


def test_few_rows_have_few_neighbors():
    found = nearest_of_some(unit(torch.rand(3, 2)))
    assert found.found.shape == (3, 2)
    assert found.same is None


def views():
    data = TwoViews(LongTailed(Digits(mean=[0.5], std=[0.5]), imbalance=50.0))
    data.setup("fit")
    return data


def test_pictures_are_the_training_images_by_index():
    data, plain = views(), Digits()
    plain.setup("fit")
    picture = training_pictures(data)
    for index in (0, 7, 1616):
        torch.testing.assert_close(picture(index), plain.train_set.dataset[index]["image"])


def test_tables_have_no_pictures(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "\n".join(f"{i},{i % 2}" for i in range(40)))
    data = Tabular(str(path), target="b")
    data.setup("fit")
    assert training_pictures(data) is None


def test_figures_are_a_map_and_rows_of_neighbors(tmp_path):
    data = views()
    batch = next(iter(data.ordered_train_dataloader()))
    shown = {"representation": batch["image"].flatten(1), "index": batch["index"]}
    figures = representation_figures(shown)
    assert list(figures) == ["embedding"]
    shown |= {"label": batch["label"], "temperature": torch.rand(len(batch["label"]))}
    figures = representation_figures(shown, training_pictures(data), data.class_names)
    assert list(figures) == ["embedding", "neighbors"]
    titles = [axes.get_title(loc="left") for axes in figures["embedding"].axes]
    assert titles[:2] == ["by class", "by temperature"]
    drawn = figures["neighbors"].axes[0].images
    assert len(drawn) == 8 * 7
    first = batch["image"][0, 0] / 2 + 0.5
    np.testing.assert_allclose(drawn[0].get_array()[..., 0], first, atol=1e-6)
    for name, figure in figures.items():
        save_png(figure, tmp_path / f"{name}.png")
    unlabeled = representation_figures(
        {name: shown[name] for name in ("representation", "index")}, training_pictures(data)
    )
    assert unlabeled["neighbors"].axes[0].get_title(loc="left") == "query, then its 6 nearest"


def test_one_row_has_no_figures():
    assert (
        representation_figures({"representation": torch.ones(1, 2), "index": torch.zeros(1)}) == {}
    )


def test_neighbors_of_unknown_classes_are_neither_right_nor_wrong():
    rows = unit(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    assert nearest_of_some(rows, torch.tensor([0, 1, -1] * 3)).same is None
