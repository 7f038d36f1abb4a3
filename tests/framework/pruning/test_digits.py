"""Pruning of a perceptron for real digits in one shot: M-FAC, magnitude, rounds against one."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from torch import nn

from framework.pruning import WeightPruner

SPARSITIES = (0.7, 0.8, 0.9)
METHODS = {
    "magnitude": {"method": "magnitude"},
    "one": {"recomputations": 1},
    "rounds": {"recomputations": 16},
}


def accuracies(seed: int) -> dict[tuple[str, float], float]:
    from sklearn.datasets import load_digits

    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images = (images / 16).float()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    test, train = order[:450], order[450:]
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        for rows in train[torch.randperm(len(train), generator=generator)].split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()

    def accuracy(method: str, sparsity: float) -> float:
        pruned = copy.deepcopy(network)
        weights = {name: w for name, w in pruned.named_parameters() if w.ndim == 2}
        draws = torch.Generator().manual_seed(seed + 100)

        def gradients():
            while True:
                rows = train[torch.randperm(len(train), generator=draws)[:32]]
                loss = nn.functional.cross_entropy(pruned(images[rows]), labels[rows])
                yield torch.autograd.grad(loss, list(weights.values()))

        WeightPruner(weights, **METHODS[method]).prune_to(sparsity, gradients)
        with torch.no_grad():
            return float((pruned(images[test]).argmax(1) == labels[test]).float().mean())

    return {(m, s): accuracy(m, s) for m in METHODS for s in SPARSITIES}


@pytest.mark.slow
def test_mfac_beats_magnitude_and_rounds_beat_one():
    found = [accuracies(seed) for seed in range(3)]
    mean = {key: statistics.mean(result[key] for result in found) for key in found[0]}
    for sparsity in SPARSITIES:
        assert mean["one", sparsity] > mean["magnitude", sparsity]
        assert mean["rounds", sparsity] > mean["one", sparsity]
    assert mean["rounds", 0.9] > mean["magnitude", 0.9] + 0.08
