"""The average is what is validated, saved and handed on; training goes on as without it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn

import trimtab
from callbacks.ema_weights import EMAWeights
from framework.objectives.errors import IncompatibleError
from framework.training.compatibility import AVERAGED
from framework.utilities.tensor_archive import load_archive
from tests.helpers.configs import arguments
from tests.helpers.runs import differences, fit, fit_in_child, fit_on_two_ranks, largest_difference
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.test_parity import FLOAT64
from tests.test_resume import assert_same_bits, kill_and_resume, last

EMA = ("classifier", "with/ema")
BETWEEN = "--trainer.val_check_interval=2"


class Module(TinyModule):
    """The tiny module with batch norm and dropout, which tell the two modes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
            )


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: v.detach().clone() for n, v in module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and not differences(left, right)


class Watch(Callback):
    """Remembers the weights of every step and validation."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer, pl_module):
        self.first = snapshot(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append((trainer.global_step, snapshot(pl_module)))

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(snapshot(pl_module))


def tiny_fit(folder: Path, *callbacks: Callback, **settings: Any) -> tuple[Any, Watch, Module]:
    watch, module = Watch(), Module()
    settings = {"precision": "64-true", "max_epochs": 2, **settings}
    trainer = tiny_trainer(folder, [*callbacks, watch], False, **settings)
    torch.manual_seed(0)
    trainer.fit(module, TinyData())
    return trainer, watch, module


@pytest.mark.parametrize("accumulate", [1, 4])
def test_it_moves_once_per_optimizer_step(accumulate, tmp_path):
    ema = EMAWeights(decay=0.6, ramp=0)
    _, watch, module = tiny_fit(tmp_path, ema, accumulate_grad_batches=accumulate)
    average, done = watch.first, 0
    for step, weights in watch.steps:
        if step == done:
            continue
        done = step
        for name, latest in weights.items():
            floats = latest.is_floating_point()
            average[name] = 0.6 * average[name] + 0.4 * latest if floats else latest
    # an epoch has six batches; the last group of four holds two
    assert ema.weights.updates == done == {1: 12, 4: 4}[accumulate]
    for name, expected in average.items():
        assert torch.allclose(ema.weights.average[name], expected, rtol=1e-12, atol=1e-15), name
    # the fit leaves it in the module
    assert same(snapshot(module), ema.weights.average)


def test_validations_compute_with_it_and_training_does_not_notice(tmp_path):
    ema = EMAWeights(decay=0.6, ramp=0)
    trainer, watch, _ = tiny_fit(tmp_path / "ema", ema, val_check_interval=2)
    _, plain, _ = tiny_fit(tmp_path / "plain", val_check_interval=2)
    assert len(watch.steps) == len(plain.steps) == 12
    assert all(same(a, b) for (_, a), (_, b) in zip(watch.steps, plain.steps, strict=True))
    assert not same(watch.validated[-1], plain.validated[-1])
    # the callback comes last, so that others see the average to a validation's end
    assert trainer.callbacks.index(ema) > trainer.callbacks.index(watch)
    assert same(watch.validated[-1], ema.weights.average)
    assert same(watch.validated[0], watch.first) == (trainer.num_sanity_val_steps > 0)


class SaveInValidation(Callback):
    """Saves in the middle of a validation, when the module holds the average."""

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking and batch_idx == 0 and trainer.global_step == 6:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "within.ckpt")


@pytest.mark.parametrize("weights_only", [False, True])
def test_checkpoints_hold_it_in_place_of_the_weights(weights_only, tmp_path):
    ema = EMAWeights(decay=0.6, ramp=0)
    saving = ModelCheckpoint(tmp_path, "{step}", save_weights_only=weights_only, save_top_k=-1)
    _, watch, _ = tiny_fit(tmp_path, ema, saving, SaveInValidation(), enable_checkpointing=True)
    saved = load_archive(tmp_path / "step=12.ckpt")
    assert same(saved["state_dict"], ema.weights.average)
    assert (AVERAGED in saved) != weights_only
    if weights_only:
        return
    assert same(saved[AVERAGED], watch.steps[-1][1])
    assert saved["callbacks"]["EMAWeights"] == {"updates": 12}
    within, before = load_archive(tmp_path / "within.ckpt"), watch.steps[5][1]
    assert same(within[AVERAGED], before)
    assert same(within["state_dict"], watch.validated[-2])


def test_a_killed_run_resumes_bitwise_between_validations(tmp_path):
    args = [*arguments(*EMA), BETWEEN]
    assert_same_bits(*kill_and_resume(args, tmp_path, kill_at=7))
    for name in ("last", "best"):
        states = [load_archive(tmp_path / run / "checkpoints" / f"{name}.ckpt") for run in RUNS]
        for key in ("state_dict", AVERAGED):
            assert same(*[state[key] for state in states])
        assert not same(states[0]["state_dict"], states[0][AVERAGED])
        moved = [state["callbacks"]["EMAWeights"] for state in states]
        assert moved[0] == moved[1]
    assert moved[0]["updates"] > 0


RUNS = ("whole", "killed")


def test_a_stopped_run_goes_on_bitwise(tmp_path):
    args = [*arguments(*EMA), "--trainer.accumulate_grad_batches=2", BETWEEN]
    code, whole = fit_in_child([*args, f"--run_folder={tmp_path / 'whole'}"], tmp_path / "whole.pt")
    assert code == 0
    args = [*args, f"--run_folder={tmp_path / 'killed'}"]
    code, _ = fit_in_child(args, tmp_path / "none.pt", terminate_at=3)
    assert code == 128 + signal.SIGTERM
    code, resumed = fit_in_child([*args, last(tmp_path / "killed")], tmp_path / "resumed.pt")
    assert code == 0
    assert whole is not None
    assert resumed is not None
    assert_same_bits(whole, resumed)
    states = [load_archive(tmp_path / run / "checkpoints" / "last.ckpt") for run in RUNS]
    assert same(*[state["state_dict"] for state in states])


def test_the_average_of_two_ranks_is_that_of_one_process(tmp_path, two_ranks):
    args = [*arguments(*EMA), *FLOAT64]
    fit([*args, f"--run_folder={tmp_path / 'one'}"])
    two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path / 'two'}"])
    paths = [tmp_path / run / "checkpoints" / "last.ckpt" for run in ("one", "two")]
    one, two = [load_archive(path)["state_dict"] for path in paths]
    # batch norm is joined in the module's setup, and its statistics are averaged
    assert any("running_var" in name for name in one)
    assert largest_difference(one, two) < 1e-6


def test_load_takes_the_average(tmp_path):
    args = [*arguments(*EMA), f"--run_folder={tmp_path}"]
    fit(args)
    saved = load_archive(tmp_path / "checkpoints" / "last.ckpt")
    module = trimtab.load(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(v, saved["state_dict"][n]) for n, v in module.named_parameters())


def test_an_evaluation_of_a_checkpoint_is_that_of_the_fit(tmp_path):
    trainer, *_ = tiny_fit(tmp_path, EMAWeights(decay=0.6, ramp=0))
    fitted = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    trainer = tiny_trainer(tmp_path, [EMAWeights()], False, precision="64-true")
    (values,) = trainer.validate(Module(), TinyData(), tmp_path / "ema.ckpt", verbose=False)
    assert values == pytest.approx(fitted, rel=1e-12)


class Fail(Callback):
    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking:
            raise OSError("a disk is full")


def test_a_validation_that_fails_leaves_the_weights_of_the_training(tmp_path):
    ema, watch, module = EMAWeights(decay=0.6, ramp=0), Watch(), Module()
    trainer = tiny_trainer(tmp_path, [ema, watch, Fail()], False, precision="64-true")
    with pytest.raises(OSError, match="disk"):
        trainer.fit(module, TinyData())
    assert same(snapshot(module), watch.steps[-1][1])


def test_a_fit_without_a_step_left_ends_with_it(tmp_path):
    trainer, watch, _ = tiny_fit(tmp_path, EMAWeights(decay=0.6, ramp=0))
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    ema, module = EMAWeights(decay=0.6, ramp=0), Module()
    trainer = tiny_trainer(tmp_path, [ema], False, max_epochs=2, precision="64-true")
    trainer.fit(module, TinyData(), ckpt_path=tmp_path / "ema.ckpt")
    assert same(snapshot(module), ema.weights.average)
    assert same(ema.weights.latest, watch.steps[-1][1])


def test_a_fit_that_goes_on_without_an_average_starts_one(tmp_path):
    trainer, *_ = tiny_fit(tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    ema, module = EMAWeights(decay=0.6, ramp=0), Module()
    trainer = tiny_trainer(tmp_path, [ema], False, max_epochs=2, precision="64-true")
    trainer.fit(module, TinyData(), ckpt_path=tmp_path / "plain.ckpt")
    assert ema.weights.updates == 6


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    trainer, *_ = tiny_fit(tmp_path, EMAWeights(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    saved = torch.load(tmp_path / "ema.ckpt", weights_only=True)
    saved[AVERAGED]["network.0.weight"] = torch.zeros(2, 2)
    torch.save(saved, tmp_path / "ema.ckpt")
    trainer = tiny_trainer(tmp_path, [EMAWeights()], False, max_epochs=2, precision="64-true")
    with pytest.raises(
        ValueError, match=r"'current_model_state' do not fit .* \[6, 5\], and .* \[2"
    ):
        trainer.fit(Module(), TinyData(), ckpt_path=tmp_path / "ema.ckpt")


def test_a_fit_without_the_callback_does_not_go_on_from_an_average(tmp_path):
    trainer, *_ = tiny_fit(tmp_path, EMAWeights(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=2, precision="64-true")
    with pytest.raises(IncompatibleError, match="weights are an average, and nothing in this run"):
        trainer.fit(Module(), TinyData(), ckpt_path=tmp_path / "ema.ckpt")


def test_a_second_average_is_refused(tmp_path):
    with pytest.raises(IncompatibleError, match="EMAWeightAveraging averages the weights, as EMAW"):
        tiny_fit(tmp_path, EMAWeights(), EMAWeightAveraging())


def test_half_precision_is_refused(tmp_path):
    with pytest.raises(IncompatibleError, match="bfloat16 are too coarse"):
        tiny_fit(tmp_path, EMAWeights(), precision="bf16-true")


def test_a_fit_may_follow_another(tmp_path):
    ema, module = EMAWeights(decay=0.6, ramp=0), Module()
    for _ in range(2):
        trainer = tiny_trainer(tmp_path, [ema], False, max_epochs=1, precision="64-true")
        trainer.fit(module, TinyData())
        assert ema.weights.updates == 6
    trainer.validate(module, TinyData(), verbose=False)
    assert same(snapshot(module), ema.weights.average)
