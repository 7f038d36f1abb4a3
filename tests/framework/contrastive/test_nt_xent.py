import math

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss as ReferenceLoss
from torch import Tensor

from framework.contrastive import NTXentLoss
from framework.distributed.collectives import rank


def views(rows: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    first, second = torch.randn(2, rows, 5, dtype=torch.float64)
    return first.requires_grad_(), second.requires_grad_()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_pytorch_metric_learning(temperature):
    first, second = views()
    value = NTXentLoss(temperature)(first, second)
    label = torch.arange(7).repeat(2)
    reference = ReferenceLoss(temperature)(torch.cat([first, second]), label)
    # which adds the smallest normal number inside its logarithm
    assert value.item() == pytest.approx(reference.item(), rel=1e-12)
    found = torch.autograd.grad(value, [first, second])
    for mine, theirs in zip(found, torch.autograd.grad(reference, [first, second]), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_equal_views_cost_the_logarithm_of_their_number():
    same = torch.ones(4, 3)
    assert float(NTXentLoss()(same, same)) == pytest.approx(math.log(7), abs=1e-6)


def step(rows: list[slice]) -> tuple[float, Tensor, Tensor]:
    first, second = views()
    value = NTXentLoss(0.2)(first[rows[rank()]], second[rows[rank()]])
    value.backward()
    return value.item(), first.grad, second.grad


@pytest.mark.parametrize("rows", [[slice(0, 4), slice(4, 7)], [slice(0, 7), slice(0, 0)]])
def test_two_ranks_are_one_process(two_ranks, rows):
    value, *gradients = step([slice(0, 7)])
    results = two_ranks(step, rows)
    for theirs, *_ in results:
        assert theirs == pytest.approx(value, abs=1e-12)
    for view, gradient in enumerate(gradients, start=1):
        mean = (results[0][view] + results[1][view]) / 2
        torch.testing.assert_close(mean, gradient, atol=1e-12, rtol=0)


def test_no_rows_give_a_zero_with_a_gradient():
    first, second = (x[:0] for x in views())
    value = NTXentLoss()(first, second)
    value.backward()
    assert value.item() == 0.0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="temperature"):
        NTXentLoss(0.0)
