"""PamC beside the auto-encoder's k-means, DEC alone and all negatives, in a plain loop.

    python -m benchmarks.graph_clustering digits [--seeds 3]
    python -m benchmarks.graph_clustering cora --data FOLDER

Prints, for every seed and as means, accuracy, NMI, ARI and F1 at the last epoch, and the best
accuracy of any epoch, which only the classes could choose. FOLDER holds ``planetoid``, ``webkb``
and ``airports``.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from framework.clustering import (
    StudentTAssignment,
    assignment_divergence,
    dec_target_distribution,
)
from framework.graphs import FullNegativeLoss, PamCLoss, adjacency_powers
from framework.solvers import centroids, initial_clusters
from modules.graph_clustering.network import perceptron
from modules.graph_clustering.scores import scores_of

SCORES = ("accuracy", "nmi_arithmetic", "adjusted_rand", "f1")
SMALL = {"texas", "wisconsin", "brazil", "europe"}


class Settings(NamedTuple):
    """Settings of a data set; those of the graphs that are given are published for Citeseer."""

    alpha: float = 2.0
    beta: float = 2.5
    order: int = 3
    tau: float = 0.5
    lr: float = 1e-3
    hidden: int = 128
    pretrain: int = 100
    epochs: int = 200


DIGITS = Settings(alpha=1.0, beta=10.0, order=2, tau=2.0, lr=3e-3, pretrain=300)


def load(name: str, folder: Path | None) -> dict[str, Tensor]:
    """Return the only batch of a graph."""
    from datamodules import Digits, Graphs

    if name == "digits":
        data = Graphs(data=Digits(mean=[0.0], std=[0.25]), neighbors=5)
    else:
        assert folder is not None
        places = {
            "cora": "planetoid/Cora",
            "texas": "webkb/texas",
            "wisconsin": "webkb/wisconsin",
            "brazil": "airports/brazil-airports.edgelist",
            "europe": "airports/europe-airports.edgelist",
        }
        data = Graphs(path=str(folder / places[name]))
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def pretrained(x: Tensor, settings: Settings, seed: int) -> nn.Sequential:
    """Return the encoder of an auto-encoder, trained on all nodes at once."""
    torch.manual_seed(seed)
    sizes = [x.shape[1], settings.hidden, 10]
    encoder, decoder = perceptron(sizes), perceptron(sizes[::-1])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.lr)
    for _ in range(settings.pretrain):
        loss = (decoder(encoder(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder


def train(
    encoder: nn.Sequential,
    batch: dict[str, Tensor],
    near: tuple[Tensor, Tensor],
    objective: str,
    settings: Settings,
    seed: int,
) -> list[dict[str, float]]:
    """Train from the auto-encoder's clusters, and return the scores of every epoch."""
    x, label = batch["x"], batch["label"]
    clusters = int(label.max()) + 1
    encoder = copy.deepcopy(encoder)
    with torch.no_grad():
        z = encoder(x)
    first = initial_clusters(z, clusters, "kmeans", seed, n_init=20)
    head = StudentTAssignment(clusters, z.shape[1])
    head.place(centroids(z, first, clusters))
    history = [scores_of(first, label, clusters)]
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=settings.lr)
    pamc, full = PamCLoss(settings.tau), FullNegativeLoss(settings.tau)
    for _ in range(settings.epochs):
        z = encoder(x)
        log_q = head(z)
        p = dec_target_distribution(log_q.detach().exp(), "square")
        loss = settings.beta * assignment_divergence(log_q, p).mean()
        if objective == "PamC":
            loss = loss + settings.alpha * pamc(z, *near, log_q.argmax(1), clusters)
        elif objective == "all negatives":
            loss = loss + settings.alpha * full(z, *near)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            cluster = head(encoder(x)).argmax(1)
        history.append(scores_of(cluster, label, clusters))
    return history


def main() -> None:
    """Print the table of a graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", choices=["digits", "cora", *sorted(SMALL)])
    parser.add_argument("--data", type=Path, help="folder of the graphs that are given")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.graph != "digits" and arguments.data is None:
        parser.error(f"{arguments.graph} needs --data FOLDER")
    settings = DIGITS if arguments.graph == "digits" else Settings()
    batch = load(arguments.graph, arguments.data)
    x, label = batch["x"], batch["label"]
    clusters = int(label.max()) + 1
    near = adjacency_powers(batch["edge_index"], len(x), batch["edge_weight"], order=settings.order)
    print(f"{arguments.graph}: {len(x)} nodes, {near[1].numel()} pairs, {settings}")
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        found = initial_clusters(x, clusters, "kmeans", seed, n_init=20)
        rows.setdefault("k-means on features", []).append(scores_of(found, label, clusters))
        encoder = pretrained(x, settings, seed)
        for objective in ("DEC alone", "PamC", "all negatives"):
            history = train(encoder, batch, near, objective, settings, seed)
            best = max(scores["accuracy"] for scores in history)
            rows.setdefault(objective, []).append({**history[-1], "best": best})
            print(seed, objective, {k: round(v, 3) for k, v in rows[objective][-1].items()})
        rows.setdefault("auto-encoder and k-means", []).append(history[0])
    for name, results in rows.items():
        cells = []
        for score in (*SCORES, "best"):
            values = [result[score] for result in results if score in result]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}" if values else "")
        print("| " + " | ".join([name, *cells]) + " |")


if __name__ == "__main__":
    main()
