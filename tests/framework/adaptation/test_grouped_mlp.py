"""A grouped perceptron is that many perceptrons of torch."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.adaptation import GroupedMLP
from framework.distributed.collectives import all_reduce_sum, rank
from framework.layers import SyncBatchNorm, convert_sync_batchnorm

GROUPS, INPUTS, WIDTHS = 3, 5, (7, 4)


def grouped(**kwargs: Any) -> GroupedMLP:
    torch.manual_seed(0)
    return GroupedMLP(GROUPS, INPUTS, **{"widths": WIDTHS, **kwargs}).double()


def perceptrons(module: GroupedMLP) -> list[nn.Sequential]:
    """Return the groups as modules of torch, with the same weights and statistics."""
    made = []
    for group in range(module.num_groups):
        layers: list[nn.Module] = []
        sizes = [module.num_inputs, *(weight.shape[2] for weight in module.weights)]
        for place, (a, b) in enumerate(pairwise(sizes)):
            last = place == len(sizes) - 2
            linear = nn.Linear(a, b, bias=last).double()
            linear.weight.data = module.weights[place][group].T.clone()
            layers.append(linear)
            if last:
                linear.bias.data = module.bias[group : group + 1].clone()
                continue
            norm = nn.BatchNorm1d(b).double()
            own = slice(group * b, (group + 1) * b)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).data = getattr(module.norms[place], name)[own].clone()
            layers += [norm, nn.ReLU()]
        made.append(nn.Sequential(*layers))
    return made


def batch(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, INPUTS, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("widths", [WIDTHS, (6,), ()])
def test_it_equals_separate_perceptrons(widths) -> None:
    module = grouped(widths=widths)
    others = perceptrons(module)
    for seed in range(2):  # also with the running statistics that the first batch leaves
        x = batch(6, seed)
        found = module(x)
        expected = torch.cat([other(x) for other in others], dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.arange(1.0, 1 + GROUPS, dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for group, other in enumerate(others):
        linears = [layer for layer in other if isinstance(layer, nn.Linear)]
        for ours, theirs in zip(module.weights, linears, strict=True):
            torch.testing.assert_close(ours.grad[group].T, theirs.weight.grad)
        torch.testing.assert_close(module.bias.grad[group], linears[-1].bias.grad[0])
    module.eval()
    expected = torch.cat([other.eval()(x) for other in others], dim=1)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_everything_is_in_the_state_dict() -> None:
    module = grouped()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {
        "bias": (3,),
        "weights.0": (3, 5, 7),
        "weights.1": (3, 7, 4),
        "weights.2": (3, 4, 1),
        **{f"norms.0.{name}": (21,) for name in ("weight", "bias", "running_mean", "running_var")},
        **{f"norms.1.{name}": (12,) for name in ("weight", "bias", "running_mean", "running_var")},
        "norms.0.num_batches_tracked": (),
        "norms.1.num_batches_tracked": (),
    }
    module(batch(6, 0))
    other = GroupedMLP(GROUPS, INPUTS, WIDTHS).double()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.eval()(batch(2, 1)), module.eval()(batch(2, 1)))
    # and all of the rest are parameters that are trained
    assert {name for name, _ in module.named_parameters()} == {
        name for name in shapes if "running" not in name and "num_batches" not in name
    }


def test_weights_are_drawn_as_those_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    module = GroupedMLP(40, 25, (16,))
    first, second = (weight.detach() for weight in module.weights)
    for values, inputs in ((first, 25), (second, 16), (module.bias.detach(), 16)):
        bound = inputs**-0.5
        assert 0.9 * bound < float(values.abs().max()) <= bound
        # of a uniform distribution
        assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.15)


def step_on_rank(module: GroupedMLP, counts: list[int]) -> tuple[Tensor, list[Tensor]]:
    convert_sync_batchnorm(module)
    out = module(batch(sum(counts), 0).split(counts)[rank()])
    out.square().sum().backward()
    return out.detach(), [all_reduce_sum(p.grad) for p in module.parameters()]


@pytest.mark.parametrize("counts", [[4, 2], [6, 0]])
def test_two_ranks_are_one_process(counts, two_ranks) -> None:
    module = grouped()
    assert isinstance(convert_sync_batchnorm(copy.deepcopy(module)).norms[0], SyncBatchNorm)
    expected, gradients = step_on_rank(copy.deepcopy(module), [6])
    zero, one = two_ranks(step_on_rank, module, counts)
    torch.testing.assert_close(torch.cat([zero[0], one[0]]), expected, rtol=1e-11, atol=1e-12)
    for found, whole in zip(zero[1], gradients, strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-12)


def test_sizes_and_inputs_that_do_not_fit_are_refused() -> None:
    for sizes in ((0, 5, (7,)), (3, 0, (7,)), (3, 5, (7, 0))):
        with pytest.raises(ValueError, match="must be at least 1"):
            GroupedMLP(*sizes)
    for shape in ((2, 4), (2, 5, 1)):
        with pytest.raises(ValueError, match=r"takes \(B, 5\), got"):
            grouped()(torch.zeros(shape))
