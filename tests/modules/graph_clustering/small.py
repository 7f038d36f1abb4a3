"""A graph of three groups, and a run of both phases that takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.graphs import neighbor_graph
from modules import GraphClustering
from tests.helpers.tiny import tiny_trainer

NODES, FEATURES = 40, 6


class WholeGraph(ArrayDataset):
    """The whole graph, whatever the rows; ``index`` says which nodes count."""

    def __init__(self, edges: tuple[Tensor, Tensor], **fields: Tensor) -> None:
        super().__init__(**fields)
        self.edges = dict(zip(("edge_index", "edge_weight"), edges, strict=True))

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        return {**self.fields, **self.edges}


class GroupedNodes(DataModule):
    """Nodes in three groups, joined to their nearest ones."""

    input_shape = (FEATURES,)

    def __init__(self, labeled: bool = True, nodes: int = NODES) -> None:
        super().__init__(batch_size=nodes)
        generator = torch.Generator().manual_seed(0)
        label = torch.arange(nodes) % 3
        x = 3 * torch.eye(3, FEATURES)[label] + torch.randn(nodes, FEATURES, generator=generator)
        self.num_classes = 3 if labeled else None
        fields = {"x": x, "label": label} if labeled else {"x": x}
        whole = WholeGraph(neighbor_graph(x, 4), **fields)
        self.train_set = self.val_set = self.test_set = self.predict_set = whole


def model(**kwargs: Any) -> GraphClustering:
    """A small network whose first phase lasts two epochs."""
    settings: dict[str, Any] = {
        "num_clusters": 3,
        "input_shape": [FEATURES],
        "hidden": [8],
        "code_size": 4,
        "order": 2,
        "pretrain_epochs": 2,
        "init_options": {"n_init": 2},
    }
    seed_everything(0, verbose=False)
    return GraphClustering(**settings | kwargs)


def fit(
    folder: Path, *callbacks: Callback, source: DataModule | None = None, **kwargs: Any
) -> tuple[GraphClustering, Trainer]:
    """Fit a small model for two epochs of each phase."""
    module = model(**kwargs)
    trainer = tiny_trainer(folder, list(callbacks), False, max_epochs=4, log_every_n_steps=50)
    trainer.fit(module, source or GroupedNodes())
    return module, trainer


def graph(source: DataModule | None = None) -> Batch:
    """Return the only batch."""
    return next(iter((source or GroupedNodes()).val_dataloader()))
