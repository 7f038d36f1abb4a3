"""Data of one's own, dicts or tuples from a plain DataLoader, for a module of Trimtab."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trimtab import Classifier, CompSumLoss


class OwnDigits(Dataset[dict[str, Tensor]]):
    """Digits as dicts.

    ``index``, the sample's place in the full training set, is for methods that remember samples.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = {"image": self.images[index], "label": self.labels[index]}
        return row | {"index": torch.tensor(index)}


def main(folder: Path | str = "runs/own_data", tuples: bool = False, epochs: int = 8) -> float:
    """Return the validation accuracy, from dicts or from tuples (image, label)."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    train, val = torch.randperm(len(images)).split([1437, 360])

    kind = TensorDataset if tuples else OwnDigits
    train_loader = DataLoader(kind(images[train], labels[train]), batch_size=64, shuffle=True)
    val_loader = DataLoader(kind(images[val], labels[val]), batch_size=360)
    module = Classifier(num_classes=10, input_shape=(1, 8, 8), criterion=CompSumLoss(tau=1.0))
    trainer = Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train_loader, val_loader)
    return float(trainer.callback_metrics["val/accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy: {main():.3f} from dicts, {main(tuples=True):.3f} from tuples")
