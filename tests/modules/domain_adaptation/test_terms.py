"""The terms of a step, and that of the guide."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn

from framework.adaptation.bayes_refinement import bayes_refine
from framework.layers import ReversalSchedule
from framework.losses import ALDRLoss, ClassificationLoss, TargetClassificationMimicking
from framework.objectives.reduction import reduce_objectives
from framework.utilities.evaluation_mode import evaluation_mode
from modules import DomainAdaptation
from tests.modules.domain_adaptation.small import (
    SHARED,
    TwoDomains,
    batch,
    double,
    fit,
    model,
    reached,
)


def test_classification_is_that_of_the_source_rows() -> None:
    module, rows = double(), batch(5, 4)
    objectives = module.objectives(rows)
    source = rows["domain"] == 0
    logits = objectives.predictions
    expected = F.cross_entropy(logits[source], rows["label"][source])
    torch.testing.assert_close(reduce_objectives(objectives).terms["classification"], expected)
    values = objectives.per_sample["classification"]
    assert values.shape == (9,)
    assert (values != 0).tolist() == source.tolist()
    assert objectives.count["classification"].tolist() == source.double().tolist()


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.5]).double(), label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.MultiMarginLoss(),
    ],
)
def test_a_criterion_reduces_as_it_would_on_the_source_alone(criterion) -> None:
    module, rows = double(criterion=criterion), batch(7, 4)
    objectives = module.objectives(rows)
    source = rows["domain"] == 0
    expected = criterion(objectives.predictions[source], rows["label"][source])
    torch.testing.assert_close(reduce_objectives(objectives).terms["classification"], expected)


class Watching(ClassificationLoss):
    """Cross-entropy that keeps what it was given."""

    needs = ("index", "features", "inputs", "forward")

    def per_sample(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        self.seen = {**needs, "targets": targets}
        return F.cross_entropy(predictions, targets, reduction="none")


def test_a_criterion_sees_the_source_rows_alone() -> None:
    module, rows = double(criterion=Watching()), batch(5, 4)
    objectives = module.objectives(rows)
    source, seen = rows["domain"] == 0, module.criterion.seen
    assert torch.equal(seen["index"], rows["index"][source])
    assert torch.equal(seen["targets"], rows["label"][source])
    assert torch.equal(seen["inputs"], rows["image"][source])
    assert torch.equal(seen["features"], objectives.features[source])
    assert seen["forward"] == module.forward


class Coupled(ClassificationLoss):
    """One number for all rows."""

    batch_coupled = True

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        return predictions.gather(1, targets[:, None]).square().sum()


def test_a_criterion_may_be_one_number_for_the_batch(tmp_path: Path) -> None:
    module, rows = double(criterion=Coupled()), batch(5, 4)
    objectives = module.objectives(rows)
    source = rows["domain"] == 0
    chosen = objectives.predictions[source].gather(1, rows["label"][source][:, None])
    torch.testing.assert_close(objectives.terms["classification"], chosen.square().sum())
    assert "per_sample" not in module.provides
    fit(tmp_path, module=model(criterion=Coupled()), max_steps=2)


def test_a_loss_with_a_memory_learns_of_source_samples_alone(tmp_path: Path) -> None:
    criterion = ALDRLoss()
    fit(tmp_path, module=model(criterion=criterion))
    values = criterion.temperature.read(torch.arange(80)).flatten()
    target = TwoDomains().train_set.fields["domain"] == 1
    assert len(values[target].unique()) == 1
    assert not torch.isin(values[~target], values[target]).any()


def mimicking_by_hand(module: DomainAdaptation, rows: Any) -> tuple[Tensor, Tensor]:
    """Return the loss with a constant q and the gradient that it has for the features."""
    features = module.network(rows["image"])[1].detach().requires_grad_()
    head = module.network.head
    p = (features @ head.weight.detach().T + head.bias.detach()).softmax(1)
    q = module.network.class_discriminators(features.detach()).detach().sigmoid()
    rho = (p * q / (p * q).sum(1, keepdim=True))[rows["domain"] == 1]
    mean = rho.mean(0)
    value = (mean * mean.log()).sum() - (rho * rho.log()).sum(1).mean() + math.log(3)
    return value, torch.autograd.grad(value, features)[0]


def test_mimicking_is_the_refined_loss_of_the_target_rows() -> None:
    module, rows = double(), batch(5, 6)
    objectives = module.objectives(rows)
    value, gradient = mimicking_by_hand(module, rows)
    torch.testing.assert_close(objectives.terms["mimicking"], value)
    (found,) = torch.autograd.grad(objectives.terms["mimicking"], objectives.features)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


def test_the_discriminators_learn_labels_of_the_source_and_guesses_of_the_target() -> None:
    module, rows = double(), batch(5, 6)
    objectives = module.objectives(rows)
    refined, of_target = module.network.refined(objectives.features)
    q, rho, source = of_target.sigmoid(), refined.exp(), rows["domain"] == 0
    own = q[source].gather(1, rows["label"][source][:, None])
    expected = -(1 - own).log().mean() - (rho * q.log())[~source].sum(1).mean()
    torch.testing.assert_close(objectives.terms["discriminators"], expected)


def test_without_refinement_there_are_no_discriminators_of_classes() -> None:
    module, rows = double(refine=False), batch(5, 6)
    assert module.network.class_discriminators is None
    objectives = module.objectives(rows)
    assert set(objectives.terms) == {"alignment", "mimicking"}
    target = rows["domain"] == 1
    expected = TargetClassificationMimicking()(objectives.predictions[target])
    torch.testing.assert_close(objectives.terms["mimicking"], expected)


def test_dann_alone_and_the_source_alone() -> None:
    module = double(mimicking=0.0)
    objectives = module.objectives(batch())
    assert (set(objectives.terms), set(objectives.per_sample)) == (
        {"alignment"},
        {"classification"},
    )
    assert module.network.class_discriminators is None
    module = double(mimicking=0.0, alignment=None)
    objectives = module.objectives(batch())
    assert (set(objectives.terms), set(objectives.per_sample)) == (set(), {"classification"})
    assert not any("discriminator" in name for name, _ in module.named_parameters())


def test_what_no_rows_of_a_domain_leave() -> None:
    module = double().eval()
    for source, target in ((4, 0), (0, 4), (0, 0)):
        objectives = module.objectives(batch(source, target))
        total = reduce_objectives(objectives).total
        gradients = torch.autograd.grad(total, list(module.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)
    assert float(total.detach()) == 0


def test_the_discriminator_is_watched() -> None:
    module, rows = double(), batch(5, 4)
    logged = module.objectives(rows).logs["discriminator_accuracy"]
    module.train()
    features = module.network(rows["image"])[1]
    said = module.alignment.discriminator(features).squeeze(1) > 0
    assert float(logged) == pytest.approx(float((said == (rows["domain"] == 0)).double().mean()))


def test_the_reversal_follows_the_steps(tmp_path: Path) -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_start(self, trainer, pl_module):
            alignment = pl_module.alignment
            forward = alignment.forward

            def watched(features, logits, domain, coefficient):
                if alignment.training:
                    self.seen.append(coefficient)
                return forward(features, logits, domain, coefficient)

            alignment.forward = watched

    watch, schedule = Watch(), ReversalSchedule(low=0.1, high=0.6, alpha=2.0, num_steps=10)
    fit(tmp_path, watch, module=model(reversal=schedule))
    assert watch.seen == pytest.approx([schedule(step) for step in range(10)])


# ---- the guide ----------------------------------------------------------------------------------


def test_the_guide_is_the_refined_loss_in_evaluation_mode() -> None:
    module, rows = double(), batch(0, 6, seed=3)
    for seed in range(3):
        module.objectives(batch(5, 6, seed))  # running statistics of their own
    statistics = {n: b.clone() for n, b in module.named_buffers()}
    with evaluation_mode(module):
        objectives = module.guide_objectives(rows)
        value, _ = mimicking_by_hand(module, rows)
    torch.testing.assert_close(objectives.terms["mimicking"], value)
    assert reached(module, objectives.terms["mimicking"]) == SHARED
    assert objectives.features.requires_grad
    assert all(torch.equal(b, statistics[n]) for n, b in module.named_buffers())
    total = reduce_objectives(objectives).total
    torch.testing.assert_close(total, value)
    module.train()
    assert abs(float((mimicking_by_hand(module, rows)[0] - value).detach())) > 1e-3


@pytest.mark.parametrize("settings", [{"refine": False}, {"mimicking": 0.0}])
def test_the_guide_of_other_variants_is_not_refined(settings) -> None:
    module, rows = double(**settings).eval(), batch(2, 6)
    logits = module(rows["image"])[rows["domain"] == 1]
    expected = TargetClassificationMimicking()(logits)
    torch.testing.assert_close(module.guide_objectives(rows).terms["mimicking"], expected)


def test_refinement_is_bayes_rule() -> None:
    network = double().network.eval()
    features = torch.randn(4, 6, dtype=torch.float64)
    refined, of_target = network.refined(features)
    expected = bayes_refine(network.head(features), F.logsigmoid(of_target))
    torch.testing.assert_close(refined, expected)
    torch.testing.assert_close(refined.exp().sum(1), torch.ones(4, dtype=torch.float64))
