"""Who trains on what: each network learns from the rows that the other one found easy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor

from framework.losses import CompSumLoss
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from modules import CoTeaching
from tests.helpers.configs import arguments
from tests.helpers.runs import fit


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (12,), generator=generator)
    clean = label.clone()
    clean[:3] = (clean[:3] + 1) % 3
    return {
        "image": torch.randn(12, 1, 2, 2, generator=generator),
        "label": label,
        "clean_label": clean,
        "index": torch.arange(12),
    }


def build(**kwargs: object) -> CoTeaching:
    torch.manual_seed(0)
    settings = {"num_classes": 3, "input_shape": (1, 2, 2), "widths": (6,), "sigma": None}
    module = CoTeaching(**{**settings, **kwargs})  # type: ignore[arg-type]
    module._trainer = SimpleNamespace(current_epoch=0, global_step=0)  # type: ignore[assignment]
    return module


def losses(module: CoTeaching, number: int) -> Tensor:
    """Return every row's cross-entropy under a network."""
    data = batch()
    logits, _ = module.networks[number](data["image"])
    return F.cross_entropy(logits, data["label"], reduction="none").detach()


def kept(values: Tensor, rows: Tensor, count: int) -> set[int]:
    """Return the ``count`` rows of smallest value."""
    return set(sorted(rows.tolist(), key=lambda row: float(values[row]))[:count])


EVEN, ODD = torch.arange(0, 12, 2), torch.arange(1, 12, 2)


@pytest.mark.parametrize("halves", [True, False])
def test_each_network_is_trained_on_what_the_other_selected(halves: bool) -> None:
    module = build(forget_rate=0.4, halves=halves)
    objectives = module.objectives(batch())
    everything = torch.arange(12)
    # floor(0.6 * 6) = 3 of a half, floor(0.6 * 12) = 7 of all
    first, second = (EVEN, ODD) if halves else (everything, everything)
    size = 3 if halves else 7
    by_1, by_2 = kept(losses(module, 0), first, size), kept(losses(module, 1), second, size)
    assert by_1 != by_2
    masks = {name: count.nonzero().flatten().tolist() for name, count in objectives.count.items()}
    assert set(masks["network_1"]) == by_2
    assert set(masks["network_2"]) == by_1
    for number, rows in ((1, by_2), (2, by_1)):
        values = objectives.per_sample[f"network_{number}"]
        own = losses(module, number - 1)
        expected = torch.zeros(12)
        expected[sorted(rows)] = own[sorted(rows)]
        torch.testing.assert_close(values.detach(), expected)
    assert objectives.sample_weight is not None
    assert set(objectives.sample_weight.nonzero().flatten().tolist()) == by_1 | by_2


@pytest.mark.parametrize("criterion", [torch.nn.CrossEntropyLoss(), CompSumLoss(1.0)])
def test_the_terms_are_means_over_the_selected_rows(criterion: torch.nn.Module) -> None:
    module = build(forget_rate=0.4, criterion=criterion)
    objectives = module.objectives(batch())
    by_2 = sorted(kept(losses(module, 1), ODD, 3))
    reduced = reduce_objectives(objectives)
    torch.testing.assert_close(reduced.terms["network_1"].detach(), losses(module, 0)[by_2].mean())


def test_without_forgetting_each_learns_the_whole_half_of_the_other() -> None:
    module = build(forget_rate=0.0)
    data = batch()
    total = reduce_objectives(module.objectives(data)).total
    total.backward()
    for network, rows in ((module.network, ODD), (module.network_2, EVEN)):
        logits, _ = network(data["image"][rows])
        expected = torch.autograd.grad(
            F.cross_entropy(logits, data["label"][rows]), list(network.parameters())
        )
        for parameter, gradient in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_the_selection_is_logged() -> None:
    module = build(forget_rate=0.4)
    data = batch()
    logs = module.objectives(data).logs
    assert float(logs["selected"]) == pytest.approx(6 / 12)
    chosen = kept(losses(module, 0), EVEN, 3) | kept(losses(module, 1), ODD, 3)
    right = [row for row in chosen if row > 2]
    assert float(logs["purity"]) == pytest.approx(len(right) / 6)


def test_selecting_leaves_modes_and_dropout_alone() -> None:
    module = build(forget_rate=0.4, sigma=2.0)
    module.train()
    module.objectives(batch())
    assert module.network.training
    assert module.network.dropout.training
    # one draw for one training forward: scoring does not draw
    assert [network.dropout.count for network in module.networks] == [1, 1]


def test_warm_up_trains_both_on_all_rows() -> None:
    module = build(forget_rate=0.4, warmup_epochs=2)
    objectives: Objectives = module.objectives(batch())
    for number in (1, 2):
        values = objectives.per_sample[f"network_{number}"].detach()
        torch.testing.assert_close(values, losses(module, number - 1))
    assert objectives.sample_weight is None


def test_frozen_batch_norm_survives_train() -> None:
    module = build(backbone="cnn", widths=(4,), input_shape=(1, 4, 4))
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    module.train()
    assert module.training
    assert not any(norm.training for norm in norms)
    module.freeze_batchnorm = False
    module.train()
    assert all(norm.training for norm in norms)


class Stages(Callback):
    """Keeps all weights at the start of every epoch, and at the end."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.weights.append({n: v.clone() for n, v in pl_module.state_dict().items()})

    def on_train_end(self, trainer, pl_module):
        self.on_train_epoch_start(trainer, pl_module)
        norms = [m for m in pl_module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        self.gradients = [p.grad for norm in norms for p in norm.parameters()]


@pytest.mark.parametrize("frozen", [True, False])
def test_stage_two_trains_all_but_batch_norm(frozen: bool, tmp_path: Path) -> None:
    stages = Stages()
    few = ["--model.backbone=cnn", "--model.widths=[4]", "--model.warmup_epochs=1"]
    args = [*arguments("coteaching"), *few, "--trainer.max_epochs=2", "--model.sigma=null"]
    switch = f"--model.freeze_batchnorm={str(frozen).lower()}"
    record = fit([*args, switch, f"--trainer.default_root_dir={tmp_path}"], [stages])
    first, second, end = stages.weights
    changed = [
        {n for n in first if not torch.equal(before[n], after[n])}
        for before, after in ((first, second), (second, end))
    ]
    # in stage 1 everything moved
    everything = {n for n in record.parameters if n.startswith("network")}
    assert everything <= changed[0]
    norms = {n for n in everything if n.rpartition(".")[0] + ".running_mean" in first}
    assert len(norms) == 2 * 2 * 5
    assert everything - changed[1] == (norms if frozen else set())
    if frozen:
        assert all(gradient is None for gradient in stages.gradients)


def test_the_prediction_is_the_mean_of_the_logits() -> None:
    module = build().eval()
    image = batch()["image"]
    mean = (module.network(image)[0] + module.network_2(image)[0]) / 2
    torch.testing.assert_close(module(image), mean)
    assert not torch.equal(module.network(image)[0], module.network_2(image)[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"checkpoints": ["one.ckpt"]}, "must name two files, got 1"),
        ({"checkpoints": ["a", "b"], "warmup_epochs": 1}, "set warmup_epochs to 0"),
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0"),
        ({"dropout": 0.3, "sigma": 5.0}, "set sigma to null"),
    ],
)
def test_refuses_bad_arguments(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(**arguments)
