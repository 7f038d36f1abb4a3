"""What individual temperatures find: iSogCLR, SogCLR and SimCLR side by side.

    python -m benchmarks.isogclr [--seeds 3] [--epochs 40]

Trains a small convolutional network without labels on scikit-learn's digits with a long
tail, in plain PyTorch, and classifies 400 others by 20 nearest neighbors and by logistic regression
on its features, after the last epoch. The arms are the three losses at three
temperatures, where iSogCLR's is the one that it starts from.

``benchmarks.representation`` says what a step costs.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.experiment import mean_and_sd

TEMPERATURES = (0.05, 0.1, 0.3)
BATCH = 64


def losses(temperature: float) -> dict[str, Any]:
    """Return the losses of the three methods, which start at one temperature."""
    from framework.contrastive import NTXentLoss, RobustContrastiveLoss

    return {
        "iSogCLR": RobustContrastiveLoss(temperature=temperature),
        "SogCLR": RobustContrastiveLoss(temperature=temperature, learn_temperature=False),
        "SimCLR": NTXentLoss(temperature),
    }


def random_views(image: Any) -> Any:
    """Return images (B, C, H, W) turned, cropped and with another brightness, each its own way."""
    import torch
    import torch.nn.functional as F

    rows = len(image)
    angle = (torch.rand(rows) * 2 - 1) * torch.pi / 12
    size = (0.4 + 0.6 * torch.rand(rows)).sqrt()
    shift = (1 - size)[:, None] * (torch.rand(rows, 2) * 2 - 1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    matrix = torch.cat([turn * size[:, None, None], shift[:, :, None]], 2)
    grid = F.affine_grid(matrix, image.shape, align_corners=False)
    image = F.grid_sample(image, grid, align_corners=False)
    contrast, brightness = (0.6 + 0.8 * torch.rand(2, rows, 1, 1, 1)).unbind()
    mean = image.mean((1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean) * brightness


def train(loss: Any, image: Any, index: Any, seed: int, epochs: int) -> Any:
    """Return the encoder that a loss has trained on images without labels."""
    import torch
    from torch import nn

    from modules.contrastive_learner import build_encoder, build_projector

    torch.manual_seed(seed)
    encoder, width = build_encoder("cnn", image.shape[1:], (32, 64))
    projector = build_projector(width, (128, 64))
    network = nn.Sequential(encoder, projector).train()
    if hasattr(loss, "memory"):
        loss.setup(int(index.max()) + 1, None, torch.device("cpu"))
    steps = epochs * (len(image) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.05)
    for _ in range(epochs):
        for rows in torch.randperm(len(image)).split(BATCH)[: len(image) // BATCH]:
            both = network(torch.cat([random_views(image[rows]), random_views(image[rows])]))
            needs = {"index": index[rows]} if hasattr(loss, "memory") else {}
            value = loss(*both.chunk(2), **needs)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return encoder.eval()


def measure(loss: Any, data: Any, seed: int, epochs: int) -> list[float]:
    """Return two accuracies, the range of class temperatures and their rank correlations."""
    import torch
    from torchmetrics.functional import spearman_corrcoef

    from framework.contrastive import LinearProbeAccuracy, NeighborAccuracy
    from framework.contrastive.class_temperatures import class_temperatures

    seen, others = (
        {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        for batches in (list(data.ordered_train_dataloader()), list(data.test_dataloader()))
    )
    encoder = train(loss, seen["image"], seen["index"], seed, epochs)
    scores = []
    with torch.no_grad():
        for metric in (NeighborAccuracy(10, k=20), LinearProbeAccuracy(10)):
            metric.use_bank(encoder(seen["image"]), seen["label"])
            metric.update(encoder(others["image"]), others["label"])
            scores.append(100 * float(metric.compute()))
    if not getattr(loss, "learn_temperature", False):
        return scores
    temperature = loss.temperatures(seen["index"])[:, 0]
    found = class_temperatures(temperature, seen["label"])
    of_samples = spearman_corrcoef(temperature, found.samples[seen["label"]].float())
    return [
        *scores,
        float(found.mean[:3].mean()),
        float(found.mean[-3:].mean()),
        float(found.correlation),
        float(of_samples),
    ]


def print_tables(seeds: int, epochs: int) -> None:
    """Train and measure every arm, and print a line for each."""
    from datamodules import Digits, LongTailed

    data: Any = LongTailed(Digits(test_size=400, val_size=1), imbalance=10.0)
    data.setup("fit")
    print(f"training digits: {data.class_counts}; {epochs} epochs, {seeds} seeds\n")
    heads = ["loss", "temperature", "neighbors", "linear"]
    more = ["frequent classes", "rare classes", "class correlation", "sample correlation"]
    print("| " + " | ".join([*heads, *more]) + " |\n|" + " --- |" * len([*heads, *more]))
    for name in losses(0.1):
        for temperature in TEMPERATURES:
            runs = [measure(losses(temperature)[name], data, seed, epochs) for seed in range(seeds)]
            cells = [mean_and_sd(column) for column in zip(*runs, strict=True)]
            cells += [""] * (len(more) + 2 - len(cells))
            print("| " + " | ".join([name, str(temperature), *cells]) + " |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    print_tables(arguments.seeds, arguments.epochs)


if __name__ == "__main__":
    main()
