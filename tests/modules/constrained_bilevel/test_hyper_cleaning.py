"""Weights of samples are learned, belong to their rows, and are kept with the run."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

import trimtab
from datamodules import BreastCancer, Digits, LabelNoise
from framework.objectives.errors import IncompatibleError
from framework.solvers import LVHBA
from framework.training.objectives_callback import ObjectivesCallback
from modules import HyperCleaning
from tests.helpers.runs import CONFIGS, QUIET, largest_difference

CONFIG = f"--config={CONFIGS / 'hypercleaning.yaml'}"


def data(**options: Any) -> BreastCancer:
    noise = LabelNoise("symmetric", rate=0.4, redraw_true=False)
    return BreastCancer(**{"batch_size": 100, "label_noise": noise, **options})


def trained(model: HyperCleaning, source: Any, folder: Path, **options: Any) -> HyperCleaning:
    defaults = {
        "max_steps": 6,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "accelerator": "cpu",
    }
    Trainer(default_root_dir=folder, **{**defaults, **options}).fit(model, datamodule=source)
    return model


def build(**options: Any) -> HyperCleaning:
    torch.manual_seed(0)
    defaults = {
        "num_classes": 2,
        "input_shape": (30,),
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1),
        "lr_scheduler": None,
    }
    return HyperCleaning(**{**defaults, **options})


def results(folder: Path, *more: str) -> dict[str, float]:
    # the weights belong to the rows of one split
    args = [CONFIG, *QUIET, f"--run_folder={folder}", *more]
    trimtab.main(["test", *args, f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
    with (folder / "metrics_test.csv").open() as file:
        *_, row = csv.DictReader(file)
    return {name: float(value) for name, value in row.items() if value}


def learned(folder: Path, *more: str) -> dict[str, float]:
    trimtab.main(["fit", CONFIG, *QUIET, f"--run_folder={folder}", *more])
    return results(folder, *more)


def test_wrong_labels_get_small_weights_and_the_classifier_is_better(tmp_path):
    found = learned(tmp_path, "--trainer.max_epochs=40")
    assert found["test/weight_auc"] > 0.9
    assert found["test/accuracy"] > found["test/accuracy_uniform"] + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_gain_over_equal_weights_over_seeds(seed, tmp_path):
    noise = f"--data.label_noise.init_args.seed={seed}"
    found = learned(tmp_path, f"--data.split_seed={seed}", noise)
    assert found["test/weight_auc"] > 0.9
    assert found["test/accuracy"] > found["test/accuracy_uniform"] + 0.08


def test_a_run_is_the_solver_on_the_same_batches(tmp_path):
    model, source = build(ridge=0.02, weight_lr=2.0), data()
    network, theta = model.network.state_dict(), model.theta.state_dict()
    network, theta = ({k: v.clone() for k, v in s.items()} for s in (network, theta))
    seen: list[Any] = []
    step = model.training_step
    model.training_step = lambda batch, batch_idx: (
        step(batch, batch_idx),
        seen.append((batch, model._held_out)),
    )[0]
    trained(model, source, tmp_path)

    other = build()
    other.network.load_state_dict(network)
    other.theta.load_state_dict(theta)
    logits = torch.zeros(284, requires_grad=True)
    groups = [
        {"params": [logits], "lr": 0.1 * 2.0 * 284},
        {"params": list(other.network.parameters())},
    ]

    def lower(x: Tensor, net: Any, batch: Any, _: Any) -> Tensor:
        losses = F.cross_entropy(net(batch["input"])[0], batch["label"], reduction="none")
        penalty = 0.01 * net.head.weight.square().sum()
        return (x[batch["index"]].sigmoid() * losses).mean() + penalty

    solver = LVHBA(
        lambda x, net, _, clean: F.cross_entropy(net(clean["input"])[0], clean["label"]),
        lower,
        x=logits,
        y=other.network,
        theta=other.theta,
        optimizer=torch.optim.SGD(groups, lr=0.1),
    )
    for batch, clean in seen:
        solver.step(batch, clean)
    assert len(seen) == int(model.steps) == 6
    assert model.sample_weights.tolist() == pytest.approx(
        logits.detach().sigmoid().tolist(), abs=1e-6
    )
    for mine, plain in ((model.network, other.network), (model.theta, other.theta)):
        for left, right in zip(mine.parameters(), plain.parameters(), strict=True):
            assert float((left - right).detach().abs().max()) < 1e-6


def test_weights_move_by_index_and_the_held_out_rows_are_the_guides(tmp_path):
    model, source = build(), data()
    rows: set[int] = set()
    step = model.training_step

    def watched(batch: Any, batch_idx: int) -> Any:
        rows.update(batch["index"].tolist())
        result = step(batch, batch_idx)
        # clean rows have no second label
        assert "clean_label" not in model._held_out
        return result

    model.training_step = watched
    trained(model, source, tmp_path, max_steps=2)
    moved = (model.sample_weights != 0.5).nonzero().flatten().tolist()
    assert 100 <= len(moved) < 284
    assert set(moved) == rows


def test_without_a_guide_set_validation_rows_are_held_out(tmp_path):
    source = data(clean_size=0)
    trained(build(), source, tmp_path, max_steps=2)
    assert source.guide_set is source.val_set


def test_the_norm_is_a_constraint_with_a_multiplier(tmp_path):
    slow = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.05)}
    model = build(max_norm=0.5, ridge=0.0, eta=0.05, gamma1=10.0, **slow)
    trained(model, data(), tmp_path, max_steps=80)
    matrix = model.network.head.weight.detach()
    assert float(matrix.norm()) == pytest.approx(0.5, abs=1e-5)
    # the copy is held by the multiplier alone
    assert float(model.theta.head.weight.detach().norm()) < 0.7
    assert float(model.multipliers[0]) > 1e-3
    assert float(model.z[0]) > 0


def bounded(folder: Path, **options: Any) -> dict[str, Tensor]:
    """Fit with a norm that is too large at the start, on this rank of a pair or alone."""
    plain = {"precision": "64-true", "use_distributed_sampler": False}
    model = trained(build(max_norm=0.2), data(batch_size=71), folder, **plain, **options)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_two_ranks_have_the_multiplier_of_one(tmp_path, two_ranks):
    alone = bounded(tmp_path)
    one, two = two_ranks(bounded, tmp_path, devices=2, strategy="ddp")
    assert float(alone["multipliers"]) > 0.1
    assert float(alone["z"]) > 0
    assert largest_difference(alone, one) < 1e-12
    assert largest_difference(one, two) == 0


def test_images_are_cleaned_by_a_convolutional_network(tmp_path):
    noise = LabelNoise("symmetric", rate=0.4)
    source = Digits(batch_size=256, label_noise=noise)
    model = build(num_classes=10, input_shape=(1, 8, 8), backbone="cnn", widths=(4,), baseline=True)
    trained(model, source, tmp_path, max_epochs=1, limit_train_batches=3, limit_val_batches=1)
    assert set(model.metric_values) >= {"accuracy", "accuracy_uniform", "weight_auc"}
    assert list(model.figures("val", model.metric_values)) == ["sample_weights"]


def test_the_baseline_changes_nothing(tmp_path):
    alone, beside = build(), build(baseline=True)
    for model in (alone, beside):
        trained(model, data(), tmp_path)
    for left, right in zip(alone.network.parameters(), beside.network.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(beside.uniform.head.weight, beside.network.head.weight)


class AddsATerm(ObjectivesCallback):
    def on_objectives(self, trainer, module, objectives, batch):
        objectives.terms["extra"] = torch.zeros(())
        objectives.count["extra"] = torch.ones(())


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({"clean_size": 0, "val_size": 0}, {}, "tunes on held-out rows, and BreastCancer has none"),
        ({}, {"callbacks": [AddsATerm()]}, "a callback adds the term 'extra'"),
    ],
)
def test_what_does_not_fit_is_refused(options, trainer, message, tmp_path):
    with pytest.raises(IncompatibleError, match=message):
        trained(build(), data(**options), tmp_path, **trainer)


def test_a_schedule_that_waits_for_a_metric_is_refused(tmp_path):
    model = build(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(IncompatibleError, match=r"use another model\.lr_scheduler"):
        trained(model, data(), tmp_path)


def test_a_schedule_counts_steps(tmp_path):
    model = build(lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5))
    trained(model, data(), tmp_path, max_steps=5)
    assert model.optimizers(use_pl_optimizer=False).param_groups[1]["lr"] == pytest.approx(0.025)


def test_steps_that_diverge_end_with_a_clear_message(tmp_path):
    model = build(gamma1=math.inf, optimizer=lambda groups: torch.optim.SGD(groups, lr=1e30))
    with pytest.raises(FloatingPointError, match="became NaN or infinite at step"):
        trained(model, data(), tmp_path, max_steps=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": None}, "set model.num_classes and model.input_shape"),
        ({"input_shape": (5, 6)}, r"must be \[channels, height, width\], got \[5, 6\]"),
        ({"max_norm": 0.0}, "max_norm must be"),
        ({"ridge": -1.0}, "ridge must be at least 0"),
        ({"p": 0.5}, r"p must lie in \[0, 0.5\)"),
        ({"eta": 0.0}, "eta must be"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
