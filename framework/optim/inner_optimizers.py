"""The optimizers that minimize SSO's surrogate within a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, Optimizer

from framework.optim.armijo import ArmijoLineSearch
from framework.optim.target_surrogate import TargetSurrogate

INNER: dict[str, type[Optimizer]] = {
    "gd": SGD,
    "armijo": ArmijoLineSearch,
    "adam": Adam,
    "lbfgs": LBFGS,
}


def minimize(surrogate: TargetSurrogate, groups: Sequence[dict[str, Any]], factor: float) -> None:
    """Take up to ``inner_steps`` steps of an inner optimizer.

    Args:
        surrogate: What is minimized.
        groups: Groups of ``SSO`` with the parameters that move.
        factor: Factor of the learning rates of ``gd`` and ``armijo``.
    """
    options = groups[0]
    inner = make_inner(options["inner"], groups, options, factor)
    if isinstance(inner, LBFGS):
        inner.step(surrogate)
        return
    for step in range(options["inner_steps"]):
        value = surrogate()
        if step and options["tolerance"] and _norm(surrogate.parameters) <= options["tolerance"]:
            return
        if not isinstance(inner, ArmijoLineSearch):
            inner.step()
            continue
        inner.step(partial(_same, value), loss=surrogate.value)
        if inner.failed:
            return


def make_inner(
    name: str, groups: Sequence[dict[str, Any]], options: dict[str, Any], factor: float = 1.0
) -> Optimizer:
    """Return a new inner optimizer of some groups' parameters.

    Args:
        name: Name of the inner optimizer.
        groups: Groups with ``params`` and ``lr``.
        options: Options ``inner_steps``, ``inner_kwargs`` and ``tolerance`` of ``SSO``.
        factor: Factor of the learning rates of ``gd`` and ``armijo``.

    Raises:
        ValueError: the inner optimizer does not take its arguments.
    """
    kind, settings = INNER[name], dict(options["inner_kwargs"])
    known = [{"params": group["params"], "lr": group["lr"]} for group in groups]
    if kind is LBFGS:
        known = [{"params": [p for group in known for p in group["params"]]}]
        settings = {
            "lr": groups[0]["lr"],
            "max_iter": options["inner_steps"],
            "tolerance_grad": options["tolerance"],
            "line_search_fn": "strong_wolfe",
        } | settings
    elif kind is not Adam:
        known = [group | {"lr": group["lr"] * factor} for group in known]
    try:
        return kind(known, **settings)
    except TypeError as error:
        raise ValueError(f"inner_kwargs do not fit inner {name!r}: {error}.") from None


def _same(value: Tensor) -> Tensor:
    return value


def _norm(parameters: Sequence[Tensor]) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients).item())
