"""SGD in which coordinates of large momentum take a step of fixed size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from framework.optim.blocks import Triple, in_lists
from framework.optim.magnitude_quantile import magnitude_quantile
from framework.optim.momentum_optimizer import (
    MomentumOptimizer,
    has_gradient,
    penalized_gradient,
    real_view,
)
from framework.utilities.checks import check_at_least, check_interval

_TOO_SMALL = 1e-12


class PartialSignSGD(MomentumOptimizer):
    """Steps by the sign where the momentum is large, and as SGD elsewhere.

    With ``m <- momentum m + (1 - dampening) g`` and ``u = m / (1 - dampening**t)`` a coordinate
    steps by ``-lr u`` where ``|u| <= r``, and by ``-sign_lr sign(u)`` elsewhere. That suffices to
    recover what Adam gains over SGD where outliers pull in opposite directions.

    ``r`` is ``threshold`` or, without one, a quantile of the gradient's magnitudes at the first
    step, over the non-zero entries of all parameters of all groups; it then stays, as the
    ``measured_threshold`` of the groups. Where it is below 1e-12 it holds for that step only.
    Clipping changes what it means. Schedules move ``lr`` alone, not ``sign_lr``.

    Paper: Rosenfeld and Risteski, Outliers with Opposing Signals Have an Outsized Effect on Neural
    Network Optimization, ICLR 2024, arXiv:2311.04163, where it is called SplitSGD. Of the paper's
    choices, those about zero entries and tiny thresholds are ours.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate of the coordinates with a small momentum; of little influence.
        sign_lr: Step size of the coordinates with a large momentum; about Adam's learning rate.
        momentum: Decay of the momentum.
        dampening: Share of the gradient that the momentum leaves out; that of ``momentum`` makes
            it a running mean.
        threshold: Magnitude of the momentum, r above, beyond which a coordinate steps by its sign;
            None for the quantile. Infinity is SGD, 0 is signSGD with momentum.
        threshold_quantile: Share of the non-zero gradients at the first step that are not above r.
        weight_decay: Coefficient of the L2 penalty, which is part of the gradient as in
            ``torch.optim.SGD``.
        maximize: Whether to ascend rather than descend.
        foreach: Way of working: None takes cache-sized blocks on a CPU and whole lists on a GPU;
            True takes lists everywhere, False one tensor after the other. The results are the same.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: sparse gradients.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = PartialSignSGD([weight], lr=0.1, sign_lr=0.01, threshold=0.5)
        >>> weight.grad = torch.tensor([0.2, -3.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([ 0.9800, -0.9900])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        sign_lr: float = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.9,
        threshold: float | None = None,
        threshold_quantile: float = 0.1,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "sign_lr": sign_lr,
            "momentum": momentum,
            "dampening": dampening,
            "threshold": threshold,
            "threshold_quantile": threshold_quantile,
            "measured_threshold": None,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    def check(self, options: dict[str, Any]) -> None:
        """Refuse options that are out of range."""
        check_at_least(0, **{name: float(options[name]) for name in ("lr", "sign_lr")})
        check_at_least(0, weight_decay=options["weight_decay"])
        check_interval("[0, 1)", momentum=options["momentum"], dampening=options["dampening"])
        check_interval("[0, 1]", threshold_quantile=options["threshold_quantile"])
        if options["threshold"] != math.inf:
            check_at_least(0, threshold=options["threshold"])

    @property
    def couples_entries(self) -> bool:
        """Whether the step of an entry depends on others: a threshold that is measured does."""
        return any(group["threshold"] is None for group in self.param_groups)

    descended = staticmethod(penalized_gradient)

    def before_step(self) -> None:
        """Measure the threshold where a group needs one."""
        waiting = [group for group in self.param_groups if group["threshold"] is None]
        for share in {group["threshold_quantile"]: None for group in waiting}:
            alike = [group for group in waiting if group["threshold_quantile"] == share]
            known = [group["measured_threshold"] for group in alike]
            threshold = max((r for r in known if r is not None), default=0.0)
            if threshold < _TOO_SMALL:
                threshold = magnitude_quantile(self._all_gradients(), share)
            for group in alike:
                group["measured_threshold"] = threshold

    def _all_gradients(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if has_gradient(parameter):
                    yield real_view(penalized_gradient(parameter, group))

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Move the parameters of a group, all of which have a gradient."""
        ages: dict[int, list[Triple]] = {}
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] = state.get("step", torch.tensor(0.0)) + 1
            triple = self.triple(parameter, group)
            ages.setdefault(int(state["step"]), []).append(triple)
        for age, triples in ages.items():
            for lists in in_lists(triples, group["foreach"]):
                _move(group, age, *lists)


def _move(
    group: dict[str, Any],
    age: int,
    weights: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
) -> None:
    """Take step number ``age`` with tensors of one dtype."""
    if group["momentum"] == group["dampening"]:
        torch._foreach_lerp_(momenta, gradients, 1 - group["dampening"])
    else:
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients, alpha=1 - group["dampening"])
    # the debiased momentum is above r where the momentum itself is above r times its bias
    bias = 1 - group["dampening"] ** age
    threshold = group["measured_threshold" if group["threshold"] is None else "threshold"]
    large = [torch.hardshrink(m, threshold * bias) for m in momenta]
    small = torch._foreach_sub(momenta, large)
    torch._foreach_add_(weights, small, alpha=-float(group["lr"]) / bias)
    torch._foreach_sign_(large)
    torch._foreach_add_(weights, large, alpha=-float(group["sign_lr"]))
