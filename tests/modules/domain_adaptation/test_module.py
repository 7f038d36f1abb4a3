"""Which parameters every term reaches, how they are grouped, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from callbacks.dynamic_preference import DynamicPreference
from framework.gradients import Combination, GradientCombiner, GradientFacts, HeldOutGuidedLP
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from modules import DomainAdaptation
from modules.domain_adaptation.cdan import CDAN
from modules.domain_adaptation.mdd import MDD
from tests.helpers.tiny import TinyData
from tests.modules.domain_adaptation.small import (
    HALF,
    SHAPE,
    SHARED,
    TwoDomains,
    batch,
    double,
    fit,
    model,
    reached,
)


def terms_of(module: DomainAdaptation, objectives: Objectives) -> dict[str, Tensor]:
    return reduce_objectives(objectives).terms


# ---- which parameters get what ------------------------------------------------------------------


@pytest.mark.parametrize("alignment", [None, CDAN(), CDAN(entropy=True), MDD()])
def test_every_term_reaches_its_own_parts(alignment) -> None:
    module = double(alignment=alignment) if alignment is not None else double()
    terms = terms_of(module, module.objectives(batch()))
    assert reached(module, terms["classification"]) == SHARED | {"network.head"}
    assert reached(module, terms["alignment"]) == SHARED | {"alignment"}
    assert reached(module, terms["mimicking"]) == SHARED
    assert reached(module, terms["discriminators"]) == {"network.class_discriminators"}
    # and together all there is
    assert reached(module, sum(terms.values())) == SHARED | {
        "network.head",
        "alignment",
        "network.class_discriminators",
    }


class Fixed(GradientCombiner):
    """Weighs the terms by numbers that nobody would choose."""

    def combination(self, facts: GradientFacts) -> Combination:
        weights = {"classification": 2.0, "alignment": -1.0, "mimicking": 3.0}
        assert set(facts.names) == set(weights)
        chosen = [weights[name] for name in facts.names]
        return Combination(torch.tensor(chosen, dtype=torch.float64), scale=0.5)


class FirstGradients(Callback):
    """Keeps the first batch, and the gradients of the first step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.batch, self.module = batch, copy.deepcopy(pl_module)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            self.found = {n: p.grad.clone() for n, p in pl_module.named_parameters()}
            step = pl_module._combined_step
            self.logs = {} if step is None else dict(step.logs)


def test_a_combiner_changes_body_and_bottleneck_alone(tmp_path: Path) -> None:
    seen = FirstGradients()
    weights = {"alignment_weight": 0.7, "mimicking": 1.3}
    module = model(reversal=HALF, gradient_combiner=Fixed(), **weights)
    fit(tmp_path, seen, module=module, max_steps=1, precision="64-true")
    objectives = seen.module.objectives(seen.batch)
    terms = terms_of(seen.module, objectives)
    plain = {"classification": 1.0, "alignment": 0.7, "mimicking": 1.3, "discriminators": 1 / 6}
    combined = {"classification": 1.0, "alignment": -0.5 * 0.7, "mimicking": 1.5 * 1.3}
    shared = {id(p) for p in seen.module.shared_parameters()}
    for name, parameter in seen.module.named_parameters():
        factors = combined if id(parameter) in shared else plain
        value = sum(factor * terms[term] for term, factor in factors.items())
        (expected,) = torch.autograd.grad(value, parameter, retain_graph=True)
        torch.testing.assert_close(seen.found[name], expected, rtol=1e-9, atol=1e-12)


def test_the_step_of_the_released_code(tmp_path: Path) -> None:
    """There classification and alignment go backward first, and 3 G^T w comes on top of that."""
    seen = FirstGradients()
    combiner = HeldOutGuidedLP(plain_terms=["classification", "alignment"])
    preference = DynamicPreference(combiner, batch_size=4)
    fit(tmp_path, seen, preference, module=model(reversal=HALF), max_steps=1, precision="64-true")
    module = seen.module
    terms = terms_of(module, module.objectives(seen.batch))
    (terms["classification"] + terms["alignment"]).backward(retain_graph=True)
    (terms["discriminators"] / 6).backward(retain_graph=True)
    shared = module.shared_parameters()
    names = ("classification", "alignment", "mimicking")
    rows = [torch.autograd.grad(terms[name], shared, retain_graph=True) for name in names]
    weights = [seen.logs[f"preference/weight/{name}"] for name in names]
    for parameter, *gradients in zip(shared, *rows, strict=True):
        parameter.grad += 3 * sum(w * g for w, g in zip(weights, gradients, strict=True))
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(seen.found[name], parameter.grad, rtol=1e-9, atol=1e-12)


def test_without_a_combiner_the_terms_are_added_up(tmp_path: Path) -> None:
    seen = FirstGradients()
    module = model(reversal=HALF, alignment_weight=0.7, mimicking=1.3)
    fit(tmp_path, seen, module=module, max_steps=1, precision="64-true")
    total = reduce_objectives(seen.module.objectives(seen.batch)).total
    total.backward()
    for name, parameter in seen.module.named_parameters():
        torch.testing.assert_close(seen.found[name], parameter.grad, rtol=1e-9, atol=1e-12)


def test_shared_parameters_are_body_and_bottleneck() -> None:
    module = model()
    shared = {id(p) for p in module.shared_parameters()}
    names = [n for n, p in module.named_parameters() if id(p) in shared]
    assert names == [
        "network.body.1.weight",
        "network.body.1.bias",
        "network.bottleneck.0.weight",
        "network.bottleneck.1.weight",
        "network.bottleneck.1.bias",
    ]


# ---- the network and its optimizer --------------------------------------------------------------


def test_the_bottleneck_is_optional() -> None:
    module = model(bottleneck=None)
    assert module.network.num_features == 8
    image = torch.randn(5, *SHAPE)
    logits, features = module.network(image)
    torch.testing.assert_close(features, module.network.body(image))
    torch.testing.assert_close(logits, module.network.head(features))
    assert [type(layer) for layer in model().network.bottleneck] == [
        nn.Linear,
        nn.BatchNorm1d,
        nn.ReLU,
    ]


def test_every_class_has_a_discriminator_of_two_hidden_layers() -> None:
    weights = DomainAdaptation(
        num_classes=12, input_shape=(1, 8, 8)
    ).network.class_discriminators.weights
    assert [tuple(w.shape) for w in weights] == [(12, 256, 1024), (12, 1024, 1024), (12, 1024, 1)]


def test_the_default_alignment_is_not_shared() -> None:
    first, second = (
        DomainAdaptation(num_classes=10, input_shape=(1, 8, 8), bottleneck=width)
        for width in (8, 16)
    )
    assert first.alignment is not second.alignment
    assert first.alignment.discriminator.num_inputs == 8
    given = CDAN()
    assert model(alignment=given).alignment is not given
    assert not hasattr(given, "discriminator")


def test_the_body_may_learn_slower(tmp_path: Path) -> None:
    module = model(backbone_lr_scale=0.1)
    groups = module.parameter_groups()
    body = {id(p) for p in module.network.body.parameters()}
    for group in groups:
        inside = [id(p) in body for p in group["params"]]
        assert len(set(inside)) == 1
        assert group.get("lr_scale", 1.0) == (0.1 if inside[0] else 1.0)
        assert group.get("weight_decay", None) == (None if group["params"][0].ndim > 1 else 0.0)
    grouped = sorted(id(p) for group in groups for p in group["params"])
    assert grouped == sorted(id(p) for p in module.parameters())
    _, trainer = fit(tmp_path, module=module, max_steps=1)
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([0.01, 0.1, 0.01, 0.1])
    assert len(model().parameter_groups()) == 2


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mimicking": -1.0}, "mimicking must be at least 0"),
        ({"mimicking": math.nan}, "mimicking must be finite and at least 0"),
        ({"alignment_weight": 0.0}, "alignment_weight must be positive"),
        ({"discriminator_width": 0}, "discriminator_width must be at least 1"),
        ({"backbone_lr_scale": 0.0}, "backbone_lr_scale must be positive"),
        ({"bottleneck": 0}, "bottleneck must be at least 1, got 0"),
        ({"backbone": "resnet1"}, "There is no backbone 'resnet1'"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        model(**settings)


class Wider(TwoDomains):
    num_classes = 4


class Larger(TwoDomains):
    input_shape = (1, 5, 5)


class Mixing(TwoDomains):
    mixes_samples = True


class BadLabels(TwoDomains):
    def __init__(self) -> None:
        super().__init__()
        self.train_set.fields["label"][self.train_set.fields["domain"] == 0] = -1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TinyData, "TinyData holds one domain: join two in a DomainPair"),
        (Wider, "Wider has num_classes 4, but the model was built for 3: set model.num_classes"),
        (Larger, r"\[1, 5, 5\], but the model was built for \[1, 4, 4\]"),
        (Mixing, "cannot be combined with mixup; switch Mixing's mixup off"),
        (BadLabels, r"holds the label -1, but the model has the classes 0\.\.2"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, said, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as error:
        fit(tmp_path, data=data())
    if data is not BadLabels:
        assert isinstance(error.value, IncompatibleError)
