"""A step whose shared gradient is combined: exact and through the features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from framework.distributed.collectives import rank, world_size
from framework.gradients import Combination, GradientCombiner, GradientFacts, WeightedSum
from framework.gradients.combined_step import CombinedStep
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


INPUT, TARGET, GUIDE = draw(7, 4, seed=0), draw(7, 2, seed=1), draw(5, 4, seed=2)


class Net(nn.Module):
    """A shared body, two heads, and what one of the terms alone sees."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3, dtype=torch.float64)
        self.first = nn.Linear(3, 2, dtype=torch.float64)
        self.second = nn.Linear(3, 1, dtype=torch.float64)
        for number, parameter in enumerate(self.parameters()):
            parameter.data = 0.5 * draw(*parameter.shape, seed=seed + number)

    def objectives(self, inputs: Tensor, targets: Tensor, leak: float = 0.0) -> Objectives:
        features = self.body(inputs).tanh()
        error = (self.first(features) - targets).square().sum(1)
        size = self.second(features.square()).squeeze(1).abs()
        head = self.second(features.detach()).squeeze(1).square()
        if leak:
            size = size + leak * self.body(inputs).sum(1)
        return Objectives(
            per_sample={"error": error, "size": size, "head": head},
            weights={"size": 0.3, "off": 0.0},
            features=features,
        )

    def guide(self, inputs: Tensor) -> Objectives:
        features = self.body(inputs).tanh()
        spread = self.first(features).square().sum(1)
        return Objectives(per_sample={"spread": spread}, features=features)


class Fixed(GradientCombiner):
    """Notes the facts and gives fixed weights."""

    guided = True

    def __init__(self, weights: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = torch.tensor(weights, dtype=torch.float64)
        self.facts: list[GradientFacts] = []

    def combination(self, facts: GradientFacts) -> Combination:
        self.facts.append(facts)
        return Combination(self.given, 2.0, {"mode": 1.0})


def call(
    combined: CombinedStep,
    objectives: Objectives,
    parameters: Any,
    shared: Any,
    number: int = 0,
    guide: Any = None,
) -> Tensor:
    """Call the step as a module does."""
    return combined(
        reduce_objectives(objectives).terms,
        parameters,
        shared,
        weights=objectives.weights,
        features=objectives.features,
        step=number,
        guide=guide,
    )


def held_out(net: Net) -> tuple[Tensor, Tensor | None]:
    objectives = net.guide(own(GUIDE))
    return reduce_objectives(objectives).total, objectives.features


def own(rows: Tensor) -> Tensor:
    return rows if world_size() == 1 else (rows[:2], rows[2:])[rank()]


def step(combiner: GradientCombiner, number: int = 0, net: Net | None = None, **kwargs: Any) -> Any:
    """Take one step, and return gradients averaged over the ranks, the combined step, the net."""
    net = Net() if net is None else net
    combined = kwargs.pop("combined", None) or CombinedStep(combiner)
    objectives = net.objectives(own(INPUT), own(TARGET), **kwargs)
    value = call(
        combined,
        objectives,
        list(net.parameters()),
        list(net.body.parameters()),
        number,
        lambda: held_out(net),
    )
    value.backward()
    gradients = {}
    for name, parameter in net.named_parameters():
        gradients[name] = parameter.grad.clone()
        if world_size() > 1:
            torch.distributed.all_reduce(gradients[name])
            gradients[name] /= world_size()
    return gradients, combined, float(value.detach())


def separate() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the gradients of the weighted terms (2, P) and the guide's, and all plain ones."""
    net = Net()
    objectives = net.objectives(INPUT, TARGET)
    body = list(net.body.parameters())
    terms = [objectives.per_sample["error"].mean(), 0.3 * objectives.per_sample["size"].mean()]
    flat = [
        torch.cat([g.flatten() for g in torch.autograd.grad(t, body, retain_graph=True)])
        for t in terms
    ]
    (sum(terms) + objectives.per_sample["head"].mean()).backward()
    plain = {name: p.grad.clone() for name, p in net.named_parameters()}
    guide = torch.autograd.grad(net.guide(GUIDE).per_sample["spread"].mean(), body)
    return torch.stack(flat), torch.cat([g.flatten() for g in guide]), plain


def body_of(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients["body.weight"].flatten(), gradients["body.bias"]])


def test_exact_facts_are_those_of_the_shared_parameters():
    combiner = Fixed([0.25, 0.75])
    gradients, combined, _ = step(combiner)
    rows, guide, plain = separate()
    (facts,) = combiner.facts
    # the head's term reaches no shared parameter and is no objective
    assert facts.names == ("error", "size")
    torch.testing.assert_close(facts.gram, rows @ rows.T)
    torch.testing.assert_close(facts.guide, rows @ guide)
    plain_terms = Net().objectives(INPUT, TARGET).per_sample
    means = [float(plain_terms[name].mean().detach()) for name in ("error", "size")]
    assert facts.losses.tolist() == pytest.approx([means[0], 0.3 * means[1]])
    assert facts.guide_loss == pytest.approx(
        float(Net().guide(GUIDE).per_sample["spread"].mean().detach())
    )
    torch.testing.assert_close(body_of(gradients), 2 * (0.25 * rows[0] + 0.75 * rows[1]))
    for name in plain:
        if not name.startswith("body"):
            torch.testing.assert_close(gradients[name], plain[name])
    assert combined.logs["preference/weight/error"] == 0.25
    assert combined.logs["preference/gram/error/size"] == float(facts.gram[0, 1])
    cosine = facts.gram[0, 1] / (facts.gram[0, 0] * facts.gram[1, 1]).sqrt()
    assert combined.logs["preference/cosine/error/size"] == pytest.approx(float(cosine))
    assert combined.logs["preference/mode"] == 1.0


@pytest.mark.parametrize("scope", ["exact", "representation"])
def test_ones_are_the_plain_gradient(scope):
    gradients, _, value = step(WeightedSum(scope=scope))
    _, _, plain = separate()
    for name, expected in plain.items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-12, atol=1e-14)
    total = reduce_objectives(Net().objectives(INPUT, TARGET)).total
    assert value == pytest.approx(float(total.detach()))


def test_the_representation_gives_the_same_gradient_for_the_same_weights():
    exact, _, _ = step(Fixed([0.25, 0.75]))
    there, _, _ = step(combiner := Fixed([0.25, 0.75], scope="representation"))
    for name, expected in exact.items():
        torch.testing.assert_close(there[name], expected, rtol=1e-12, atol=1e-14)
    net = Net()
    objectives = net.objectives(INPUT, TARGET)
    terms = [objectives.per_sample["error"].mean(), 0.3 * objectives.per_sample["size"].mean()]
    rows = [
        torch.autograd.grad(t, objectives.features, retain_graph=True)[0].flatten() for t in terms
    ]
    rows = torch.stack(rows)
    torch.testing.assert_close(combiner.facts[0].gram, rows @ rows.T)


def one_step(scope: Any) -> tuple[dict[str, Tensor], GradientFacts]:
    gradients, _, _ = step(combiner := Fixed([0.25, 0.75], scope=scope))
    return gradients, combiner.facts[0]


@pytest.mark.parametrize("scope", ["exact", "representation"])
def test_two_ranks_take_the_step_of_one(scope, two_ranks):
    gradients, facts = one_step(scope)
    for found, there in two_ranks(one_step, scope):
        for name, expected in gradients.items():
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12)
        for name in ("gram", "guide", "losses"):
            torch.testing.assert_close(
                getattr(there, name), getattr(facts, name), rtol=0, atol=1e-12
            )


def test_terms_that_reach_the_body_by_another_way_are_refused():
    step(Fixed([0.5, 0.5]), leak=0.1)
    with pytest.raises(IncompatibleError, match="use scope='exact'"):
        step(Fixed([0.5, 0.5], scope="representation"), leak=0.1)


def test_frozen_parameters_are_left_alone():
    body, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    body.requires_grad_(False)
    output = head(body(torch.ones(5, 3)))
    losses = {"first": output[:, 0].square().mean(), "second": output[:, 1].square().mean()}
    parameters = [*body.parameters(), *head.parameters()]
    CombinedStep(WeightedSum())(losses, parameters).backward()
    assert all(parameter.grad is None for parameter in body.parameters())
    plain = torch.autograd.grad(sum(losses.values()), [*head.parameters()])
    for parameter, expected in zip(head.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_between_two_decisions_the_latest_weights_stay():
    combiner = Fixed([0.25, 0.75], every_n_steps=3)
    _, combined, _ = step(combiner, 3)
    combiner.given = torch.tensor([1.0, 0.0], dtype=torch.float64)
    rows, _, plain = separate()
    gradients, _, _ = step(combiner, 4, combined=combined)
    assert len(combiner.facts) == 1
    torch.testing.assert_close(body_of(gradients), 2 * (0.25 * rows[0] + 0.75 * rows[1]))
    torch.testing.assert_close(gradients["second.weight"], plain["second.weight"])
    # a run that is resumed between two decisions goes on with them
    resumed = CombinedStep(combiner)
    resumed.load_state_dict(combined.state_dict())
    again, _, _ = step(combiner, 5, combined=resumed)
    assert all(torch.equal(again[name], gradients[name]) for name in gradients)
    step(combiner, 6, combined=combined)
    assert len(combiner.facts) == 2


def test_one_objective_is_plain_training():
    def weights(combiner: GradientCombiner | None) -> dict[str, Tensor]:
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for number in range(5):
            objectives = net.objectives(INPUT, TARGET)
            objectives.per_sample.pop("size")
            objectives.per_sample.pop("head")
            reduced = reduce_objectives(objectives)
            value = reduced.total
            if combiner is not None:
                parameters = list(net.parameters())
                value = call(CombinedStep(combiner), objectives, parameters, parameters, number)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return {name: p.detach() for name, p in net.named_parameters()}

    plain, combined = weights(None), weights(WeightedSum())
    for name, value in plain.items():
        torch.testing.assert_close(combined[name], value)


def test_a_term_of_weight_zero_and_one_that_does_not_pull_are_no_objectives():
    net = Net()
    objectives = net.objectives(INPUT, TARGET)
    objectives.weights = {"error": 0.0, "size": 1.0}
    combiner = Fixed([1.0])
    value = call(
        CombinedStep(combiner),
        objectives,
        list(net.parameters()),
        list(net.body.parameters()),
        0,
    )
    assert combiner.facts[0].names == ("size",)
    value.backward()
    # in the graph, but without a pull, as in plain training
    assert not net.first.weight.grad.any()


def test_what_is_not_finite_leaves_the_plain_sum_to_be_reported():
    net = Net()
    objectives = net.objectives(INPUT, TARGET)
    objectives.per_sample["size"] = objectives.per_sample["size"] * float("nan")
    combiner = Fixed([0.5, 0.5])
    combined = CombinedStep(combiner)
    value = call(
        combined,
        objectives,
        list(net.parameters()),
        list(net.body.parameters()),
        0,
    )
    assert combiner.facts == []
    assert combined.logs == {"preference/finite": 0.0}
    assert value.isnan()


def test_a_term_that_joins_is_decided_anew_and_checked_anew():
    net = Net()
    combined = CombinedStep(combiner := Fixed([1.0], scope="representation", every_n_steps=3))

    def take(number: int, leak: float, drop: bool) -> None:
        objectives = net.objectives(INPUT, TARGET, leak)
        if drop:
            objectives.per_sample.pop("size")
            combiner.given = torch.ones(1, dtype=torch.float64)
        else:
            combiner.given = torch.full((2,), 0.5, dtype=torch.float64)
        parameters, shared = list(net.parameters()), list(net.body.parameters())
        call(combined, objectives, parameters, shared, number)

    take(3, leak=0.01, drop=True)
    take(4, leak=0.0, drop=True)
    assert len(combiner.facts) == 1
    with pytest.raises(IncompatibleError, match="use scope='exact'"):
        take(5, leak=0.01, drop=False)
    take(5, leak=0.0, drop=False)
    assert combiner.facts[-1].names == ("error", "size")


def test_a_step_that_is_evaluated_again_keeps_its_weights():
    combiner = Fixed([0.25, 0.75])
    _, combined, _ = step(combiner, 7)
    step(combiner, 7, combined=combined)
    assert len(combiner.facts) == 1
    step(combiner, 8, combined=combined)
    assert len(combiner.facts) == 2


def test_the_logs_are_those_of_the_latest_decision():
    combiner = Fixed([0.25, 0.75], every_n_steps=2)
    _, combined, _ = step(combiner, 2)
    logs = dict(combined.logs)
    assert logs["preference/factor/size"] == 1.5
    step(combiner, 3, combined=combined)
    assert combined.logs == logs


def test_autocast_does_not_round_what_is_combined():
    net, combined = Net().float(), CombinedStep(Fixed([0.3, 0.7]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objectives = net.objectives(INPUT.float(), TARGET.float())
        reduced = reduce_objectives(objectives)
        shared = list(net.body.parameters())
        value = combined(
            reduced.terms, net.parameters(), shared, weights=objectives.weights, step=0
        )
    factors = {"error": 2 * 0.3, "size": 2 * 0.7 * 0.3}
    rows = [torch.autograd.grad(reduced.terms[n], shared, retain_graph=True) for n in factors]
    value.backward()
    for parameter, *parts in zip(shared, *rows, strict=True):
        expected = sum(f * part for f, part in zip(factors.values(), parts, strict=True))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=1e-8)
        assert not torch.equal(parameter.grad.bfloat16().float(), parameter.grad)


def reached_by_one_rank() -> Tensor:
    """Return the gradient of a parameter that only the last row reaches, averaged over ranks."""
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    branch = nn.Parameter(torch.ones((), dtype=torch.float64))
    rows = own(INPUT[:, :2])
    value = (rows @ weight).square()
    if world_size() == 1 or rank() == 1:
        value = torch.cat([value[:-1], value[-1:] * branch])
    objectives = Objectives(per_sample={"a": value, "b": (rows @ weight).abs()})
    total = call(CombinedStep(WeightedSum()), objectives, [weight, branch], [weight, branch])
    total.backward()
    if world_size() > 1:
        torch.distributed.all_reduce(branch.grad)
        branch.grad /= world_size()
    return branch.grad


def test_a_parameter_that_one_rank_reaches_has_its_whole_gradient(two_ranks):
    expected = reached_by_one_rank()
    for found in two_ranks(reached_by_one_rank):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_parameter_that_no_term_reaches_has_no_gradient():
    idle = nn.Parameter(torch.ones(2))
    weight = nn.Parameter(torch.ones(2))
    value = (INPUT[:, :2].float() @ weight).square()
    objectives = Objectives(per_sample={"a": value, "b": value.abs().sqrt()})
    both = [weight, idle]
    call(CombinedStep(WeightedSum()), objectives, both, both).backward()
    assert weight.grad is not None
    assert idle.grad is None


def test_what_would_be_trained_wrongly_is_refused():
    def take(value: Tensor, parameters: list[nn.Parameter], **kwargs: Any) -> None:
        objectives = Objectives(per_sample={"a": value, "b": value.square()}, **kwargs)
        call(CombinedStep(WeightedSum()), objectives, parameters, parameters)

    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
    learned = nn.Parameter(torch.ones((), dtype=torch.float64))
    with pytest.raises(IncompatibleError, match="the weight of 'b' cannot be learned"):
        take(INPUT @ weight, [weight], weights={"b": learned.exp()})
    complex_one = nn.Parameter(torch.ones(4, dtype=torch.complex128))
    with pytest.raises(IncompatibleError, match="a parameter is complex"):
        take((INPUT * complex_one).abs().sum(1), [complex_one])

    def block(x: Tensor) -> Tensor:
        return x @ weight

    inputs = INPUT.clone().requires_grad_()
    hidden = checkpoint(block, inputs, use_reentrant=True)
    with pytest.raises(IncompatibleError, match="use_reentrant=False only"):
        take(hidden, [weight])
    take(checkpoint(block, inputs, use_reentrant=False), [weight])


def test_plain_losses_of_a_loop_of_ones_own():
    x = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    combined = CombinedStep(combiner := Fixed([0.5, 0.5], every_n_steps=2))
    for number in range(3):
        x.grad = None
        losses = {"a": x[0] ** 2, "b": 3 * x[1]}
        value = combined(losses, [x], guide=lambda: x.sum())
        value.backward()
        # without a number of steps given, every call is one
        assert len(combiner.facts) == 1 + number // 2
        assert float(value.detach()) == 7
        torch.testing.assert_close(x.grad, torch.tensor([2.0, 3.0], dtype=torch.float64))
    assert [facts.step for facts in combiner.facts] == [0, 2]
    assert combiner.facts[0].guide_loss == 3
    torch.testing.assert_close(
        combiner.facts[0].guide, torch.tensor([2.0, 3.0], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([torch.ones(())], "losses must be a mapping of names to scalar losses, got a list"),
        ({}, "losses must be a mapping of names to scalar losses, got none"),
        ({"a": torch.ones(3)}, r"The loss 'a' must be a scalar, got the shape \(3,\): reduce it"),
        ({"a": 1.0}, "The loss 'a' must be a tensor, got a float"),
    ],
)
def test_losses_that_are_no_named_scalars_are_refused(losses, words):
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=words):
        CombinedStep(WeightedSum())(losses, [weight])
