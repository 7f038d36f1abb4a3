"""The terms of a step, whom they reach, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn

from framework.compatibility import IncompatibleError
from framework.evaluation_mode import evaluation_mode
from framework.gradients import Combination, GradientCombiner, GradientFacts
from framework.layers import ReversalSchedule
from framework.losses import ALDRLoss, ClassificationLoss, TargetClassificationMimicking
from framework.objectives import Objectives
from framework.ops.bayes_refinement import bayes_refine
from framework.reduction import reduce_objectives
from modules import DomainAdaptation
from modules.domain_adaptation.cdan import CDAN
from modules.domain_adaptation.mdd import MDD
from tests.modules.domain_adaptation.small import SHAPE, TwoDomains, batch, fit, model
from tests.tiny import TinyData

HALF = ReversalSchedule(low=0.5, high=0.5)


def double(**kwargs: Any) -> DomainAdaptation:
    """Return a model in float64 whose gradient reversal is on from the start."""
    return model(**{"reversal": HALF, **kwargs}).double()


def terms_of(module: DomainAdaptation, objectives: Objectives) -> dict[str, Tensor]:
    return reduce_objectives(objectives).terms


def reached(module: DomainAdaptation, term: Tensor) -> set[str]:
    """Return the parts of the module that a term has a gradient for."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    found = {n for n, g in zip(names, gradients, strict=True) if g is not None and g.any()}
    return {".".join(name.split(".")[: 2 if name.startswith("network") else 1]) for name in found}


# ---- which parameters get what ------------------------------------------------------------------

SHARED = {"network.body", "network.bottleneck"}


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


# ---- the terms ----------------------------------------------------------------------------------


def test_classification_is_that_of_the_source_rows() -> None:
    module, rows = double(), batch(5, 4)
    objectives = module.objectives(rows)
    source = rows["domain"] == 0
    logits = objectives.predictions
    expected = F.cross_entropy(logits[source], rows["label"][source])
    torch.testing.assert_close(terms_of(module, objectives)["classification"], expected)
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
    torch.testing.assert_close(terms_of(module, objectives)["classification"], expected)


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
    weights = DomainAdaptation(num_classes=12).network.class_discriminators.weights
    assert [tuple(w.shape) for w in weights] == [(12, 256, 1024), (12, 1024, 1024), (12, 1024, 1)]


def test_the_default_alignment_is_not_shared() -> None:
    first, second = DomainAdaptation(bottleneck=8), DomainAdaptation(bottleneck=16)
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
        ({"mimicking": math.nan}, "mimicking must be at least 0"),
        ({"alignment_weight": 0.0}, "set alignment to null"),
        ({"discriminator_width": 0}, "discriminator_width must be at least 1"),
        ({"backbone_lr_scale": 0.0}, "backbone_lr_scale above 0"),
        ({"bottleneck": 0}, "bottleneck must be at least 1 or None, got 0"),
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
        (Wider, "Wider has 4 classes, but the model has 3: set model.num_classes"),
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
