"""What an optimizer sees that evaluates a step again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn

from datamodules import Digits
from framework.attacks import PGDAttack
from framework.distributed.averages import average_over_ranks
from framework.layers.dropout import GlobalDropout
from framework.losses import SmoothAdversarialCompSumLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.optim import StepProblem
from framework.training.objectives_callback import ObjectivesCallback
from modules import Classifier
from tests.helpers.tiny import TinyData, TinyModule

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Replaying(torch.optim.SGD):
    """SGD that looks again at every step, and notes what it sees."""

    needs_closure = True
    needs_problem = True
    seen: ClassVar[list[dict[str, Any]]] = []

    def step(self, closure: Any, problem: StepProblem) -> Tensor:  # type: ignore[override]
        loss = closure()
        parameters = [p for g in self.param_groups for p in g["params"]]
        again, outputs = problem.evaluate()
        of_loss = torch.autograd.grad(again, parameters)
        targets = problem.targets
        through = torch.autograd.grad(problem.outputs(), parameters, [t.gradient for t in targets])
        self.seen.append(
            {
                "loss": (loss, again),
                "outputs": [(t.value, z) for t, z in zip(targets, outputs, strict=True)],
                "replayed": [(t.value, z) for t, z in zip(targets, problem.outputs(), strict=True)],
                "gradient": [
                    (p.grad, a, b)
                    for p, a, b in zip(
                        parameters,
                        average_over_ranks(of_loss),
                        average_over_ranks(through),
                        strict=True,
                    )
                ],
                "rows": problem.rows,
            }
        )
        super().step()
        return loss


def fit_digits(optimizer: Any, tmp_path: Path, **arguments: Any) -> Classifier:
    seed_everything(0)
    model = Classifier(
        num_classes=10, input_shape=(1, 8, 8), widths=[8], optimizer=optimizer, **arguments
    )
    run = Trainer(max_steps=3, default_root_dir=tmp_path, **QUIET)
    run.fit(model, Digits(batch_size=64))
    return model


def replaying(params: Any) -> Replaying:
    return Replaying(params, lr=0.1)


def noisy_network() -> nn.Module:
    class Network(nn.Sequential):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = super().forward(x)
            return features @ torch.ones(32, 10) / 32 + features[:, :10], features

    layers = (
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.Dropout(0.5),
        GlobalDropout(0.2, "noise"),
    )
    return Network(*layers)


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    Replaying.seen.clear()
    return Replaying.seen


def check(seen: list[dict[str, Any]]) -> None:
    for step in seen:
        torch.testing.assert_close(*step["loss"])
        for value, output in [*step["outputs"], *step["replayed"]]:
            torch.testing.assert_close(value, output.detach())
        for gradient, of_loss, through in step["gradient"]:
            torch.testing.assert_close(gradient, of_loss, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(gradient, through, rtol=1e-4, atol=1e-6)


def test_replays_are_the_step_and_leave_no_trace(
    seen: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.classifier.module.build_network", lambda *_: noisy_network())
    watched = fit_digits(replaying, tmp_path)
    assert [step["rows"] for step in seen] == [64, 64, 64]
    check(seen)
    plain = fit_digits(lambda params: torch.optim.SGD(params, lr=0.1), tmp_path)
    for (name, a), (_, b) in zip(
        watched.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, name
    assert watched.network[-1].count == 3


def test_predictions_at_attacked_inputs_are_outputs_as_well(
    seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    loss = SmoothAdversarialCompSumLoss(nu=0.3, attack=PGDAttack(eps=0.1, steps=2))
    fit_digits(replaying, tmp_path, criterion=loss)
    for step in seen:
        clean, attacked = step["replayed"]
        assert clean[0].shape == attacked[0].shape == (64, 10)
        assert not torch.equal(clean[0], attacked[0])
    check(seen)


class Decayed(TinyModule):
    """A part of its loss is none of the predictions."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.optimizer = optimizer

    def objectives(self, batch: Any) -> Objectives:
        objectives = super().objectives(batch)
        objectives.terms["decay"] = 10 * self.network.weight.square().sum()
        return objectives


def test_a_loss_of_more_than_the_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"Replaying needs a loss that is a function of"):
        Trainer(max_steps=1, default_root_dir=tmp_path, **QUIET).fit(Decayed(replaying), TinyData())


class Published(TinyModule):
    """Predictions that are not what ``forward`` returns."""

    def __init__(self, forwarded: Any) -> None:
        super().__init__()
        self.optimizer = replaying  # type: ignore[assignment]
        self.forwarded = forwarded

    def objectives(self, batch: Any) -> Objectives:
        forwarded, self.forwarded = self.forwarded, lambda z: z
        objectives = super().objectives(batch)
        self.forwarded = forwarded
        return objectives

    def forward(self, x: Tensor) -> Any:
        return self.forwarded(super().forward(x))


@pytest.mark.parametrize(
    ("forwarded", "message"),
    [
        (lambda z: 1.1 * z, "forward returns others than its objectives publish"),
        (lambda z: z[:1], "forward returns others than its objectives publish"),
        (lambda z: {"logits": z}, "forward returns a dict: define predictions_of"),
    ],
)
def test_predictions_that_forward_does_not_return_are_refused(
    forwarded: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        Trainer(max_steps=1, default_root_dir=tmp_path, **QUIET).fit(
            Published(forwarded), TinyData()
        )


def test_a_module_that_does_not_say_its_inputs_is_refused(tmp_path: Path) -> None:
    model = Decayed(replaying)
    model.forward_inputs = lambda batch: (batch["sound"],)  # type: ignore[method-assign]
    with pytest.raises(IncompatibleError, match="forward_inputs wants the field 'sound'"):
        Trainer(max_steps=1, default_root_dir=tmp_path, **QUIET).fit(model, TinyData())


class Rolling(ObjectivesCallback):
    repeatable = False


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Rolling(), "Rolling draws other random numbers at each"),
        (GradientAccumulationScheduler({1: 2}), "leave out a GradientAccumulationScheduler"),
    ],
)
def test_callbacks_that_change_a_step_are_refused(
    callback: Any, message: str, tmp_path: Path
) -> None:
    run = Trainer(max_steps=1, default_root_dir=tmp_path, callbacks=[callback], **QUIET)
    with pytest.raises(IncompatibleError, match=message):
        run.fit(Decayed(replaying), TinyData())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches to 1"),
        ({"gradient_clip_val": 1.0}, r"leave out trainer\.gradient_clip_val"),
    ],
)
def test_what_cannot_be_evaluated_again_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        Trainer(max_steps=1, default_root_dir=tmp_path, **QUIET, **options).fit(
            Decayed(replaying), TinyData()
        )


def test_a_module_without_predictions_is_refused(tmp_path: Path) -> None:
    model = Decayed(replaying)
    model.provides = ("per_sample",)
    with pytest.raises(IncompatibleError, match="does not publish"):
        Trainer(max_steps=1, default_root_dir=tmp_path, **QUIET).fit(model, TinyData())


def ranks_see_one_step(folder: Path) -> list[float]:
    """Return the largest differences of the averaged gradients to those of DDP."""
    Replaying.seen.clear()
    seed_everything(0)
    model = Classifier(
        num_classes=10, input_shape=(1, 8, 8), widths=[8], optimizer=replaying
    ).double()
    run = Trainer(
        max_steps=2,
        devices=2,
        strategy="ddp",
        precision="64-true",
        default_root_dir=folder,
        use_distributed_sampler=False,
        **QUIET,
    )
    run.fit(model, Digits(batch_size=63))
    return [
        float((gradient - other).abs().max())
        for step in Replaying.seen
        for gradient, *others in step["gradient"]
        for other in others
    ]


def test_means_over_ranks_are_the_gradient(tmp_path: Path, two_ranks: Callable[..., Any]) -> None:
    for differences in two_ranks(ranks_see_one_step, tmp_path):
        assert len(differences) == 2 * 4 * 2
        assert max(differences) < 1e-12
