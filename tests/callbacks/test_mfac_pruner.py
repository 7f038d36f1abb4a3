"""Pruning of any module on a schedule: weights that stay 0, checkpoints, ranks, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.ema_weights import EMAWeights
from callbacks.mfac_pruner import MFACPruner
from framework.objectives.errors import IncompatibleError
from framework.training.small_batches import mean_gradients
from framework.utilities.evaluation_mode import evaluation_mode
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

QUICK = {"ngrads": 6, "gradient_batch": 4, "recomputations": 2, "block_size": 8, "damping": 1e-3}


class Deeper(TinyModule):
    """The tiny module with a hidden layer, dropout and an optimizer with momentum."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        self.network = nn.Sequential(*layers)
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)


class Plain(LightningModule):
    """A module of one's own, that logs."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        self.network = nn.Sequential(*layers)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Watcher(Callback):
    """Remembers how many weights are 0, and what random numbers come, in every step."""

    def __init__(self) -> None:
        self.zeros: list[int] = []
        self.epochs: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.zeros.append(zeros(pl_module))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(float(trainer.callback_metrics["train/sparsity"]))


def zeros(module: LightningModule) -> int:
    return sum(int((w == 0).sum()) for n, w in module.named_parameters() if w.ndim > 1)


def loader(**options: Any) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(3, (24,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8, **options)


def fit(folder: Path, pruner: MFACPruner, *extra: Callback, module: Any = None, **options: Any):
    module = Deeper() if module is None else module
    settings = {"limit_val_batches": 0, "max_epochs": 4, **options}
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = tiny_trainer(folder, [pruner, *extra], False, **settings)
    data = loader(shuffle=True) if isinstance(module, Plain) else TinyData()
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return module


@pytest.mark.parametrize("kind", [Deeper, Plain])
@pytest.mark.parametrize("method", ["mfac", "magnitude"])
def test_weights_leave_on_schedule_and_stay_away(tmp_path, kind, method):
    watcher = Watcher()
    pruner = MFACPruner(0.75, start=1, end=3, method=method, **QUICK)
    module = fit(tmp_path, pruner, watcher, module=kind())
    steps = len(watcher.zeros) // 4
    counts = [0, 0, round(0.65625 * 64), 48]
    assert watcher.zeros == [count for count in counts for _ in range(steps)]
    assert watcher.epochs == pytest.approx([count / 64 for count in counts])
    assert zeros(module) == 48
    assert set(module.state_dict()) == set(kind().state_dict())


def test_frequency_and_layers(tmp_path):
    pruner = MFACPruner(0.8, start=1, end=6, frequency=2)
    planned = [pruner.planned(epoch) for epoch in range(9)]
    assert planned[0] == 0
    assert planned[1] == planned[2] < planned[3] == planned[4] < planned[5] < planned[6] == 0.8
    pruner = MFACPruner(0.5, start=0, exclude=["*.3"], **QUICK)
    module = fit(tmp_path, pruner, max_epochs=1)
    assert [*pruner.pruner.weights] == ["network.0.weight"]
    assert int((module.network[0].weight == 0).sum()) == 20


def whole_loss(module: Any) -> torch.Tensor:
    """Return the mean loss over the 24 rows of training."""
    if isinstance(module, Plain):
        x, y = loader().dataset.tensors
        return nn.functional.cross_entropy(module.network(x), y)
    data = TinyData().train_set
    x, y = (torch.stack([data[i][name] for i in range(24)]) for name in ("image", "label"))
    logits = module(x)
    return nn.functional.cross_entropy(logits, y) + 0.5 * logits.square().mean()


def test_gradients_for_pruning_are_those_of_the_rows_and_leave_no_trace(tmp_path):
    """With nothing to remove yet, a run is the same as one without the callback."""

    class Looker(MFACPruner):
        def on_train_epoch_start(self, trainer, pl_module):
            weights = list(self.pruner.weights.values())
            found = [*mean_gradients(pl_module, weights, 9, 4, ("x", trainer.current_epoch))]
            assert len(found) == 9
            assert not torch.equal(found[0][0], found[1][0])
            # the first six are a pass over all rows, without dropout
            with evaluation_mode(pl_module), torch.enable_grad():
                whole = torch.autograd.grad(whole_loss(pl_module), weights)
            for i, gradient in enumerate(whole):
                mean = torch.stack([part[i] for part in found[:6]]).mean(0)
                torch.testing.assert_close(mean, gradient, rtol=1e-5, atol=1e-6)

    for kind in (Deeper, Plain):
        torch.manual_seed(3)
        seen = fit(tmp_path, Looker(0.5, start=9), module=kind(0.5), max_epochs=2)
        torch.manual_seed(3)
        plain = fit(tmp_path, MFACPruner(0.5, start=9), module=kind(0.5), max_epochs=2)
        for a, b in zip(seen.parameters(), plain.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("first", [True, False])
def test_an_average_of_the_weights_is_pruned_with_them(tmp_path, first):
    average, saver = EMAWeights(0.99, ramp=0), ModelCheckpoint(tmp_path, "{epoch}")
    pruner = MFACPruner(0.75, start=1, end=2, initial=0.3, **QUICK)
    callbacks = [average, pruner] if first else [pruner, average]
    module = fit(tmp_path, callbacks[0], callbacks[1], saver, max_epochs=3)
    assert zeros(module) == 48
    saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], w) for name, w in module.state_dict().items())
    assert not torch.equal(saved["network.0.weight"], average.weights.latest["network.0.weight"])


def resume(folder: Path, step: int, **settings: Any) -> list[nn.Module]:
    """Return the module of a whole run, and of one that went on from a checkpoint of it."""

    def saver() -> ModelCheckpoint:
        return ModelCheckpoint(folder, "{step}", every_n_train_steps=step, save_top_k=-1)

    then = settings.pop("then", {})
    options: dict[str, Any] = {"max_epochs": 3}
    whole = fit(folder, MFACPruner(**QUICK, **settings), saver(), **options)
    options["ckpt_path"] = folder / f"step={step}.ckpt"
    return [whole, fit(folder, MFACPruner(**QUICK, **settings | then), saver(), **options)]


again = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


# 6 steps are an epoch; weights leave at the beginning of the second and the third
@pytest.mark.parametrize(("step", "removed"), [(6, 0), (9, 19), (12, 19), (14, 48)])
@again
def test_resuming_changes_no_bit_and_checkpoints_hold_zeros(tmp_path, step, removed):
    whole, resumed = resume(tmp_path, step, sparsity=0.75, start=1, end=2, initial=0.3)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert zeros(resumed) == 48
    saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
    fresh = Deeper()
    fresh.load_state_dict(saved["state_dict"])
    assert zeros(fresh) == removed


@again
def test_masks_of_other_layers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="The masks are of"):
        resume(tmp_path, 9, sparsity=0.5, then={"exclude": ["*.3"]})


def fit_on_ranks(folder: Path, kind: type, ranks: int) -> list[torch.Tensor]:
    options = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    module = kind().double()
    pruner = MFACPruner(0.75, start=1, end=2, initial=0.3, **QUICK)
    fit(folder, pruner, module=module, max_epochs=3, precision="64-true", **options)
    return [p.detach() for p in module.parameters()]


def test_two_ranks_equal_one(tmp_path, two_ranks):
    one = fit_on_ranks(tmp_path, Deeper, 1)
    for parameters in two_ranks(fit_on_ranks, tmp_path, Deeper, 2):
        for a, b in zip(parameters, one, strict=True):
            assert torch.equal(a == 0, b == 0)
            assert torch.allclose(a, b, rtol=0, atol=1e-9)


def test_gradients_are_clipped_without_those_of_removed_weights(tmp_path):
    class Norms(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            weight = pl_module.network[0].weight
            assert (weight.grad[weight == 0] == 0).all()
            self.seen = True

    norms = Norms()
    fit(tmp_path, MFACPruner(0.75, start=0, **QUICK), norms, max_epochs=1, gradient_clip_val=0.1)
    assert norms.seen


# ---- what is refused -----------------------------------------------------------------------------


def test_refused_modules(tmp_path):
    with pytest.raises(IncompatibleError, match=r"found no layer of Deeper .* network\.0, network"):
        fit(tmp_path, MFACPruner(include=["head.*"]))
    module = Deeper()
    module.automatic_optimization = False
    with pytest.raises(IncompatibleError, match="optimizes by itself"):
        MFACPruner().setup(tiny_trainer(tmp_path, [], False), module, "fit")


def test_a_loader_with_one_iterator_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path, [MFACPruner(start=0, **QUICK)], False, max_epochs=1)
    data = loader(num_workers=1, persistent_workers=True)
    with pytest.raises(IncompatibleError, match="persistent_workers"):
        trainer.fit(Plain(), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must lie in"),
        ({"start": 3, "end": 2}, "end must be at least start"),
        ({"frequency": 0}, "frequency must be at least 1"),
        ({"gradient_batch": 0}, "gradient_batch must be at least 1"),
        ({"method": "random"}, "method must be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MFACPruner(**options)
