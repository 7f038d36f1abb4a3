"""The base module: what it refuses, what one step does, and what a checkpoint carries."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import nn
from torch.optim import SGD

from framework.gradients import Combination, GradientCombiner, GradientFacts, WeightedSum
from framework.losses import ALDRLoss, LDRLoss
from framework.losses.loss import Loss
from framework.objectives.errors import IncompatibleError
from framework.optim import LionK
from framework.runs.csv_logger import RunLogger
from framework.runs.run_checkpoint import RunCheckpoint
from framework.schedules import WarmupCosine
from framework.training.compatibility import (
    check_combiner,
    check_monitors,
    check_optimizer,
    check_soft_targets,
)
from framework.training.objectives_callback import ObjectivesCallback
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def sgd(groups: Any) -> SGD:
    return SGD(groups, lr=0.1, weight_decay=0.01)


def build(kind: type[TinyModule] = TinyModule, **attributes: Any) -> TinyModule:
    torch.manual_seed(0)
    module = kind()
    for name, value in {"optimizer": sgd, **attributes}.items():
        setattr(module, name, value)
    return module


def fit(
    module: TinyModule, folder: Path, *callbacks: Callback, ckpt_path: Any = None, **kwargs: Any
) -> TinyModule:
    torch.set_num_threads(1)
    logger = RunLogger(folder=str(folder))
    # two ranks share no batch of one row
    settings = {"limit_val_batches": 0, **kwargs}
    trainer = tiny_trainer(folder, list(callbacks), logger, **settings)
    trainer.fit(module, TinyData(), ckpt_path=ckpt_path)
    return module


# ---- what is refused ----------------------------------------------------------------------------


class NeedsFeatures(Loss):
    needs = ("features",)


class NeedsNonsense(ObjectivesCallback):
    needs = ("gradients",)


class AsksFeatures(ObjectivesCallback):
    needs = ("features",)


class ProvidesTooMuch(TinyModule):
    provides = (*TinyModule.provides, "features")


@pytest.mark.parametrize(
    ("attributes", "callbacks", "message"),
    [
        ({"criterion": NeedsFeatures()}, [], "NeedsFeatures needs `features`, which TinyModule"),
        ({}, [AsksFeatures()], "AsksFeatures needs `features`, which TinyModule does not provide"),
        ({}, [NeedsNonsense()], "NeedsNonsense needs 'gradients', which is not one of"),
    ],
)
def test_needs_are_compared_with_what_is_provided(tmp_path, attributes, callbacks, message):
    with pytest.raises(IncompatibleError, match=message):
        fit(build(**attributes), tmp_path, *callbacks)


def test_a_missing_field_is_found_in_the_first_step(tmp_path):
    with pytest.raises(RuntimeError, match="provides `features`, but its objectives"):
        fit(build(ProvidesTooMuch), tmp_path)


class Meaningless(LDRLoss):
    monitorable = False


@pytest.mark.parametrize(
    ("monitor", "refused"),
    [
        ("val/loss", True),
        ("val/classification", True),
        ("train/classification_epoch", True),
        ("train/loss_epoch", True),
        ("val/accuracy", False),
        ("val/guide_loss", False),
        (None, False),
    ],
)
def test_a_value_without_meaning_is_not_monitored(monitor, refused):
    trainer: Any = SimpleNamespace(callbacks=[SimpleNamespace(monitor=monitor)])
    terms = ("classification",)
    check_monitors([LDRLoss()], trainer, terms)
    if refused:
        with pytest.raises(IncompatibleError, match="Meaningless means nothing"):
            check_monitors([Meaningless()], trainer, terms)
    else:
        check_monitors([Meaningless()], trainer, terms)


@pytest.mark.parametrize(
    ("loss", "refused"),
    [
        (LDRLoss(), True),
        (ALDRLoss(), True),
        (nn.MultiMarginLoss(), True),
        (nn.CrossEntropyLoss(), False),
        (nn.MSELoss(), False),
    ],
)
def test_a_loss_of_hard_labels_is_not_mixed(loss, refused):
    data = TinyData()
    check_soft_targets([loss], data)
    data.mixes_samples = True
    if refused:
        with pytest.raises(IncompatibleError, match=f"{type(loss).__name__} is defined for hard"):
            check_soft_targets([loss], data)
    else:
        check_soft_targets([loss], data)


def test_an_optimizer_with_a_closure_is_not_run_in_fp16():
    optimizer = torch.optim.LBFGS([nn.Parameter(torch.zeros(1))])
    trainer: Any = SimpleNamespace(precision="bf16-mixed", world_size=1, gradient_clip_val=None)
    check_optimizer(optimizer, trainer)
    trainer.precision = "16-mixed"
    with pytest.raises(IncompatibleError, match="LBFGS evaluates its closure again"):
        check_optimizer(optimizer, trainer)


def test_lbfgs_is_not_run_on_several_ranks():
    trainer: Any = SimpleNamespace(precision="32-true", world_size=2, gradient_clip_val=None)
    check_optimizer(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), trainer)
    with pytest.raises(IncompatibleError, match="LBFGS decides by the loss of its own rank"):
        check_optimizer(torch.optim.LBFGS([nn.Parameter(torch.zeros(1))]), trainer)


def test_lbfgs_trains(tmp_path):
    module = build(optimizer=lambda groups: torch.optim.LBFGS(groups, max_iter=2))
    before = module.network.weight.detach().clone()
    fit(module, tmp_path, max_steps=2)
    assert not torch.equal(module.network.weight, before)


def freeze(trainer, module):
    module.network.bias.requires_grad_(False)


def test_a_changed_requires_grad_is_reported(tmp_path):
    from lightning.pytorch.callbacks import LambdaCallback

    callback = LambdaCallback(on_train_start=freeze)
    with pytest.raises(RuntimeError, match=r"`requires_grad` of 'network\.bias' changed"):
        fit(build(), tmp_path, callback)


# ---- one step -----------------------------------------------------------------------------------


class Append(ObjectivesCallback):
    needs = ("per_sample", "index")

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def on_objectives(self, trainer, module, objectives, batch):
        assert torch.equal(objectives.index, batch["index"])
        self.calls.append(self.name)
        objectives.terms[self.name] = objectives.predictions.mean() * 0
        objectives.logs["rows"] = torch.tensor(float(len(batch["index"])))


def test_dynamics_act_in_order_before_the_reduction(tmp_path):
    calls: list[str] = []
    module = fit(build(), tmp_path, Append("b", calls), Append("a", calls), max_steps=2)
    assert calls == ["b", "a"] * 2
    assert list(module.term_values) == ["loss", "b", "a", "classification", "size", "rows"]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["train/rows"]) == 4.0
    loss, entropy, size = (float(rows[0][f"train/{n}"]) for n in ("loss", "classification", "size"))
    assert loss == pytest.approx(entropy + 0.5 * size, rel=1e-5)


def test_vectors_are_not_decayed():
    module = build()
    module.frozen = nn.Linear(2, 2).requires_grad_(False)
    matrices, vectors = module.parameter_groups()
    assert [p.shape for p in matrices["params"]] == [(3, 5)]
    assert [p.shape for p in vectors["params"]] == [(3,)]
    assert "weight_decay" not in matrices
    assert vectors["weight_decay"] == 0.0


def test_auto_is_the_number_of_optimizer_steps(tmp_path):
    module = fit(build(lr_scheduler=WarmupCosine), tmp_path, accumulate_grad_batches=2)
    schedule: Any = module.lr_schedulers()
    assert module.trainer.global_step == 6  # 2 epochs of 6 batches, 2 to a step
    assert schedule.last_epoch == 6
    assert schedule.get_last_lr() == pytest.approx([0.0, 0.0], abs=1e-12)


class SumLoss(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(reduction="sum")

    def objectives(self, batch):
        objectives = super().objectives(batch)
        objectives.per_sample.clear()
        self.add_term(objectives, "sum", self.criterion)
        return objectives


class FirstBatch(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 1:
            self.values = dict(pl_module.term_values)
            self.batch = batch


def test_a_sum_is_a_sum(tmp_path):
    first = FirstBatch()
    initial = build(SumLoss)
    fit(build(SumLoss), tmp_path, first, max_steps=1)
    expected = initial.criterion(initial(first.batch["image"]), first.batch["label"])
    torch.testing.assert_close(first.values["loss"], expected.detach())


# ---- phases -------------------------------------------------------------------------------------


class TwoPhases(TinyModule):
    """From the second epoch on the bias has a learning rate of its own."""

    def parameter_groups(self):
        if self.phase == 0:
            return [{"params": list(self.parameters())}]
        return [
            {"params": [self.network.weight]},
            {"params": [self.network.bias], "lr": 0.5},
        ]

    def on_train_epoch_start(self):
        if self.current_epoch == 1 and self.phase == 0:
            self.new_phase()


def groups_of(module: TinyModule) -> list[float]:
    return [group["lr"] for group in module.trainer.optimizers[0].param_groups]


def test_a_phase_has_an_optimizer_of_its_own_and_survives_a_restart(tmp_path):
    attributes: dict[str, Any] = {
        "optimizer": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
        "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 100),
    }

    def run(folder: str, **kwargs: Any) -> TinyModule:
        checkpoint = RunCheckpoint(dirpath=tmp_path, every_n_train_steps=8, save_top_k=-1)
        module = build(TwoPhases, **attributes)
        return fit(module, tmp_path / folder, checkpoint, **kwargs)

    whole = run("whole", max_epochs=3)
    assert groups_of(whole) == [0.1, 0.5]
    assert whole.lr_schedulers().last_epoch == 12  # its steps count from the phase's beginning
    (saved,) = tmp_path.glob("*step=8.ckpt")
    assert torch.load(saved, weights_only=True)["phase"][0] == 1
    resumed = run("resumed", max_epochs=3, ckpt_path=saved)
    assert groups_of(resumed) == [0.1, 0.5]
    assert resumed.phase == 1
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert torch.equal(resumed.network.bias, whole.network.bias)


# ---- combined gradients -------------------------------------------------------------------------


class TwoHeads(TinyModule):
    """A shared body; the term weight is no power of two."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        self.idle = nn.Parameter(torch.ones(2, 2))

    def shared_parameters(self):
        return [*self.network[0].parameters(), self.idle]

    def objectives(self, batch):
        objectives = super().objectives(batch)
        objectives.weights["size"] = 0.3
        return objectives


class First(GradientCombiner):
    """Keeps the gradient of the first term."""

    def combination(self, facts: GradientFacts) -> Combination:
        assert facts.names == ("classification", "size")
        return Combination(torch.tensor([1.0, 0.0], dtype=torch.float64))


DDP: dict[str, Any] = {"devices": 2, "strategy": "ddp_find_unused_parameters_true"}


def trained(folder: Path, combiner: GradientCombiner | None, steps: int, **kwargs: Any) -> Any:
    module = fit(
        build(TwoHeads, gradient_combiner=combiner),
        folder,
        max_steps=steps,
        precision="64-true",
        **kwargs,
    )
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_weighted_sum_is_plain_training(tmp_path, two_ranks, ranks):
    plain = trained(tmp_path / "plain", None, 8)
    if ranks == 1:
        combined = trained(tmp_path / "combined", WeightedSum(), 8)
    else:
        combined, _ = two_ranks(trained, tmp_path / "combined", WeightedSum(), 8, **DDP)
    for name, value in plain.items():
        torch.testing.assert_close(combined[name], value, rtol=0, atol=1e-12)


def test_a_combiner_changes_the_shared_parameters_only(tmp_path):
    plain = trained(tmp_path / "plain", None, 1)
    combined = trained(tmp_path / "combined", First(), 1)
    changed = {
        name
        for name, value in plain.items()
        if not torch.allclose(combined[name], value, rtol=0, atol=1e-12)
    }
    assert changed == {"network.0.weight", "network.0.bias"}


def test_a_combiner_and_accumulation_are_refused(tmp_path):
    module = build(TwoHeads, gradient_combiner=WeightedSum())
    with pytest.raises(IncompatibleError, match="accumulate_grad_batches=2"):
        fit(module, tmp_path, accumulate_grad_batches=2)


def test_a_combiner_and_scheduled_accumulation_are_refused(tmp_path):
    module = build(TwoHeads, gradient_combiner=WeightedSum())
    with pytest.raises(IncompatibleError, match="a GradientAccumulationScheduler"):
        fit(module, tmp_path, GradientAccumulationScheduler({0: 1, 1: 2}))


def test_a_combiner_and_manual_optimization_are_refused(tmp_path):
    module = build(TwoHeads, gradient_combiner=WeightedSum())
    module.automatic_optimization = False
    with pytest.raises(IncompatibleError, match="needs automatic optimization"):
        fit(module, tmp_path)


def test_a_combiner_and_fp16_are_refused():
    module = build(TwoHeads, gradient_combiner=WeightedSum())
    trainer: Any = SimpleNamespace(accumulate_grad_batches=1, precision="16-mixed", callbacks=[])
    module._trainer = trainer
    with pytest.raises(IncompatibleError, match="use bf16-mixed"):
        check_combiner(WeightedSum(), module, guided=False)


# ---- what is not finite, and what a checkpoint carries ------------------------------------------


class Poison(ObjectivesCallback):
    """Makes a term NaN, or its weight, on one rank at one step."""

    def __init__(self, step: int, what: str = "term") -> None:
        self.step, self.what = step, what

    def on_objectives(self, trainer, module, objectives, batch):
        if trainer.global_step == self.step and trainer.global_rank == trainer.world_size - 1:
            if self.what == "term":
                objectives.per_sample["size"] = objectives.per_sample["size"] * float("nan")
            else:
                objectives.weights["size"] = torch.tensor(float("nan"))


def poisoned(folder: Path, what: str, **kwargs: Any) -> tuple[str, bool, int]:
    module = build()
    checkpoint = RunCheckpoint(dirpath=folder / "checkpoints", filename="last", monitor=None)
    try:
        fit(module, folder, Poison(8, what), checkpoint, **kwargs)
    except FloatingPointError as error:
        message = str(error)
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    finite = all(bool(p.isfinite().all()) for p in module.parameters())
    return message, finite, state["global_step"]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("what", ["term", "weight"])
def test_a_nan_stops_before_the_step_and_keeps_the_last_checkpoint(
    tmp_path, two_ranks, what, ranks
):
    if ranks == 1:
        results = [poisoned(tmp_path, what)]
    else:
        results = two_ranks(poisoned, tmp_path, what, devices=2, strategy="ddp")
    for message, finite, saved in results:
        # of a weight, one process sees the total only
        named = "'size'" if what == "term" or ranks == 2 else "'(size|loss)'"
        assert re.search(rf"{named} became NaN or infinite at step 8", message)
        assert finite
        assert saved == 6
    saved = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = RunCheckpoint(dirpath=saved.parent, filename="last", monitor=None)
    resumed = fit(build(), tmp_path, checkpoint, ckpt_path=saved)
    assert resumed.trainer.global_step == 12


def test_the_means_of_an_epoch_survive_a_restart_inside_it(tmp_path):
    def run(folder: str, **kwargs: Any) -> float:
        checkpoint = RunCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1)
        module = fit(build(), tmp_path / folder, checkpoint, max_epochs=1, **kwargs)
        return float(module.trainer.callback_metrics["train/loss_epoch"])

    whole = run("whole")
    (saved,) = tmp_path.glob("*step=4.ckpt")
    state = torch.load(saved, weights_only=True)["epoch_means"]
    ((names, table),) = state["parts"]
    assert names == ["loss", "classification", "size"]
    assert table[1].tolist() == [16.0] * 3  # rows
    assert run("resumed", ckpt_path=saved) == whole


def test_a_gradient_that_is_no_number_stops_the_run_under_a_step_of_signs(tmp_path: Path) -> None:
    module = TinyModule()
    module.optimizer = LionK
    module.network.bias.register_hook(
        lambda gradient: gradient / 0 * 0 if module.global_step == 2 else gradient
    )
    trainer = tiny_trainer(tmp_path, [], False)
    with pytest.raises(FloatingPointError, match="became NaN or infinite at step 3"):
        trainer.fit(module, TinyData())


def test_the_largest_batch_is_searched(tmp_path: Path) -> None:
    data = TinyData()
    finder = BatchSizeFinder(steps_per_trial=1, init_val=6, max_trials=2)
    trainer = tiny_trainer(tmp_path, [finder], False)
    trainer.fit(TinyModule(), data)
    assert data.batch_size == finder.optimal_batch_size == 12
    assert trainer.global_step == 2 * 2


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (LearningRateFinder(), "LearningRateFinder sets an attribute `lr` of the module, but the"),
        (BackboneFinetuning(1), "BackboneFinetuning changes `requires_grad` during a run, where"),
        (
            StochasticWeightAveraging(0.1),
            "StochasticWeightAveraging changes weights and learning r",
        ),
    ],
)
def test_callbacks_that_cannot_be_used_are_refused(
    callback: Callback, message: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        tiny_trainer(tmp_path, [callback], False).fit(TinyModule(), TinyData())
