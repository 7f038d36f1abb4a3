"""Dropout rates that tune themselves, in a loop of one's own and in any LightningModule."""

from functools import partial
from itertools import cycle

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trimtab import InputDropout, SelfTuner, SelfTuning, TunedDropout

Batch = dict[str, Tensor]


class Rows(Dataset):
    """Some rows of scikit-learn's digits, as dicts."""

    def __init__(self, rows: slice) -> None:
        pixels, label = load_digits(return_X_y=True)
        self.image = torch.tensor(pixels[rows] / 16, dtype=torch.float32)
        self.label = torch.tensor(label[rows])

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, row: int) -> Batch:
        return {"image": self.image[row], "label": self.label[row]}


def loaders() -> tuple[DataLoader, DataLoader]:
    """Return what trains the weights, and what tunes the rates."""
    train = DataLoader(Rows(slice(0, 200)), batch_size=50, shuffle=True)
    return train, DataLoader(Rows(slice(200, 450)), batch_size=50)


def network() -> nn.Sequential:
    """Return a perceptron."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of a batch."""
    return F.cross_entropy(model(batch["image"]), batch["label"])


def loop(epochs: int = 50) -> dict[str, float]:
    """Return the rates that a training loop ends with."""
    torch.manual_seed(0)
    train, tune = loaders()
    model = network()
    effects = [InputDropout(), TunedDropout(layers="1")]
    tuner = SelfTuner(model, effects, hyper_lr=0.05, warmup_steps=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    held_out, step = cycle(tune), 0
    for _ in range(epochs):
        for batch in train:
            # within the block each row has rates of its own
            with tuner.training(rows=len(batch["label"]), step=step):
                batch = tuner.change_batch(batch)
                loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if tuner.is_due(step):
                batch = next(held_out)
                tuner.tune(partial(loss_of, model, batch), rows=len(batch["label"]))
    found = tuner.values()
    # the model is an ordinary perceptron again
    tuner.fold()
    return found


class Module(LightningModule):
    """A module that knows nothing of Trimtab."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss."""
        return loss_of(self.network, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def trainer(epochs: int = 50) -> dict[str, float]:
    """Return the rates that a Trainer with the callback ends with."""
    torch.manual_seed(0)
    train, tune = loaders()
    callback = SelfTuning(
        [InputDropout(), TunedDropout(layers="network.1")], hyper_lr=0.05, warmup_steps=20
    )
    callback.tune_by(lambda module, batch: module.training_step(batch, 0), tune)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=epochs, callbacks=[callback], **settings).fit(Module(), train)
    return callback.values


if __name__ == "__main__":
    print("loop:   ", loop())
    print("Trainer:", trainer())
