"""SGD that moves a weight the more the larger it is, as training powers of weights does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from framework.optim.blocks import Triple, in_lists
from framework.optim.momentum_optimizer import (
    MomentumOptimizer,
    penalized_gradient,
    real_view,
    state_dtype,
)
from framework.utilities.checks import check_at_least, check_interval


class PowerpropSGD(MomentumOptimizer):
    """SGD preconditioned by ``alpha**2 |w|**(2 - 2 / alpha)``, which keeps small weights small.

    That is the gradient flow of a parameter ``phi`` with ``w = phi |phi|**(alpha - 1)``, seen from
    the weights: the network needs no change, and alpha = 1 is ``torch.optim.SGD``. Weights gather
    near 0, from where pruning takes them at little loss. A weight that is exactly 0 stays 0, so
    biases and norms belong into a group with ``alpha=1``.

    Papers: Schwarz et al., Powerpropagation: A sparsity inducing weight reparameterisation, NeurIPS
    2021, arXiv:2110.00296; as an optimizer: Pascanu et al., Optimizers Qualitatively Alter
    Solutions And We Should Leverage This, arXiv:2507.12224. The papers train phi, as
    ``exact=True`` does.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        alpha: Power of the reparametrization, at least 1.
        momentum: Decay of the sum of gradients that is stepped along.
        weight_decay: Coefficient of the L2 penalty of the weights, which is part of the gradient as
            in ``torch.optim.SGD``.
        exact: Whether to step phi itself, with its own momentum, rather than along its flow.
        maximize: Whether to ascend rather than descend.
        foreach: Way of working: None takes cache-sized blocks on a CPU and whole lists on a GPU;
            True takes lists everywhere, False one tensor after the other. The results are the same.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: sparse gradients.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.25, -4.0]))
        >>> optimizer = PowerpropSGD([weight], lr=0.1, alpha=2.0)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.detach()
        tensor([ 0.1500, -5.6000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        alpha: float = 2.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        exact: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "exact": exact,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    descended = staticmethod(penalized_gradient)

    def check(self, options: dict[str, Any]) -> None:
        """Refuse options that are out of range."""
        check_at_least(0, lr=float(options["lr"]), weight_decay=options["weight_decay"])
        check_at_least(1, alpha=options["alpha"])
        check_interval("[0, 1)", momentum=options["momentum"])

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Move the parameters of a group, all of which have a gradient."""
        move = _move_powers if group["exact"] else _move
        triples: list[Triple] = [self.triple(p, group) for p in parameters]
        for weights, gradients, momenta in in_lists(triples, group["foreach"]):
            move(group, weights, gradients, momenta)

    def triple(self, parameter: Tensor, group: dict[str, Any]) -> Triple:
        """Return weight, gradient and momentum, which is the gradient where there is no other."""
        if group["momentum"]:
            return super().triple(parameter, group)
        gradient = real_view(penalized_gradient(parameter, group).to(state_dtype(parameter)))
        return real_view(parameter), gradient, gradient


def _move(
    group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], momenta: list[Tensor]
) -> None:
    """Step along the preconditioned momentum."""
    alpha, lr = group["alpha"], float(group["lr"])
    if group["momentum"]:
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
    if alpha == 1:
        torch._foreach_add_(weights, momenta, alpha=-lr)
        return
    directions = _sizes(weights, momenta[0].dtype)
    torch._foreach_pow_(directions, 2 - 2 / alpha)
    torch._foreach_mul_(directions, momenta)
    torch._foreach_add_(weights, directions, alpha=-lr * alpha**2)


def _move_powers(
    group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], momenta: list[Tensor]
) -> None:
    """Step phi, from which the weights follow."""
    alpha, lr = group["alpha"], float(group["lr"])
    sizes = _sizes(weights, momenta[0].dtype)
    slopes = torch._foreach_pow(sizes, 1 - 1 / alpha)
    torch._foreach_mul_(slopes, alpha)
    torch._foreach_mul_(slopes, gradients)
    if group["momentum"]:
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, slopes)
    torch._foreach_pow_(sizes, 1 / alpha)
    torch._foreach_mul_(sizes, torch._foreach_sign(weights))
    torch._foreach_add_(sizes, momenta if group["momentum"] else slopes, alpha=-lr)
    signs = torch._foreach_sign(sizes)
    torch._foreach_abs_(sizes)
    torch._foreach_pow_(sizes, alpha)
    torch._foreach_mul_(sizes, signs)
    torch._foreach_copy_(weights, sizes)


def _sizes(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return list(torch._foreach_abs([w.to(dtype) for w in weights]))
