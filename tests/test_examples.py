"""The examples run, and what they show is true."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader, TensorDataset

from callbacks.saf import SAF
from datamodules.digits import Digits
from examples import own_data, own_loop, own_module, own_preference, own_selftuning
from framework.gradients.combiner import WeightedSum
from framework.losses.trajectory import TrajectoryLoss
from modules.classifier.module import Classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed"),
]


def test_own_loop():
    assert own_loop.main() > 0.9


def test_own_module(tmp_path):
    assert own_module.main(tmp_path) > 0.9
    # the term's memory is in the checkpoint
    (path,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(path, weights_only=True)["state_dict"]
    module = own_module.OwnModule(num_samples=1437)
    module.load_state_dict(saved)
    epochs = {int(table.read(torch.arange(1437)).unique()) for table in module.trajectory.written}
    assert epochs == {7, 8, 9}


@pytest.mark.parametrize("tuples", [False, True])
def test_own_data(tuples, tmp_path):
    assert own_data.main(tmp_path, tuples) > 0.9


def test_own_preference():
    def gap(losses: dict[str, float]) -> float:
        """Return the logarithm of how far the losses are from the preference."""
        return abs(math.log(10 * losses["image"] / losses["digit"]))

    assert gap(own_preference.main()) < 0.4
    assert gap(own_preference.main(WeightedSum())) > 0.7


@pytest.mark.parametrize("kind", [own_selftuning.loop, own_selftuning.trainer])
def test_own_selftuning(kind):
    found = kind()
    assert list(found) == ["input_dropout.rate", "dropout.rate"]
    # 200 digits ask for more dropout than they start with
    assert min(found.values()) > 0.06


def test_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(own_loop.__file__).parents[1] / "README.md").read_text()
    section = text.partition("## From Python")[2].partition("\n## ")[0]
    whole, piece = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(whole, names)
    assert names["model"].trainer.callback_metrics["val/accuracy"] > 0.9

    torch.manual_seed(0)
    image, label = torch.randn(64, 4), torch.arange(64) % 10
    dataset = TensorDataset(image, label, torch.arange(64))
    network = nn.Linear(4, 10)
    names |= {
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_size=16, shuffle=True),
        "network": network,
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.5),
    }
    exec(piece, names)
    assert names["trajectory"](network(image), torch.arange(64), 10) > 0


class Logits(nn.Module):
    """The logits of a classifier's network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image)[0]


class Recorded(Callback):
    """The batches of a run, one epoch at each iteration."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[torch.Tensor, ...]]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.batches.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches[-1].append((batch["image"], batch["label"], batch["index"]))

    def __iter__(self):
        return iter(self.batches.pop(0))


def test_the_loop_takes_the_steps_of_the_trainer_with_the_callback(tmp_path):
    settings = {"weight": 0.7, "lag_epochs": 2, "start_epoch": 1}
    torch.manual_seed(0)
    module = Classifier(
        10, (1, 8, 8), widths=[16], optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5)
    )
    network = Logits(deepcopy(module.network).double())
    trainer = Trainer(
        max_epochs=5,
        precision="64-true",
        accelerator="cpu",
        callbacks=[SAF(dtype="float64", **settings), recorded := Recorded()],
        default_root_dir=tmp_path,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Digits(batch_size=400))
    term = float(module.term_values["saf"])

    trajectory = TrajectoryLoss(1797, 10, dtype=torch.float64, **settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    schedule = ConstantLR(optimizer, factor=1.0)
    own_loop.fit(network, recorded, nn.CrossEntropyLoss(), trajectory, optimizer, schedule, 5)

    assert term > 1e-3
    for mine, theirs in zip(network.network.parameters(), module.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
