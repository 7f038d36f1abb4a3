"""The phases of a graph clustering, its loss, and what it measures, predicts and refuses."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from sklearn.cluster import KMeans
from torch import Tensor

from framework.clustering import assignment_divergence, dec_target_distribution
from framework.graphs import (
    FullNegativeLoss,
    GraphTooDenseError,
    PamCLoss,
    adjacency_powers,
    conductance,
    modularity,
)
from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from modules import GraphClustering
from modules.graph_clustering.scores import scores_of
from tests.helpers.tiny import tiny_trainer
from tests.modules.graph_clustering.small import FEATURES, NODES, GroupedNodes, fit, graph, model


class Watch(Callback):
    """Keeps what ``look(module)`` returns before every step and at every epoch's end."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(self.look(pl_module))

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append(self.look(pl_module))


def parts(module: GraphClustering) -> dict[str, Tensor]:
    named = module.named_parameters()
    return {
        part: torch.cat([p.detach().flatten() for n, p in module.named_parameters() if part in n])
        for part in {name.split(".")[0] for name, _ in named}
    }


def test_each_phase_trains_its_own_part(tmp_path: Path) -> None:
    watch = Watch(parts)
    module, _ = fit(tmp_path, watch)
    moved = [
        {name for name, value in after.items() if not torch.equal(value, before[name])}
        for before, after in zip(watch.seen[::2], watch.seen[1::2], strict=True)
    ]
    # callbacks look before the module, which places the centers in the third epoch
    assert moved == [{"encoder", "decoder"}] * 2 + [{"encoder", "head"}] * 2
    assert (module.phase, module.placed) == (1, True)


def test_the_centers_start_where_kmeans_puts_them(tmp_path: Path) -> None:
    placed = []

    class Look(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            if pl_module.placed and not placed:
                placed.append((pl_module.head.centers.detach().clone(), pl_module.stages))
                with torch.no_grad():
                    placed.append(pl_module.encoder(graph()["x"]))

    fit(tmp_path, Look())
    (centers, stages), z = placed
    expected = KMeans(3, n_init=2, random_state=0).fit(z.double().numpy())
    distances = torch.cdist(centers.double(), torch.from_numpy(expected.cluster_centers_))
    assert distances.min(1).values.max() < 1e-4
    label = graph()["label"]
    found = scores_of(torch.from_numpy(expected.labels_).long(), label, 3)
    assert stages["kmeans_code"] == pytest.approx(found)
    assert set(stages) == {"kmeans_code", "kmeans_features"}


@pytest.mark.parametrize("objective", ["pamc", "full_negative"])
def test_the_loss_of_a_step_is_that_of_the_formula(objective: str, tmp_path: Path) -> None:
    settings = {"objective": objective, "alpha": 0.7, "beta": 2.0, "tau": 1.5}
    module, _ = fit(tmp_path, **settings)
    batch = graph()
    near = adjacency_powers(batch["edge_index"], NODES, batch["edge_weight"], order=2)
    z = module.encoder(batch["x"])
    log_q = module.head(z)
    cluster = log_q.argmax(1)
    contrast = (
        PamCLoss(tau=1.5)(z, *near, cluster, 3)
        if objective == "pamc"
        else FullNegativeLoss(tau=1.5)(z, *near)
    )
    divergence = assignment_divergence(log_q, dec_target_distribution(log_q.exp(), "square"))
    objectives = module.objectives(batch)
    torch.testing.assert_close(
        reduce_objectives(objectives).total, 0.7 * contrast + 2 * divergence.mean()
    )
    for name, value in {"contrast": contrast, "clustering": divergence.mean()}.items():
        torch.testing.assert_close(objectives.per_sample[name].mean(), value)


def test_some_nodes_count_where_a_rank_holds_some() -> None:
    module = model()
    module.phase = 1
    batch = graph()
    whole = module.objectives(batch)
    halves = [
        module.objectives({**batch, "index": index}) for index in torch.arange(NODES).split(25)
    ]
    for name, values in whole.per_sample.items():
        together = torch.cat([half.per_sample[name] for half in halves])
        torch.testing.assert_close(together, values)
    assert whole.predictions is not None
    assert halves[1].predictions is not None
    torch.testing.assert_close(halves[1].predictions, whole.predictions[25:])


def test_what_is_measured(tmp_path: Path) -> None:
    module, trainer = fit(tmp_path)
    batch = graph()
    q = module(batch["x"]).exp()
    cluster = q.argmax(1)
    seen = trainer.logged_metrics
    expected = scores_of(cluster, batch["label"], 3)
    edges = (batch["edge_index"], batch["edge_weight"], cluster, 3)
    expected |= {
        "modularity": modularity(*edges).item(),
        "conductance": conductance(*edges).item(),
        "smallest_cluster": cluster.bincount(minlength=3).min().item() / NODES,
        "max_probability": q.max(1).values.mean().item(),
        "accuracy/kmeans_code": module.stages["kmeans_code"]["accuracy"],
    }
    found = {name: seen[f"val/{name}"].item() for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)


def test_without_labels_there_are_no_scores_of_classes(tmp_path: Path) -> None:
    module, trainer = fit(tmp_path, source=GroupedNodes(labeled=False))
    assert module.stages == {}
    assert "val/modularity" in trainer.logged_metrics
    assert "val/accuracy" not in trainer.logged_metrics


def test_predictions_are_clusters_and_embeddings(tmp_path: Path) -> None:
    module, _ = fit(tmp_path)
    batch = graph()
    columns = module.predict({"x": batch["x"], "index": batch["index"]})
    assert columns["embedding"].shape == (NODES, 4)
    torch.testing.assert_close(columns["cluster"], module(batch["x"]).argmax(1))
    # a node that has no edges yet
    new = module.predict({"x": torch.zeros(2, FEATURES)})
    assert len(new["cluster"]) == 2


def test_without_a_first_phase_there_are_clusters_at_once(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, pretrain_epochs=0, baselines=False)
    assert set(module.stages) == {"kmeans_code"}
    assert module.phase == 1


def test_a_run_that_ends_too_early_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        module, trainer = fit(tmp_path, pretrain_epochs=4)
    assert "ended before its clusters were found" in caplog.text
    assert "val/accuracy" not in trainer.logged_metrics
    caplog.clear()
    trainer.test(module, GroupedNodes(), verbose=False)
    assert "no clusters in it yet" in caplog.text


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="input_shape must be the number of a node's features"):
        GraphClustering()
    with pytest.raises(ValueError, match="objective must be one of"):
        model(objective="all")
    with pytest.raises(IncompatibleError, match=r"set model.input_shape to \[6\]"):
        fit(tmp_path, input_shape=[7])
    with pytest.raises(ValueError, match="does not fit kmeans"):
        fit(tmp_path, init_options={"starts": 3})
    module = model()
    module.neighbors(graph())
    with pytest.raises(IncompatibleError, match="every batch must be the whole graph"):
        module.neighbors(graph(GroupedNodes(nodes=20)))
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.00001")
    with pytest.raises(GraphTooDenseError, match="Order 1 joins"):
        tiny_trainer(tmp_path, [], False, max_epochs=1).fit(model(), GroupedNodes())


def test_a_reconstruction_in_the_joint_phase_keeps_the_decoder_learning(tmp_path: Path) -> None:
    watch = Watch(parts)
    module, _ = fit(tmp_path, watch, lambda_rec=0.5)
    assert not torch.equal(watch.seen[-2]["decoder"], watch.seen[-1]["decoder"])
    objectives = module.objectives(graph())
    assert set(objectives.per_sample) == {"reconstruction", "contrast", "clustering"}
    assert objectives.weights["reconstruction"] == 0.5


@pytest.mark.pictures
@pytest.mark.parametrize("labeled", [True, False])
def test_figures_show_the_graph_and_what_is_known_of_it(labeled: bool, tmp_path: Path) -> None:
    module, _ = fit(tmp_path, source=GroupedNodes(labeled=labeled))
    figures = module.figures("val", module.metric_values)
    assert set(figures) == ({"graph", "stages", "confusion_matrix"} if labeled else {"graph"})
    panels = [axes.get_title(loc="left") for axes in figures["graph"].axes]
    assert len(panels) == 1 + labeled
    (table,) = module.score_tables("val", module.metric_values).values()
    assert len(table.rows) == 3
