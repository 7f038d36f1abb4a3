"""The datamodule: whole graphs as batches, ranks, nearest neighbors, and new nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from datamodules import BreastCancer, Digits, Graphs
from framework.data.facts import facts_of
from framework.graphs import neighbor_graph
from framework.objectives.errors import IncompatibleError
from tests.datamodules.graphs.graph_files import write_edge_list, write_planetoid, write_webkb


def whole(**arguments: Any) -> dict[str, Any]:
    """Return the only training batch."""
    data = Graphs(**arguments)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    return batch


def test_an_epoch_is_one_batch_of_the_whole_graph(tmp_path: Path) -> None:
    data = Graphs(str(write_webkb(tmp_path)))
    data.setup("fit")
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    for loader in (*loaders, data.predict_dataloader()):
        (batch,) = loader
        assert batch["index"].tolist() == [0, 1, 2]
        assert batch["label"].tolist() == [0, 1, 1]
        assert batch["edge_index"].tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
        assert batch["edge_weight"].tolist() == [1, 1, 1, 1]
        assert batch["x"].dtype == torch.float32
        assert batch["x"].shape == (3, 3)
    assert (data.num_samples, data.num_classes, data.input_shape) == (3, 2, (3,))


def test_ranks_share_the_nodes_and_each_has_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graphs, "_world_size", 2)
    found = []
    for rank in range(2):
        monkeypatch.setattr(Graphs, "_rank", rank)
        data = Graphs(str(write_webkb(tmp_path)))
        data.setup("fit")
        for loader in (data.train_dataloader(), data.val_dataloader()):
            (batch,) = loader
            assert len(batch["x"]) == len(batch["label"]) == 3
            found.append(batch["index"].tolist())
    assert found == [[0, 1], [0, 1], [2], [2]]


def test_part_of_the_nodes_may_train(tmp_path: Path) -> None:
    data = Graphs(str(write_webkb(tmp_path)))
    data.setup("fit")
    assert data.train_set is not None
    data.train_set = Subset(data.train_set, [2, 0])
    (batch,) = data.train_dataloader()
    assert batch["index"].tolist() == [2, 0]
    assert len(batch["x"]) == 3


def test_rows_can_be_normalized(tmp_path: Path) -> None:
    x = whole(path=str(write_webkb(tmp_path)), row_normalize=True)["x"]
    torch.testing.assert_close(x[1], torch.tensor([0.0, 2 / 3, 1 / 3]))


def test_nodes_without_features_have_those_of_the_edges(tmp_path: Path) -> None:
    path = str(write_edge_list(tmp_path))
    degree = whole(path=path, structure="degree")["x"]
    assert degree.tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]
    rows = whole(path=path)["x"]
    assert rows.tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 2.5], [0, 1, 2.5, 1]]


def test_structure_of_many_nodes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "line.txt").write_text("".join(f"{k} {k + 1}\n" for k in range(999)))
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.003")
    with pytest.raises(ValueError, match="column for each of 1,000 nodes, where 'degree' takes"):
        whole(path=str(tmp_path / "line.txt"))
    assert whole(path=str(tmp_path / "line.txt"), structure="degree")["x"].shape == (1000, 3)


def test_names_of_nodes_reach_the_predictions(tmp_path: Path) -> None:
    data = Graphs(str(write_edge_list(tmp_path)))
    data.setup("predict")
    assert data.predict_set is not None
    assert data.predict_set.names == ["10", "20", "30", "40"]  # type: ignore[attr-defined]


def test_neighbors_of_images_are_those_of_their_pixels() -> None:
    batch = whole(data=Digits(), neighbors=3, metric="euclidean")
    assert batch["x"].shape == (1797, 64)
    edges, weight = neighbor_graph(batch["x"], 3, "euclidean")
    assert torch.equal(batch["edge_index"], edges)
    assert torch.equal(batch["edge_weight"], weight)
    assert batch["label"].bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_all_rows_of_a_table_are_nodes() -> None:
    data = Graphs(data=BreastCancer(), neighbors=4)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["x"].shape == (569, 30)
    assert batch["label"].bincount().tolist() == [212, 357]
    assert facts_of(data)["class_names"] == ["malignant", "benign"]


def test_new_nodes_are_a_graph_without_edges(tmp_path: Path) -> None:
    data = Graphs(str(write_webkb(tmp_path)), row_normalize=True)
    data.setup("fit")
    batch = data.as_batch([[2.0, 2.0, 0.0]])
    assert batch["x"].tolist() == [[0.5, 0.5, 0.0]]
    assert batch["edge_index"].shape == (2, 0)
    with pytest.raises(ValueError, match=r"\(N, 3\), got \(1, 2\)"):
        data.as_batch([[1.0, 2.0]])


def test_another_number_of_features_than_in_training_is_refused(tmp_path: Path) -> None:
    data = Graphs(str(write_webkb(tmp_path)))
    data.use_facts({"input_shape": [5]})
    with pytest.raises(IncompatibleError, match="have 3 features, and the model was trained on 5"):
        data.setup("test")


def test_degrees_keep_the_width_of_the_training(tmp_path: Path) -> None:
    data = Graphs(str(write_edge_list(tmp_path)), structure="degree")
    data.use_facts({"input_shape": [2]})
    data.setup("test")
    assert data.test_set is not None
    assert data.test_set.batch([0])["x"].tolist() == [[0, 1]] * 4  # type: ignore[attr-defined]


def test_state_fits_a_graph_that_is_read_again(tmp_path: Path) -> None:
    data = Graphs(str(write_planetoid(tmp_path)))
    data.setup("fit")
    state = data.state_dict() | {"position": 1}
    data.forget()
    data.setup("fit")
    data.load_state_dict(state)
    assert (state["batch_size"], state["num_samples"]) == (6, 6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "from path or from data"),
        ({"path": "a", "data": Digits()}, "from path or from data"),
        ({"data": Digits(), "labels": "b"}, "labels belongs to a list of edges"),
        ({"path": "a", "neighbors": 0}, "neighbors must be at least 1"),
        ({"path": "a", "metric": "l1"}, "metric must be one of"),
        ({"path": "a", "structure": "wl"}, "structure must be one of"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Graphs(**arguments)
