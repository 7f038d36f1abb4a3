"""``overfit_batches`` trains on the same rows in each epoch, whatever makes the batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from datamodules import ActivationFile, Bags, Digits, DomainPair, RotatedDigits, Tabular
from framework.data.datamodule import DataModule
from tests.helpers.tiny import TinyData


class Recorder(LightningModule):
    """Records the rows of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.epochs: dict[int, list[list[int]]] = {}

    def training_step(self, batch, batch_idx):
        self.epochs.setdefault(self.current_epoch, []).append(batch["index"].tolist())

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def activations(folder: Path) -> DataModule:
    torch.save(torch.randn(40, 3), folder / "a.pt")
    return ActivationFile(str(folder / "a.pt"), batch_size=8)


DATA = {
    "plain": lambda _: TinyData(),
    "sharded": lambda _: TinyData(shards=2),
    "weighted": lambda _: Digits(batch_size=4, balance_classes=True),
    "bags": lambda _: Bags(Tabular(), bag_size=3, batch_size=6),
    "pairs": lambda _: DomainPair(RotatedDigits("first"), RotatedDigits("second"), batch_size=4),
    "activations": activations,
}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_each_epoch_has_the_same_rows(make, tmp_path):
    module = Recorder()
    trainer = Trainer(
        overfit_batches=2,
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=make(tmp_path))
    first, *others = module.epochs.values()
    assert len(first) == 2
    assert first[0] != first[1]
    assert others == [first, first]
