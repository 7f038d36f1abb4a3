"""From the groups of a module's parameters to its optimizer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import Optimizer

from framework.objectives.errors import IncompatibleError


def make_optimizer(make: OptimizerCallable, groups: list[dict[str, Any]], owner: str) -> Optimizer:
    """Return an optimizer of groups, whose ``lr_scale`` multiplies their learning rates.

    Args:
        make: Function from groups, or from parameters, to an optimizer.
        groups: Groups of parameters.
        owner: Name of their module, for the message.

    Raises:
        IncompatibleError: Groups with learning rates of their own, for an optimizer of one group.
    """
    try:
        optimizer = make(groups)
    except ValueError as error:
        if "per-parameter options" not in str(error):
            raise
        if any("lr_scale" in group for group in groups):
            raise IncompatibleError(
                f"{owner} has groups with learning rates of their own, and this optimizer takes "
                f"one group: {error}"
            ) from None
        # LBFGS takes one group
        optimizer = make([p for group in groups for p in group["params"]])
    for group in optimizer.param_groups:
        if "lr_scale" in group:
            group["lr"] = group["lr"] * group["lr_scale"]
    return optimizer
