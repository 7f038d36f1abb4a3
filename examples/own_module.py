"""SAF, a comp-sum loss, Lion-K and a cosine schedule in a LightningModule of one's own."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab import CompSumLoss, LionK, TrajectoryLoss, WarmupCosine


class OwnModule(LightningModule):
    """A classifier of tuples (image, label, index) with two pieces of Trimtab."""

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.criterion = CompSumLoss(tau=1.0)
        # its memory is in the module's state, and so in every checkpoint
        self.trajectory = TrajectoryLoss(num_samples, num_classes=10, lag_epochs=2, start_epoch=3)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        return self.network(image)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss with SAF's term."""
        image, label, index = batch
        logits = self(image)
        term = self.trajectory(logits, index, self.current_epoch)
        self.log("train/saf", term)
        return self.criterion(logits, label) + term

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        image, label, _ = batch
        self.log("test/accuracy", (self(image).argmax(1) == label).float().mean())

    def configure_optimizers(self) -> Any:
        """Return Lion-K with a schedule that counts steps."""
        optimizer = LionK(self.parameters(), lr=3e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = WarmupCosine(optimizer, total_steps=steps, warmup_fraction=0.1)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def loaders() -> tuple[DataLoader, DataLoader]:
    """Return training and test batches of scikit-learn's digits."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).flatten(1)
    labels = torch.tensor(digits.target)
    train, test = torch.randperm(len(images)).split([1437, 360])
    parts = [TensorDataset(images[p], labels[p], torch.arange(len(p))) for p in (train, test)]
    return DataLoader(parts[0], batch_size=64, shuffle=True), DataLoader(parts[1], batch_size=360)


def main(folder: Path | str = "runs/own_module", epochs: int = 10) -> float:
    """Return the test accuracy."""
    torch.manual_seed(0)
    train, test = loaders()
    trainer = Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = OwnModule(num_samples=1437)
    trainer.fit(module, train)
    (values,) = trainer.test(module, test, verbose=False)
    return float(values["test/accuracy"])


if __name__ == "__main__":
    print(f"test accuracy: {main():.3f}")
