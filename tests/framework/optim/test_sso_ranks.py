"""SSO on two ranks takes the steps of one process, however the rows are spread."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.distributed.collectives import rank, world_size
from framework.optim import SSO, TargetClosure

ROWS = 11


def steps(first: int, inner: str, schedule: str, reduction: str) -> list[torch.Tensor]:
    """Parameters after three steps; rank 0 holds the first rows and rank 1 the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(ROWS, 4, dtype=torch.float64), torch.randint(3, (ROWS,))
    if world_size() > 1:
        own = slice(first) if rank() == 0 else slice(first, None)
        x, y = x[own], y[own]

    def loss(z: torch.Tensor) -> torch.Tensor:
        total = nn.functional.cross_entropy(z, y, reduction="sum") * world_size()
        return total / ROWS if reduction == "mean" else total

    lr = {"gd": 0.3, "armijo": 10.0, "lbfgs": 1.0}[inner] / (1 if reduction == "mean" else ROWS)
    eta = 2.0 if reduction == "mean" else 1.0
    options = {"inner_steps": 4, "schedule": schedule, "reduction": reduction}
    optimizer = SSO(model.parameters(), eta, lr=lr, inner=inner, weight_decay=0.01, **options)
    closure = TargetClosure(model.parameters(), lambda: model(x), loss)
    for _ in range(3):
        optimizer.step(closure)
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    ("first", "inner", "schedule", "reduction"),
    [
        (6, "gd", "constant", "mean"),
        (ROWS, "gd", "adagrad", "mean"),
        (2, "gd", "adagrad", "sum"),
        (6, "armijo", "inverse_sqrt", "mean"),
        (ROWS, "armijo", "constant", "mean"),
        (2, "lbfgs", "constant", "sum"),
    ],
)
def test_two_ranks_equal_one(two_ranks, first, inner, schedule, reduction):
    alone = steps(first, inner, schedule, reduction)
    for found in two_ranks(steps, first, inner, schedule, reduction):
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-12)
