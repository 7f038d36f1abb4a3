"""Small weights, their gradients and steps, for tests of optimizers."""

from __future__ import annotations

import io

import torch
from torch import nn


def parameter(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone())


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """A matrix, a vector, a scalar and a kernel in channels_last."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(s, generator=generator) for s in ((5, 3), (7,), (), (4, 3, 2, 2))]
    tensors[3] = tensors[3].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(t.to(dtype)) for t in tensors]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for p in parameters:
        gradient = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.grad = torch.empty_like(p).copy_(gradient)  # as backward, in the parameter's layout


def take_steps(optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(first, last):
        give_gradients(parameters, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def assert_equal(a: list[nn.Parameter], b: list[nn.Parameter]) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.isfinite(x).all()
        assert torch.equal(x, y)


def save_and_load(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
