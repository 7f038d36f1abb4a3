"""Weight decay: its gradient, layers of both kinds, and the same loss on any number of ranks."""

import pytest
import torch
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.layers import convert_to_response
from framework.objectives import Objectives, reduce_objectives
from framework.self_tuning import Draws, WeightDecay


def term(effect: WeightDecay, weight: Tensor, rows: int = 4) -> Tensor:
    objectives = Objectives(index=torch.arange(rows))
    with effect.at({"weight": weight}, Draws(0, 0)):
        effect.change_objectives(objectives, {}, nn.Identity())
    return objectives.per_sample["weight_decay"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))


def test_the_gradient_is_the_weight_times_lambda() -> None:
    model, effect = network(), WeightDecay()
    effect.attach(model)
    term(effect, torch.tensor(0.02)).mean().backward()
    for layer in (model[0], model[3]):
        assert torch.allclose(layer.weight.grad, 0.02 * layer.weight, atol=1e-8)
        assert layer.bias.grad is None
    assert model[1].weight.grad is None


def test_only_layers_that_are_named_and_a_shared_weight_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    norms = [float(layer.weight.detach().square().sum()) for layer in model]
    for layers, expected in (
        ("*", norms[0] + norms[2]),
        (["1"], norms[1]),
        ("[12]", sum(norms[1:])),
    ):
        effect = WeightDecay(layers)
        effect.attach(model)
        found = term(effect, torch.tensor(0.5))
        assert found.tolist() == pytest.approx([0.25 * expected] * 4, rel=1e-6)


def test_response_layers_decay_at_the_hyperparameters_of_each_row() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    conditioning = convert_to_response(model, 2, include=["0"], gate_scale=1.0)
    effect = WeightDecay()
    effect.attach(model)
    h = torch.randn(4, 2)
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    layer = model[0]
    expected = []
    for row in range(4):
        gate = layer.weight_gate @ h[row]
        w = layer.weight + gate[:, None] * layer.weight_response
        expected.append(0.5 * weight[row] * (w.square().sum() + model[1].weight.square().sum()))
    with conditioning.at(h):
        found = term(effect, weight)
    assert torch.allclose(found, torch.stack(expected), rtol=1e-5)
    names = ["weight", "weight_response", "weight_gate"]
    parameters = [layer.get_parameter(name) for name in names]
    for one, two in zip(
        torch.autograd.grad(found.sum(), parameters),
        torch.autograd.grad(torch.stack(expected).sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)
    with conditioning.at(h[2]):
        alone = term(effect, torch.tensor(0.3))
    assert alone.tolist() == pytest.approx([float(expected[2].detach())] * 4, rel=1e-5)


def loss_and_gradient(counts: tuple[int, ...]) -> tuple[float, Tensor]:
    """The loss of all ranks and its gradient for one weight."""
    model = network().double()
    conditioning = convert_to_response(model, 1, include=["3"], gate_scale=1.0)
    model[3].weight_gate.data = torch.arange(5, dtype=torch.float64)[:, None]
    model[3].weight_response.data = torch.arange(60.0, dtype=torch.float64).view(5, 12).sin()
    effect = WeightDecay()
    effect.attach(model)
    own = torch.linspace(0, 1, 7).split(counts)[rank()]
    objectives = Objectives(index=torch.arange(len(own)))
    with effect.at({"weight": own}, Draws(0, 0)), conditioning.at(own[:, None].double()):
        effect.change_objectives(objectives, {}, model)
    total = reduce_objectives(objectives).total
    gradient = torch.autograd.grad(total, model[3].weight)[0]
    return (
        float(all_reduce_sum(total.detach())) / world_size(),
        all_reduce_sum(gradient) / world_size(),
    )


def test_ranks_have_the_loss_of_one_process(two_ranks) -> None:
    whole = loss_and_gradient((7,))
    for counts in ((4, 3), (7, 0), (0, 7)):
        for part in two_ranks(loss_and_gradient, counts):
            assert part[0] == pytest.approx(whole[0], rel=1e-12)
            assert torch.allclose(part[1], whole[1], rtol=1e-12)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="'9' matches no layer of Sequential"):
        WeightDecay("9").attach(network())
    with pytest.raises(ValueError, match="none of the layers that '1' matches has a matrix"):
        WeightDecay("1").attach(network())
