"""How EnsLoss does beside fixed losses on few MNIST digits, 3 against 8.

    python -m benchmarks.ensloss_mnist --data FOLDER [--seeds 4]

FOLDER holds ``mnist/MNIST/raw``. Trains a perceptron 784-256-256-1 on 200 digits (SGD 0.01,
momentum 0.9, cosine over 100 epochs, batches of 32) and prints its accuracy on 800 of the test set;
a seed draws digits, weights and batches. The reference is a run of the same protocol on other
draws; the paper's gains are of deep networks on pairs of CIFAR-10 classes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from torch import Tensor

from benchmarks.experiment import mean_and_sd, parser
from datamodules.idx import read_idx
from framework.losses import EnsLoss
from modules.classifier.network import build_network

TRAIN, TEST, EPOCHS, BATCH = 200, 800, 100, 32
Criterion = Callable[[Tensor, Tensor, int, int], Tensor]


def logistic(scores: Tensor, labels: Tensor, epoch: int, step: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, labels.float())


def hinge(scores: Tensor, labels: Tensor, epoch: int, step: int) -> Tensor:
    return (1 - (2 * labels - 1) * scores).relu().mean()


def ensloss(lambda_period: int | None = None) -> Criterion:
    loss = EnsLoss(lambda_period=lambda_period)
    return lambda scores, labels, epoch, step: loss(scores, labels, epoch=epoch, step=step)


ARMS: dict[str, tuple[Callable[[], Criterion], str]] = {
    "logistic": (lambda: logistic, "0.953 ± 0.006"),
    "hinge": (lambda: hinge, "0.953 ± 0.006"),
    "EnsLoss": (ensloss, "0.954 ± 0.006"),
    "EnsLoss, lambda anew every 20 epochs": (lambda: ensloss(lambda_period=20), ""),
}


def digits(folder: Path, part: str, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random images (N, 1, 28, 28) in [0, 1] of a 3 or an 8, and whether it is an 8."""
    label = read_idx(folder / f"{part}-labels-idx1-ubyte", ndim=1)
    candidates = ((label == 3) | (label == 8)).nonzero()[:, 0]
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:rows]]
    images = read_idx(folder / f"{part}-images-idx3-ubyte", ndim=3)[chosen]
    return images[:, None] / 255, (label[chosen] == 8).long()


def accuracy(folder: Path, make_criterion: Callable[[], Criterion], seed: int) -> float:
    """Train once and return the accuracy on the test digits."""
    seed_everything(seed, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits(folder, "train", TRAIN, generator)
    network = build_network("mlp", 1, (1, 28, 28), (256, 256), pretrained=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    criterion, step = make_criterion(), 0
    for epoch in range(EPOCHS):
        for rows in torch.randperm(TRAIN, generator=generator).split(BATCH):
            optimizer.zero_grad()
            scores = network(images[rows])[0].squeeze(1)
            criterion(scores, labels[rows], epoch, step).backward()
            optimizer.step()
            step += 1
        schedule.step()
    images, labels = digits(folder, "t10k", TEST, torch.Generator().manual_seed(seed))
    network.eval()
    with torch.no_grad():
        predicted = network(images)[0].squeeze(1) > 0
    return float((predicted == labels).double().mean())


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=4)
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    folder = Path(arguments.data) / "mnist" / "MNIST" / "raw"
    print(f"\nMNIST 3 against 8, {TRAIN} digits; mean ± sd of {arguments.seeds} seeds\n")
    print("| | accuracy | reference |\n| --- | --- | --- |")
    for name, (criterion, reference) in ARMS.items():
        values = [accuracy(folder, criterion, seed) for seed in range(arguments.seeds)]
        print(f"| {name} | {mean_and_sd(values)} | {reference} |", flush=True)


if __name__ == "__main__":
    main()
