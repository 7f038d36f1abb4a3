"""Every optimizer of ``framework.optim`` as its contract tests it, and problems to step on.

A new optimizer is tested with its defaults. One that needs more, or has options worth a test, gets
a line in ``BUILD``, and one setting more of a class that has a line is ``further``.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import framework.optim
from framework.optim import (
    MFAC,
    SSO,
    ArmijoLineSearch,
    GradNormSmoothNewton,
    LionK,
    PartialSignSGD,
    PowerpropSGD,
    TargetClosure,
)
from tests.helpers.weights import save_and_load

ROWS = 8
HAS_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is not None


@dataclass(frozen=True)
class Build:
    """How the contract makes an optimizer, and what it may expect of it.

    Args:
        kind: Class.
        options: Arguments under which it is tested.
        calls: Times that a step calls its closure.
        one_lr: Whether all groups must have one learning rate.
        elsewhere: Arguments of the constructor that are kept outside the groups, being no numbers.
        further: Whether it is one more setting of a class, for ``make test-all``.
    """

    kind: Callable[..., Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    calls: int = 1
    one_lr: bool = False
    elsewhere: tuple[str, ...] = ()
    further: bool = False

    def __call__(self, params: Iterable[Any], **options: Any) -> Optimizer:
        return self.kind(params, **{**self.options, **options})

    @property
    def needs_closure(self) -> bool:
        return bool(getattr(self.kind, "needs_closure", False))

    @property
    def ways(self) -> list[bool | None]:
        """Values of ``foreach`` that the options allow."""
        if "foreach" not in self.arguments or self.options.get("fused"):
            return []
        return [None, True, False]

    @property
    def arguments(self) -> list[str]:
        names = list(inspect.signature(self.kind).parameters)
        return [n for n in names if n not in ("self", "params", *self.elsewhere)]


def lion(kappa: str, further: bool = True, **options: Any) -> Build:
    settings = {"lr": 0.05, "weight_decay": 0.1, "kappa": kappa, **options}
    return Build(LionK, settings, further=further)


PARTIAL = {"lr": 0.05, "sign_lr": 0.02, "weight_decay": 0.1}
MFAC_OPTIONS = {"lr": 0.05, "ngrads": 3, "damping": 0.1, "momentum": 0.5}
HUBER = {"kappa_kwargs": {"e": 0.2}}
BUILD: dict[str, Build] = {
    "LionK sign": lion("sign", further=False),
    "LionK lp": lion("lp", kappa_kwargs={"p": 1.5}, rms_scale=True),
    "LionK lp 2": lion("lp", further=False, kappa_kwargs={"p": 2}, scope="group"),
    "LionK threshold": lion("threshold", kappa_kwargs={"e": 0.1}),
    "LionK topk": lion("topk", kappa_kwargs={"k": 2}),
    "LionK huber": lion("huber", betas=(0.8, 0.95), **HUBER),
    "LionK square": lion("square"),
    "LionK group": lion("group"),
    "LionK nuclear": lion("nuclear"),
    **({"LionK fused": lion("huber", False, fused=True, **HUBER)} if HAS_COMPILER else {}),
    "LionK capturable": lion("sign", capturable=True),
    "PartialSignSGD": Build(PartialSignSGD, {**PARTIAL, "threshold_quantile": 0.5}),
    "PartialSignSGD threshold": Build(
        PartialSignSGD,
        {**PARTIAL, "threshold": 0.3, "momentum": 0.8, "dampening": 0.5},
        further=True,
    ),
    "PowerpropSGD": Build(PowerpropSGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    "PowerpropSGD exact": Build(
        PowerpropSGD, {"lr": 0.02, "alpha": 1.5, "momentum": 0.9, "exact": True}, further=True
    ),
    "PowerpropSGD plain": Build(PowerpropSGD, {"lr": 0.02, "alpha": 3.0}, further=True),
    "MFAC": Build(MFAC, {**MFAC_OPTIONS, "weight_decay": 0.1}),
    "MFAC decoupled": Build(
        MFAC,
        {**MFAC_OPTIONS, "weight_decay": 0.1, "decoupled": True, "warmup": "filled"},
        further=True,
    ),
    "ArmijoLineSearch": Build(ArmijoLineSearch, {"lr": 0.3, "c": 0.2, "backtracking": 0.6}),
    "SSO": Build(SSO, {"lr": 0.05, "inner_steps": 4, "schedule": "adagrad", "weight_decay": 0.1}),
    "SSO armijo": Build(
        SSO, {"inner": "armijo", "inner_steps": 3, "schedule": "inverse_sqrt"}, further=True
    ),
    "SSO adam": Build(SSO, {"inner": "adam", "inner_steps": 3, "target_lr": 0.5}, further=True),
    "SSO lbfgs": Build(SSO, {"inner": "lbfgs", "inner_steps": 3}, one_lr=True),
    "GradNormSmoothNewton": Build(GradNormSmoothNewton, {"gamma0": 0.3, "eps": 1e-8}, further=True),
    "GradNormSmoothNewton fisher": Build(
        GradNormSmoothNewton, {"curvature": "empirical_fisher", "rank": 3, "damping": 0.1}
    ),
    "GradNormSmoothNewton ggn": Build(GradNormSmoothNewton, {"curvature": "ggn", "damping": 0.1}),
    "GradNormSmoothNewton exact": Build(GradNormSmoothNewton, {"curvature": "exact"}, further=True),
}


def exported() -> list[type[Optimizer]]:
    kinds = [getattr(framework.optim, name) for name in framework.optim.__all__]
    return [k for k in kinds if isinstance(k, type) and issubclass(k, Optimizer)]


BUILT = {build.kind for build in BUILD.values()}
UNBUILT = {kind.__name__: Build(kind) for kind in exported() if kind not in BUILT}
"""Optimizers that are tested with their defaults; they may do without ``maximize``."""
BUILD |= UNBUILT


class Quadratic(TargetClosure):
    """The closure of one step: the mean over rows of (prediction - y)^2 / 2, linear in all weights.

    Rows are drawn for the step, in float64 where all weights are. ``calls`` counts the calls,
    ``given`` holds the gradients as the latest of them left them.

    Args:
        params: Weights.
        step: Number of the step.
        sign: Factor of the loss.
        rows: This rank's rows.
        used: Weights that the loss depends on; default all.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        step: int,
        sign: float = 1.0,
        rows: slice = slice(None),
        used: list[nn.Parameter] | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(step)
        double = all(p.dtype == torch.float64 for p in params)
        dtype = torch.float64 if double else torch.float32
        x = [torch.randn(ROWS, p.numel(), generator=generator).to(dtype) for p in params]
        y = torch.randn(ROWS, generator=generator).to(dtype)[rows]
        chosen = {id(p) for p in (params if used is None else used)}

        def outputs() -> Tensor:
            return sum(
                (a[rows] @ p.flatten().to(dtype))
                for a, p in zip(x, params, strict=True)
                if id(p) in chosen
            )[:, None]

        super().__init__(params, outputs, lambda z: sign * (z[:, 0] - y).square().mean() / 2)
        self.params = params
        self.calls = 0
        self.enabled = True
        self.given: list[Tensor | None] = []

    def __call__(self) -> Tensor:
        self.calls += 1
        self.enabled &= torch.is_grad_enabled()
        loss = super().__call__()
        self.given = [None if p.grad is None else p.grad.clone() for p in self.params]
        return loss


class SparseQuadratic(Quadratic):
    """The same, with sparse gradients."""

    def __call__(self) -> Tensor:
        loss = super().__call__()
        for p in self.params:
            p.grad = p.grad.to_sparse()
        return loss


def weights_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def solve(optimizer: Optimizer, first: int, last: int, **options: Any) -> None:
    """Take the steps ``first`` to ``last``, each on a quadratic of its own."""
    for step in range(first, last):
        optimizer.step(Quadratic(weights_of(optimizer), step, **options))
        optimizer.zero_grad(set_to_none=True)


def resumed(optimizer: Optimizer, fresh: Optimizer) -> Optimizer:
    """Return ``fresh`` with the weights and, by way of a file, the state of ``optimizer``."""
    with torch.no_grad():
        for p, q in zip(weights_of(fresh), weights_of(optimizer), strict=True):
            p.copy_(q)
    fresh.load_state_dict(save_and_load(optimizer.state_dict()))
    return fresh
