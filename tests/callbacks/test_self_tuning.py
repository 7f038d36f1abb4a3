"""The callback that makes any module a self-tuning one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import DynamicPreference, EMAWeights, SelfTuning
from framework.objectives.errors import IncompatibleError
from framework.runs.csv_logger import RunLogger
from framework.runs.panels import STANDARD, Layout
from framework.runs.run_checkpoint import RunCheckpoint
from framework.self_tuning import InputDropout, LabelSmoothing, SelfTuner, TermWeight, TunedDropout
from framework.training.tuned_weights import add_space, match_tuned_weights
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

# a Trainer without the callbacks that trained
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")

TUNED = ("self_tuning.raw", "self_tuning.raw_scales")


class Seen(TinyModule):
    """Remembers the rows of training and of tuning, and what the network saw."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        self.rows: dict[bool, list[list[int]]] = {True: [], False: []}

    def objectives(self, batch):
        self.rows[self.training].append(batch["index"].tolist())
        return super().objectives(batch)

    def evaluate(self, batch):
        objectives = super().objectives(batch)
        self.metrics.update(objectives.predictions.softmax(-1), batch["label"])
        return objectives


def csv_columns(path: Path) -> dict[str, list[str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows if row[name]] for name in rows[0]}


def tuning(*effects: Any, **kwargs: Any) -> SelfTuning:
    settings: dict[str, Any] = {"warmup_steps": 0, "hyper_lr": 0.1, "held_out": 0.25, **kwargs}
    return SelfTuning(
        list(effects) or [InputDropout(), TunedDropout(layers="network.1")], **settings
    )


def fit(
    folder: Path, callback: SelfTuning, *callbacks: Callback, module: Any = None, **kwargs: Any
) -> Any:
    torch.manual_seed(0)
    module = Seen() if module is None else module
    ckpt_path, data = kwargs.pop("ckpt_path", None), kwargs.pop("data", None) or TinyData()
    logger = kwargs.pop("logger", False)
    trainer = tiny_trainer(folder, [callback, *callbacks], logger, **kwargs)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def test_tuning_steps_see_only_what_is_not_trained_and_come_every_other_step(tmp_path) -> None:
    data = TinyData()
    whole = data.train_set
    module = fit(tmp_path, tuning(), data=data, limit_val_batches=0)
    tuned, trained = [sorted({i for b in module.rows[mode] for i in b}) for mode in (False, True)]
    assert sorted([*tuned, *trained]) == list(range(24))
    # 18 rows in batches of 4, twice, and every other of these steps a batch of the other 6
    assert [len(module.rows[mode]) for mode in (True, False)] == [10, 5]
    assert data.train_set is whole
    assert data.guide_set is None


def test_the_validation_set_may_be_tuned_on(tmp_path) -> None:
    data = TinyData()
    module = fit(tmp_path, tuning(tuning_set="val"), data=data, limit_val_batches=0)
    assert sorted({i for b in module.rows[True] for i in b}) == list(range(24))
    assert sorted({i for b in module.rows[False] for i in b}) == list(range(9))
    assert data.guide_set is None


def test_the_fit_leaves_an_ordinary_module_and_logs_its_schedule(tmp_path) -> None:
    names = list(Seen().state_dict())
    logger = RunLogger(tmp_path / "run")
    module = fit(tmp_path, tuning(), logger=logger)
    assert list(module.state_dict()) == names
    columns = csv_columns(tmp_path / "run" / "metrics.csv")
    for name in ("input_dropout.rate", "dropout.rate"):
        schedule = [*map(float, columns[f"train/hyperparameter/{name}"])]
        assert len(schedule) == 10
        # no step moves them before the second one
        assert schedule[0] == schedule[1] == pytest.approx(0.05, abs=1e-6)
        assert len(set(schedule)) > 3
        assert f"train/hyperparameter_scale/{name}" in columns
    assert len(columns["train/tuning_loss"]) == 8
    layout = Layout((*SelfTuning.panels, *STANDARD))
    charts = {panel.title: names for panel, names in layout.by_panel(columns).items()}
    rates = [f"train/hyperparameter/{name}" for name in ("input_dropout.rate", "dropout.rate")]
    assert sorted(charts["Tuned hyperparameters"]) == sorted(rates)
    assert len(charts["Scales of the perturbation"]) == 2


def test_a_checkpoint_is_tested_as_the_run_validated_it(tmp_path) -> None:
    """Both by an ordinary module and by one in a Trainer with the callback."""
    checkpoint = RunCheckpoint(dirpath=tmp_path, monitor=None, save_last=True)
    module = fit(tmp_path, tuning(), checkpoint, limit_val_batches=0)
    x = torch.rand(7, 5)
    expected = module.eval()(x)
    path = tmp_path / "last.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved.keys() >= {*TUNED, "network.0.weight", "network.0.weight_response"}
    for callbacks in ([], [tuning()]):
        other = Seen()
        trainer = tiny_trainer(tmp_path, callbacks, False)
        trainer.test(other, TinyData(), ckpt_path=path, verbose=False)
        torch.testing.assert_close(other.eval()(x), expected)
        assert not hasattr(other, "self_tuning")


class Tied(TinyModule):
    """Its second layer has the weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.second(self.first(image).relu()))


def test_a_checkpoint_of_tied_weights_is_tested_as_the_run_ended(tmp_path) -> None:
    checkpoint = RunCheckpoint(dirpath=tmp_path, monitor=None, save_last=True)
    callback = tuning(InputDropout(), gate_scale=0.5)
    module = fit(tmp_path, callback, checkpoint, module=Tied(), limit_val_batches=0)
    x = torch.rand(7, 5)
    other = Tied()
    tiny_trainer(tmp_path, [], False).test(
        other, TinyData(), ckpt_path=tmp_path / "last.ckpt", verbose=False
    )
    torch.testing.assert_close(other.eval()(x), module.eval()(x))


def test_a_checkpoint_of_other_effects_is_refused(tmp_path) -> None:
    checkpoint = RunCheckpoint(dirpath=tmp_path, monitor=None, save_last=True)
    fit(tmp_path, tuning(), checkpoint, limit_val_batches=0, max_steps=3)
    other = tuning(TunedDropout(layers="network.1"), InputDropout())
    with pytest.raises(ValueError, match="the same effects in the same order"):
        fit(tmp_path, other, limit_val_batches=0, ckpt_path=tmp_path / "last.ckpt")


def test_a_run_goes_on_with_the_same_bits_from_any_phase(tmp_path) -> None:
    whole = fit(tmp_path / "whole", tuning(), limit_val_batches=0)
    for steps in (3, 4, 7):
        folder = tmp_path / str(steps)
        checkpoint = RunCheckpoint(dirpath=folder, monitor=None, save_last=True)
        fit(folder, tuning(), checkpoint, limit_val_batches=0, max_steps=steps)
        resumed = fit(folder, tuning(), limit_val_batches=0, ckpt_path=folder / "last.ckpt")
        for name, value in resumed.state_dict().items():
            assert torch.equal(value, whole.state_dict()[name]), (steps, name)


def test_a_fit_may_tune_what_an_ordinary_one_trained(tmp_path) -> None:
    checkpoint = RunCheckpoint(dirpath=tmp_path, monitor=None, save_last=True)
    plain = Seen()
    trainer = tiny_trainer(tmp_path, [checkpoint], False, max_epochs=1, limit_val_batches=0)
    trainer.fit(plain, datamodule=TinyData())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    network = Seen()
    tuner = SelfTuner(network, [InputDropout()])
    add_space(network, tuner)
    match_tuned_weights(network, saved)
    network.load_state_dict(saved["state_dict"])
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    assert tuner.values() == {"input_dropout.rate": pytest.approx(0.05)}


def test_an_average_of_the_weights_goes_with_it(tmp_path) -> None:
    checkpoint = RunCheckpoint(dirpath=tmp_path, monitor=None, save_last=True)
    module = fit(tmp_path, tuning(), EMAWeights(decay=0.5, ramp=0), checkpoint)
    x = torch.rand(7, 5)
    expected = module.eval()(x)
    other = Seen()
    tiny_trainer(tmp_path, [], False).test(
        other, TinyData(), ckpt_path=tmp_path / "last.ckpt", verbose=False
    )
    torch.testing.assert_close(other.eval()(x), expected)


def test_a_guide_of_other_rows_goes_with_it_and_shares_them(tmp_path) -> None:
    data = TinyData()
    callback, preference = tuning(), DynamicPreference(batch_size=5)
    module = fit(tmp_path, callback, preference, data=data, limit_val_batches=0)
    # both draw from the rows that the first one held out
    assert len({i for b in module.rows[False] for i in b}) == 6
    assert {len(b) for b in module.rows[False]} == {1, 2, 4, 5}
    assert callback.values["dropout.rate"] != pytest.approx(0.05, abs=1e-4)


def test_an_exception_gives_back_what_was_held_out(tmp_path) -> None:
    data = TinyData()
    whole = data.train_set
    with pytest.raises(IncompatibleError, match="tuning_terms"):
        fit(tmp_path, tuning(tuning_terms=["no"]), data=data)
    assert data.train_set is whole


class Plain(BoringModel):
    """A LightningModule that is not ours, with batches that are dicts."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch["image"]).square().mean()


class Images(RandomDataset):
    def __getitem__(self, index: int) -> Any:
        return {"image": super().__getitem__(index)}


def plain_trainer(folder: Path, callback: SelfTuning, **kwargs: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training")
def test_a_module_that_is_not_ours_tunes_by_a_loss_of_its_own(tmp_path) -> None:
    torch.manual_seed(0)
    callback = tuning(InputDropout())
    with pytest.raises(IncompatibleError, match=r"Plain is no TrainingModule.*tune_by"):
        plain_trainer(tmp_path, callback, max_epochs=1).fit(Plain(), DataLoader(Images(32, 8)))
    callback.tune_by(
        lambda module, batch: module.layer(batch["image"]).square().mean(),
        DataLoader(Images(32, 8), batch_size=4),
    )
    module = Plain()
    trainer = plain_trainer(tmp_path, callback, max_epochs=2)
    trainer.fit(module, DataLoader(Images(32, 8), batch_size=2), DataLoader(RandomDataset(32, 2)))
    assert list(module.state_dict()) == list(Plain().state_dict())
    path = next(tmp_path.rglob("*.ckpt"))
    trainer = plain_trainer(tmp_path, callback, max_epochs=1)
    tested = Plain()
    trainer.test(tested, DataLoader(RandomDataset(32, 2)), ckpt_path=path, verbose=False)
    x = torch.rand(3, 32)
    torch.testing.assert_close(tested(x), module.eval()(x))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training")
def test_batches_without_an_axis_of_rows_have_one_draw(tmp_path) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        return torch.stack([module.layer(x).square().mean() for x in batch["images"]]).mean()

    class Lists(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return loss(self, batch)

    images = [{"images": [torch.rand(3, 32), torch.rand(2, 32)]} for _ in range(4)]
    batches: Any = DataLoader(images, batch_size=None)
    dropout = TunedDropout(layers="layer", where="input")
    callback = tuning(dropout).tune_by(loss, batches)
    with pytest.raises(IncompatibleError, match="set per_sample to false"):
        plain_trainer(tmp_path, callback, max_epochs=1).fit(Lists(), batches)
    callback = tuning(dropout, per_sample=False).tune_by(loss, batches)
    plain_trainer(tmp_path, callback, max_epochs=1).fit(Lists(), batches)
    assert callback.values["dropout.rate"] != pytest.approx(0.05, abs=1e-4)


def test_the_weights_of_terms_are_tuned_and_judged_by_the_others(tmp_path) -> None:
    callback = tuning(TermWeight("size"))
    logger = RunLogger(tmp_path / "run")
    fit(tmp_path, callback, logger=logger, limit_val_batches=0)
    columns = csv_columns(tmp_path / "run" / "metrics.csv")
    assert len(set(columns["train/hyperparameter/size.weight"])) > 3
    both = tuning(TermWeight("size"), TermWeight("classification"))
    with pytest.raises(IncompatibleError, match="none is left to judge"):
        fit(tmp_path, both, limit_val_batches=0)
    with pytest.raises(
        IncompatibleError, match=r"'clasification'.* the nearest are classification"
    ):
        fit(tmp_path, tuning(tuning_terms=["clasification"]), limit_val_batches=0)
    assert TinyData().guide_set is None


def test_an_exception_leaves_a_module_that_can_be_fitted_again(tmp_path) -> None:
    class Stops(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("stop")

    callback, module = tuning(), Seen()
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, callback, Stops(), module=module)
    fit(tmp_path, callback, module=module)
    assert list(module.state_dict()) == list(Seen().state_dict())
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, callback, Stops(), module=module)
    fit(tmp_path, tuning(), module=module)
    assert list(module.state_dict()) == list(Seen().state_dict())


def test_layers_that_no_step_calls_are_refused_before_the_warm_up(tmp_path) -> None:
    module = Seen()
    module.spare = nn.Linear(2, 2)
    callback = tuning(InputDropout(), include=["spare"], warmup_steps=100)
    with pytest.raises(IncompatibleError, match="Seen calls none of the layers that respond"):
        fit(tmp_path, callback, module=module, limit_val_batches=0)
    assert len(module.rows[True]) == 1


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    module = Seen()
    module.runs_compiled = True
    with pytest.raises(IncompatibleError, match=r"model\.compile"):
        fit(tmp_path, tuning(), module=module)
    parts = type("Parts", (Seen,), {"whole_batches": False})
    with pytest.raises(IncompatibleError, match=r"Parts trains .* its per_sample to false\."):
        fit(tmp_path, tuning(), module=parts())
    fit(tmp_path, tuning(per_sample=False), module=parts(), limit_val_batches=0)
    with pytest.raises(ValueError, match="hyper_lr"):
        tuning(hyper_lr=0)
    with pytest.raises(ValueError, match="tuning_set"):
        tuning(tuning_set="test")
    plain = tuning(LabelSmoothing()).tune_by(lambda module, batch: batch)
    with pytest.raises(IncompatibleError, match="LabelSmoothing changes named terms"):
        plain_trainer(tmp_path, plain, max_epochs=1).fit(Plain(), DataLoader(Images(32, 8)))
    data = TinyData()
    data.val_set = None
    with pytest.raises(IncompatibleError, match="no validation set to tune on"):
        fit(tmp_path, tuning(tuning_set="val"), data=data, limit_val_batches=0)
