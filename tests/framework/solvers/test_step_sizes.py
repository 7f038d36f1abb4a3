"""Step sizes that are known before a run, and those that are not."""

from __future__ import annotations

import pytest
import torch

from framework.solvers.step_sizes import step_size


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0.1), ({"momentum": 0.9}, 1.0), ({"momentum": 0.9, "dampening": 0.5}, 0.5)],
)
def test_the_step_size_of_sgd_is_where_its_momentum_leads(options, expected):
    tensor = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD(
        [{"params": [torch.zeros(1)], "lr": 7.0}, {"params": [tensor]}], 0.1
    )
    for group in optimizer.param_groups:
        group.update(options)
    assert step_size(optimizer, tensor) == pytest.approx(expected)
    # a lasting gradient of 1 moves it by that much per step
    for _ in range(300):
        before = tensor.item()
        tensor.grad = torch.ones(1)
        optimizer.step()
    assert before - tensor.item() == pytest.approx(expected, rel=1e-2)


def test_other_step_sizes_are_unknown():
    tensor = torch.zeros(1, requires_grad=True)
    assert step_size(torch.optim.Adam([tensor]), tensor) is None
    assert step_size(torch.optim.SGD([torch.zeros(1)], lr=0.1), tensor) is None


def test_a_warmup_counts_as_what_it_leads_to():
    tensor = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([tensor], lr=0.1)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01)
    assert step_size(optimizer, tensor) == 0.1
