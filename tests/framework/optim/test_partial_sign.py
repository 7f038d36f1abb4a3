"""PartialSignSGD: worked steps, limits, and the threshold that it measures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from framework.optim import PartialSignSGD
from tests.helpers.weights import assert_equal, give_gradients, network, parameter, save_and_load

START = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
GRADIENTS = torch.tensor([[0.2, -3.0, 0.6], [-0.1, 4.0, 0.2]], dtype=torch.float64)


def stepped(optimizer: torch.optim.Optimizer, x: nn.Parameter, gradients: torch.Tensor) -> None:
    for gradient in gradients:
        x.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("foreach", [None, True, False])
def test_worked_steps(foreach):
    x = parameter(START)
    optimizer = PartialSignSGD([x], lr=0.1, sign_lr=0.01, threshold=0.5, foreach=foreach)
    stepped(optimizer, x, GRADIENTS[:1])
    assert x.tolist() == pytest.approx([0.98, -0.99, 0.49], abs=1e-12)
    stepped(optimizer, x, GRADIENTS[1:])
    assert x.tolist() == pytest.approx([0.975789, -1.0, 0.451053], abs=5e-7)
    debiased = optimizer.state[x]["momentum_buffer"] / (1 - 0.9**2)
    assert debiased.tolist() == pytest.approx([0.042105, 0.684211, 0.389474], abs=5e-7)


def test_without_bound_it_is_sgd_with_a_debiased_mean():
    x, y = parameter(START), START.clone()
    optimizer = PartialSignSGD([x], lr=0.1, threshold=math.inf, weight_decay=0.3)
    mean = torch.zeros(3, dtype=torch.float64)
    for step in range(1, 8):
        x.grad = GRADIENTS[step % 2]
        optimizer.step()
        mean = 0.9 * mean + 0.1 * (GRADIENTS[step % 2] + 0.3 * y)
        y = y - 0.1 * mean / (1 - 0.9**step)
    torch.testing.assert_close(x.detach(), y, rtol=1e-12, atol=0)


def test_with_a_bound_of_0_it_is_sign_sgd_with_momentum():
    x, y = parameter(START), START.clone()
    optimizer = PartialSignSGD([x], lr=1e3, sign_lr=0.01, threshold=0.0)
    mean = torch.zeros(3, dtype=torch.float64)
    for step in range(8):
        x.grad = GRADIENTS[step % 2]
        optimizer.step()
        mean = 0.9 * mean + 0.1 * GRADIENTS[step % 2]
        y = y - 0.01 * mean.sign()
    torch.testing.assert_close(x.detach(), y, rtol=1e-12, atol=0)


def test_large_coordinates_do_not_feel_the_scale_of_the_gradient():
    x, y = parameter(START), parameter(START)
    for weight, scale in ((x, 1.0), (y, 1024.0)):
        optimizer = PartialSignSGD([weight], sign_lr=0.01, threshold=1e-3)
        stepped(optimizer, weight, scale * GRADIENTS)
    assert torch.equal(x, y)


def test_momentum_and_dampening_of_their_own():
    x = parameter(START)
    optimizer = PartialSignSGD([x], lr=0.1, momentum=0.5, dampening=0.0, threshold=math.inf)
    stepped(optimizer, x, GRADIENTS)
    expected = START - 0.1 * (GRADIENTS[0] + 0.5 * GRADIENTS[0] + GRADIENTS[1])
    torch.testing.assert_close(x.detach(), expected, rtol=1e-12, atol=0)


# ---- the threshold -------------------------------------------------------------------------------


def two_groups(**options: float) -> tuple[list[nn.Parameter], PartialSignSGD]:
    own = [nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2))]
    optimizer = PartialSignSGD([{"params": own[:1]}, {"params": own[1:], "lr": 0.2}], **options)
    own[0].grad = torch.tensor([0.0, 0.0, -1.0, 2.0, -3.0, 4.0, 5.0, 6.0])
    own[1].grad = torch.tensor([-7.0, 8.0, 9.0, 10.0])
    return own, optimizer


def test_the_threshold_is_the_quantile_over_all_groups_at_the_first_step():
    own, optimizer = two_groups(threshold_quantile=0.3)
    optimizer.step()
    # of ten entries that are not 0, three are at most 3
    assert [g["measured_threshold"] for g in optimizer.param_groups] == [3.0, 3.0]
    for p in own[:2]:
        p.grad = 100 * p.grad
    optimizer.step()
    assert [g["measured_threshold"] for g in optimizer.param_groups] == [3.0, 3.0]


def test_the_threshold_is_resumed_and_shared_with_groups_added_later():
    _, optimizer = two_groups(threshold_quantile=0.3)
    optimizer.step()
    other, restored = two_groups(threshold_quantile=0.3)
    restored.load_state_dict(save_and_load(optimizer.state_dict()))
    other[0].grad = 100 * other[0].grad
    late = nn.Parameter(torch.zeros(1))
    late.grad = torch.ones(1)
    restored.add_param_group({"params": [late]})
    restored.step()
    assert [g["measured_threshold"] for g in restored.param_groups] == [3.0, 3.0, 3.0]
    assert late.item() == pytest.approx(-0.1)


def test_a_threshold_that_is_given_is_that_of_its_group():
    own, optimizer = two_groups(threshold_quantile=0.3)
    optimizer.param_groups[1]["threshold"] = 8.0
    optimizer.step()
    assert [g["measured_threshold"] for g in optimizer.param_groups] == [3.0, None]
    assert own[1].tolist() == pytest.approx([1.4, -1.6, -1e-3, -1e-3])


@pytest.mark.parametrize("size", [0.0, 1e-14])
def test_a_vanishing_threshold_is_measured_anew(size):
    own, optimizer = two_groups()
    gradients = [own[0].grad, own[1].grad]
    own[0].grad, own[1].grad = torch.full((8,), size), torch.full((4,), size)
    optimizer.step()
    assert optimizer.param_groups[0]["measured_threshold"] == pytest.approx(size)
    own[0].grad, own[1].grad = gradients
    optimizer.step()
    assert optimizer.param_groups[0]["measured_threshold"] == 1.0


def test_entries_are_coupled_where_the_threshold_is_measured():
    own = network()
    assert PartialSignSGD(own).couples_entries
    assert not PartialSignSGD(own, threshold=0.1).couples_entries


def sharded_steps() -> tuple[float, float, float]:
    """Return the thresholds of whole and sharded weights, and how far the steps differ."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole, gradient = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    one, plain, other = parameter(whole), parameter(whole[0]), parameter(whole[0])
    shards = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
    one.grad, shards.grad = gradient, distribute_tensor(gradient, mesh, [Shard(0)])
    plain.grad, other.grad = gradient[1].clone(), gradient[1].clone()
    thresholds = []
    for group in ([one, plain], [shards, other]):
        optimizer = PartialSignSGD(group, threshold_quantile=0.5)
        optimizer.step()
        thresholds.append(optimizer.param_groups[0]["measured_threshold"])
    difference = (shards.full_tensor() - one).detach().abs().max()
    return thresholds[0], thresholds[1], float(difference)


def test_shards_have_the_threshold_and_the_step_of_the_whole(two_ranks):
    results = two_ranks(sharded_steps)
    assert results[0] == results[1]
    whole, sharded, difference = results[0]
    assert whole == sharded > 0.1
    assert difference < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign_lr": -1e-3}, "sign_lr must be at least 0, got -0.001"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"dampening": 1.0}, r"dampening must lie in \[0, 1\), got 1.0"),
        ({"threshold": -1.0}, "threshold must be at least 0, got -1.0"),
        ({"threshold": math.nan}, "threshold must be finite and at least 0, got nan"),
        ({"threshold_quantile": 1.1}, r"threshold_quantile must lie in \[0, 1\], got 1.1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PartialSignSGD(network(), **options)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_shows_in_the_weight(wrong):
    x = nn.Parameter(torch.ones(3))
    optimizer = PartialSignSGD([x], threshold=0.5)
    x.grad = torch.tensor([0.1, wrong, 1.0])
    optimizer.step()
    assert x.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_step_is_that_of_plain_operations(dtype):
    own = network(dtype=dtype)
    means = [torch.zeros_like(p, dtype=torch.float32) for p in own]
    expected = [p.detach().clone() for p in own]
    optimizer = PartialSignSGD(own, lr=0.1, sign_lr=0.01, threshold=0.7)
    for step in range(4):
        give_gradients(own, step)
        for p, mean, x in zip(own, means, expected, strict=True):
            mean.lerp_(p.grad.float(), 1 - 0.9)
            bias = 1 - 0.9 ** (step + 1)
            large = mean.abs() > 0.7 * bias
            x.add_(mean.where(~large, 0), alpha=-0.1 / bias).add_(mean.sign() * large, alpha=-0.01)
        optimizer.step()
    assert_equal(own, expected)
