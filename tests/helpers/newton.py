"""Functions of two variables, and their closures, for optimizers that look into a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from framework.optim import GradNormSmoothNewton, TargetClosure

Function = Callable[[Tensor], Tensor]


def start(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def rosenbrock(z: Tensor) -> Tensor:
    return 100 * (z[1] - z[0] ** 2) ** 2 + (1 - z[0]) ** 2


def bowl(z: Tensor) -> Tensor:
    return 0.5 * (z[0] ** 2 + 10 * z[1] ** 2)


def closure_of(x: nn.Parameter, f: Function) -> TargetClosure:
    return TargetClosure([x], lambda: x, f)


def plain(x: nn.Parameter, f: Function, calls: list[Tensor] | None = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        x.grad = None
        loss = f(x)
        loss.backward()
        if calls is not None:
            calls.append(x.detach().clone())
        return loss

    return closure


def search_of(optimizer: GradNormSmoothNewton) -> dict[str, Any]:
    return dict(optimizer.state)["search"]  # type: ignore[index]
