"""SAF, a comp-sum loss, Lion-K and a cosine schedule in a training loop of one's own."""

from collections.abc import Iterable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, TensorDataset

from trimtab import CompSumLoss, LionK, TrajectoryLoss, WarmupCosine


def fit(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    criterion: nn.Module,
    trajectory: TrajectoryLoss,
    optimizer: Optimizer,
    schedule: LRScheduler,
    epochs: int,
) -> None:
    """Train a network on batches of images, labels and the samples' places in the training set."""
    network.train()
    for epoch in range(epochs):
        for image, label, index in loader:
            logits = network(image)
            loss = criterion(logits, label) + trajectory(logits, index, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main(epochs: int = 10) -> float:
    """Return the test accuracy on scikit-learn's digits."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).flatten(1)
    labels = torch.tensor(digits.target)
    train, test = torch.randperm(len(images)).split([1437, 360])

    dataset = TensorDataset(images[train], labels[train], torch.arange(len(train)))
    loader = DataLoader(dataset, batch_size=64, shuffle=True)
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    trajectory = TrajectoryLoss(len(train), num_classes=10, lag_epochs=2, start_epoch=3)
    optimizer = LionK(network.parameters(), lr=3e-3)
    schedule = WarmupCosine(optimizer, total_steps=epochs * len(loader), warmup_fraction=0.1)
    fit(network, loader, CompSumLoss(tau=1.0), trajectory, optimizer, schedule, epochs)

    network.eval()
    with torch.no_grad():
        return float((network(images[test]).argmax(1) == labels[test]).float().mean())


if __name__ == "__main__":
    print(f"test accuracy: {main():.3f}")
