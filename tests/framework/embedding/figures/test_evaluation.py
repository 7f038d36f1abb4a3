"""Which figures an evaluation has, and of which numbers."""

from __future__ import annotations

import pytest
import torch

from framework.embedding.figures.evaluation import evaluation_figures
from framework.embedding.metrics.embedding_evaluation import EmbeddingEvaluation
from framework.embedding.pairs import Pairs


def test_a_threshold_of_squared_distances_is_drawn_as_a_cosine():
    # squared distances 0.4 and 0.815 of one class: the first thresholds above are 0.41 and 0.82
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.5925, 0.80557], [0.0, 1.0], [-0.6, 0.8]])
    label = torch.tensor([0, 0, 0, 1, 2])
    same = torch.tensor([True, False, True, False])
    pairs = Pairs(torch.zeros(4, dtype=torch.int64), torch.tensor([1, 3, 2, 4]), same, num_folds=2)
    metric = EmbeddingEvaluation(2, pairs={"faces": pairs}, queries=2, neighbors=3)
    metric.update(x, label, index=torch.arange(5))
    values = metric.compute()
    images = torch.rand(5, 3, 4, 4)
    figures = evaluation_figures(values, images.__getitem__)
    assert set(figures) == {"roc", "similarities", "neighbors"}
    assert float(values["faces/threshold"]) == pytest.approx(0.615)
    titles = [axes.get_title("left") for axes in figures["similarities"].axes]
    assert titles == ["faces, threshold 0.69", "all pairs"]
    assert set(evaluation_figures(values, None)) == {"roc", "similarities"}
