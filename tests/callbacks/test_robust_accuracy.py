"""Robust accuracy is exact, the same on any number of ranks, and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from callbacks.robust_accuracy import RobustAccuracy
from datamodules.augmentation import Normalize
from framework.attacks.pgd import PGDAttack
from framework.distributed.collectives import shared_generator
from framework.objectives.errors import IncompatibleError
from framework.utilities.randomness import global_seed
from tests.helpers.configs import arguments
from tests.helpers.runs import differences, fit, fit_on_two_ranks
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

ATTACK = PGDAttack(eps=0.1, steps=5)


class Module(TinyModule):
    """The tiny module with a linear map that separates some rows by little and others by much."""

    prediction_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.network.weight.copy_(2 * torch.eye(3, 5))
            self.network.bias.zero_()


class Data(TinyData):
    """Labels are the largest of the first three inputs; inputs are normalized where asked."""

    def __init__(self, normalize: Normalize | None = None) -> None:
        super().__init__()
        self.normalize = normalize
        for part in (self.val_set, self.test_set):
            fields = part.fields
            fields["label"] = fields["image"][:, :3].argmax(1)
            if normalize is not None:
                fields["image"] = (fields["image"] - 0.5) / 0.25


def by_hand(part: Any, attack: PGDAttack, batches: int = 9) -> float:
    """Return the share of a data set's rows, in batches of four, that are right under attack."""
    model, right, rows = Module().network, 0, 0
    image, label = part.fields["image"], part.fields["label"]
    for step, (x, y) in enumerate(zip(image.split(4), label.split(4), strict=True)):
        if step < batches:
            found = attack.perturb(
                model,
                x,
                lambda logits, y=y: F.cross_entropy(logits, y, reduction="none"),
                generator=shared_generator(global_seed(), step, "robust_accuracy"),
            )
            right += int((model(found).argmax(1) == y).sum())
            rows += len(y)
    return right / rows


def evaluate(folder: Path, callback: RobustAccuracy, data: TinyData, stage: str) -> float:
    trainer = tiny_trainer(folder, [callback], False)
    module = Module()
    (values,) = getattr(trainer, stage)(module, data, verbose=False)
    name = {"validate": "val", "test": "test"}[stage]
    assert values[f"{name}/accuracy"] == 1
    return values[f"{name}/robust_accuracy"]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_counts_the_rows_that_are_right_under_attack(stage, tmp_path):
    data = Data()
    part = data.val_set if stage == "validate" else data.test_set
    value = evaluate(tmp_path, RobustAccuracy(ATTACK), data, stage)
    assert value == pytest.approx(by_hand(part, ATTACK))
    assert 0.05 < value < 0.95
    # no row of a model that cannot be moved is lost
    assert evaluate(tmp_path, RobustAccuracy(PGDAttack(eps=0.0)), Data(), stage) == 1


def test_limits_the_batches(tmp_path):
    data = Data()
    value = evaluate(tmp_path, RobustAccuracy(ATTACK, limit_batches=1), data, "test")
    assert value == pytest.approx(by_hand(data.test_set, ATTACK, batches=1))
    assert value != pytest.approx(by_hand(data.test_set, ATTACK))


def test_the_attack_learns_how_the_data_is_normalized(tmp_path):
    data, callback = Data(Normalize([0.5], [0.25])), RobustAccuracy(ATTACK)
    value = evaluate(tmp_path, callback, data, "test")
    # this model's classes do not depend on the scale of its inputs
    assert value == pytest.approx(by_hand(Data().test_set, ATTACK))
    too_small = PGDAttack(eps=ATTACK.eps, steps=5, clamp=None)
    assert value != pytest.approx(by_hand(data.test_set, too_small))
    assert callback.attack.mean == [0.5]
    assert not ATTACK.mean
    own = RobustAccuracy(PGDAttack(mean=[0.4], std=[0.25]))
    trainer = tiny_trainer(tmp_path, [own], False)
    trainer.datamodule = data
    own.setup(trainer, Module(), "test")
    assert own.attack.mean == [0.4]


# three batches an epoch, none in the sanity check
@pytest.mark.parametrize(("every", "attacked"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_rests_in_between(every, attacked, tmp_path, monkeypatch):
    epochs = []
    original = PGDAttack.perturb

    def perturb(self, *args, **kwargs):
        epochs.append(trainer.current_epoch)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PGDAttack, "perturb", perturb)
    callback = RobustAccuracy(ATTACK, every_n_epochs=every)
    trainer = tiny_trainer(tmp_path, [callback], False, max_epochs=4, num_sanity_val_steps=1)
    trainer.fit(Module(), Data())
    assert epochs == [epoch for epoch in attacked for _ in range(3)]


def test_refuses_what_has_no_accuracy(tmp_path):
    class Shapeless(TinyModule):
        pass

    class Embedding(Module):
        embedding_column = "embedding"

    callback = RobustAccuracy(ATTACK)
    for callbacks, module, message in (
        ([callback], Shapeless(), "needs class logits of one fixed shape, which Shapeless"),
        ([callback, RobustAccuracy(ATTACK)], Module(), "is given twice"),
        ([callback], Embedding(), "needs class logits of one fixed shape, which Embedding"),
    ):
        trainer = tiny_trainer(tmp_path, callbacks, False)
        with pytest.raises(IncompatibleError, match=message):
            callback.setup(trainer, module, "fit")


class Plain(LightningModule):
    """A module that knows nothing of Trimtab, with the network of ``Module``."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Module().network

    def forward(self, image):
        return self.network(image)

    def test_step(self, batch, batch_idx):
        image, label = batch if isinstance(batch, (tuple, list)) else batch.values()
        self.log("test/accuracy", (self(image).argmax(1) == label).float().mean())


@pytest.mark.parametrize("kind", ["dict", "tuple"])
@pytest.mark.filterwarnings("ignore:The 'test_dataloader' does not have many workers")
def test_serves_a_plain_module_and_plain_batches(kind, tmp_path):
    fields = Data().test_set.fields
    rows = list(zip(fields["image"], fields["label"], strict=True))
    if kind == "dict":
        rows = [{"image": image, "label": label} for image, label in rows]
    trainer = tiny_trainer(tmp_path, [RobustAccuracy(ATTACK)], False)
    (values,) = trainer.test(Plain(), DataLoader(rows, batch_size=4), verbose=False)
    assert values["test/accuracy"] == 1
    assert values["test/robust_accuracy"] == pytest.approx(by_hand(Data().test_set, ATTACK))


def test_other_batches_are_refused(tmp_path):
    class Single(Plain):
        def test_step(self, batch, batch_idx):
            return None

    trainer = tiny_trainer(tmp_path, [RobustAccuracy(ATTACK)], False)
    with pytest.raises(IncompatibleError, match="'image' and 'label' or a tuple"):
        trainer.test(Single(), DataLoader(torch.zeros(4, 5)), verbose=False)


def test_refuses_arguments_out_of_range():
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        RobustAccuracy(ATTACK, every_n_epochs=0)
    with pytest.raises(ValueError, match="limit_batches must be at least 1, got 0"):
        RobustAccuracy(ATTACK, limit_batches=0)


def test_two_ranks_log_what_one_process_logs_and_training_is_as_without(tmp_path, two_ranks):
    args = [*arguments("classifier"), "--trainer.precision=64-true", "--trainer.max_epochs=2"]
    attack = ["--trainer.callbacks+=RobustAccuracy", "--trainer.callbacks.attack=PGDAttack"]
    attack += ["--trainer.callbacks.attack.eps=0.2", "--trainer.callbacks.attack.steps=3"]
    attack += ["--checkpoint.monitor=val/robust_accuracy"]
    folders = [f"--run_folder={tmp_path / name}" for name in ("0", "1", "2")]
    without = fit([*args, folders[0]])
    one = fit([*args, *attack, folders[1]])
    two = two_ranks(fit_on_two_ranks, [*args, *attack, folders[2]])
    assert not differences(without.parameters, one.parameters)
    assert not differences(without.steps, one.steps)
    value = one.metrics.pop("val/robust_accuracy")
    assert one.metrics == without.metrics
    assert 0 < value < 1
    for record in two:
        assert record.metrics["val/robust_accuracy"] == pytest.approx(value, abs=1e-6)
