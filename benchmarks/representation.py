"""What the methods of representation learning cost, each beside its baseline.

    python -m benchmarks.representation [--only contrastive graphs few_shot energies]
        [--device cuda] [--rounds 7]

``contrastive``: a training step of ResNet-18 on two views of 32 x 32 pixels (64 images, projector
of 512 and 128, SGD) with NT-Xent, with iSogCLR and with lightly's NT-Xent, where that is installed
(``pip install 'trimtab[bench]'``). Goal: iSogCLR at most 1.05 of NT-Xent.

``graphs``: forward and backward pass of PamC's loss and of the one with all pairs as negatives, on
graphs of 2,000 to 32,000 nodes with about 10 neighbors each, 10 clusters, embeddings of width 10.
Goal: PamC's grows linearly, so that its time per node stays the same.

``few_shot``: tasks of 5 classes with 1 support and 15 queries each in 64 dimensions, solved in one
batch and in a loop over tasks. Goal: 50 times as many per second together.

``energies``: a step of MECO, and one of contrastive divergence with 20 Langevin steps, on 256 rows
in the plane and an MLP.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.pamc_loss import CLUSTERS, DEGREE, NODES, loss_step
from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

IMAGES, STORED = 64, 50_000
TOGETHER, ALONE = 1_000, 20
ROWS = 256


def contrastive_arms(device: str) -> dict[str, Callable[[], object]]:
    """Return a training step of each contrastive loss, each with a network of its own."""
    import timm
    import torch
    from torch import Tensor, nn

    from framework.contrastive import NTXentLoss, RobustContrastiveLoss

    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, IMAGES, 3, 32, 32, generator=generator).to(device)
    index = torch.randperm(STORED, generator=generator)[:IMAGES].to(device)
    robust = RobustContrastiveLoss()
    robust.setup(STORED, None, torch.device(device))
    plain = NTXentLoss()
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "NT-Xent": plain,
        "iSogCLR": lambda a, b: robust(a, b, index=index, epoch=0),
    }
    try:
        from lightly.loss import NTXentLoss as TheirLoss
    except ImportError:
        pass
    else:
        losses["lightly's NT-Xent"] = TheirLoss(temperature=0.5)

    def arm(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        torch.manual_seed(0)
        backbone = timm.create_model("resnet18", num_classes=0)
        # as usual for small images
        backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        backbone.maxpool = nn.Identity()
        projector = nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128, bias=False)
        )
        network = nn.Sequential(backbone, projector).to(device).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            views = network(torch.cat([first, second])).split(IMAGES)
            loss(*views).backward()
            optimizer.step()

        return step

    return {name: arm(loss) for name, loss in losses.items()}


def graph_arms(nodes: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the passes of both losses on one random graph."""
    return {
        "PamC": loss_step(nodes, "pamc", device),
        "all pairs as negatives": loss_step(nodes, "full_negative", device),
    }


def print_graphs(device: str, rounds: int) -> None:
    """Print the time of both losses by the number of nodes."""
    print(
        f"\nLoss of a graph, forward and backward, {DEGREE} neighbors a node, {CLUSTERS} clusters"
    )
    per_node: list[float] = []
    for nodes in NODES:
        medians = interleaved_medians(graph_arms(nodes, device), min(rounds, 3), warmup=1)
        ours, theirs = medians.values()
        per_node.append(ours / nodes)
        print(
            f"  N = {nodes:6,}   PamC {ours * 1e3:9.2f} ms ({ours / nodes * 1e6:.2f} us a node)   "
            f"all pairs {theirs * 1e3:9.1f} ms   ratio {ours / theirs:.4f}"
        )
    growth = per_node[-1] / per_node[0]
    print(f"  time a node, N = {NODES[-1]:,} against {NODES[0]:,}: {growth:.2f}   goal: 1 (linear)")


def few_shot_arms(device: str) -> dict[str, Callable[[], object]]:
    """Return what solves many tasks together, and a few of them one by one."""
    from benchmarks.few_shot_tasks import random_tasks, solve_one_by_one, solve_together
    from framework.solvers import LaplacianClustering

    solver = LaplacianClustering()
    tasks, support = (x.to(device) for x in random_tasks(TOGETHER))
    return {
        "together": lambda: solve_together(solver, tasks, support),
        "one by one": lambda: solve_one_by_one(solver, tasks[:ALONE], support),
    }


def print_few_shot(device: str, rounds: int) -> None:
    """Print tasks per second."""
    medians = interleaved_medians(few_shot_arms(device), rounds, warmup=1)
    together, alone = TOGETHER / medians["together"], ALONE / medians["one by one"]
    ratio = together / alone
    said = "met" if ratio >= 50 else "MISSED"
    print("\nFew-shot tasks by SLK-means, 5 ways, 1 shot, 15 queries")
    print(f"  together   {together:10.0f} tasks/s   {ratio:6.1f}   goal 50: {said}")
    print(f"  one by one {alone:10.0f} tasks/s      1.0")


def energy_arms() -> dict[str, Callable[[], object]]:
    """Return a step of MECO and one of contrastive divergence."""
    import torch

    from benchmarks.energies import contrastive_divergence_step, meco_step

    rows = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    return {
        "contrastive divergence, 20 steps": contrastive_divergence_step(rows, steps=20),
        "MECO": meco_step(rows),
    }


PARTS = ("contrastive", "graphs", "few_shot", "energies")


def main() -> None:
    """Run the benchmark."""
    pin_allocator()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(machine(options.device))
    if "contrastive" in options.only:
        medians = interleaved_medians(contrastive_arms(options.device), options.rounds)
        title = f"Training step of ResNet-18, {IMAGES} images, two views of 32 x 32"
        print_ratios(title, medians, "NT-Xent", {"iSogCLR": 1.05})
        if "lightly's NT-Xent" not in medians:
            print("  lightly is not installed: pip install 'trimtab[bench]'")
    if "graphs" in options.only:
        print_graphs(options.device, options.rounds)
    if "few_shot" in options.only:
        print_few_shot(options.device, options.rounds)
    if "energies" in options.only:
        medians = interleaved_medians(energy_arms(), 5 * options.rounds)
        title = f"Training step of an energy, {ROWS} rows in the plane"
        print_ratios(title, medians, "contrastive divergence, 20 steps")


if __name__ == "__main__":
    main()
