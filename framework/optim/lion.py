"""Lion-K: momentum, a convex function's gradient of it, and decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from framework.optim.blocks import Triple, blocks, in_lists, is_dense
from framework.optim.kappa import Kappa, make_kappa
from framework.optim.lion_fused import KINDS, fused_step, is_fusible
from framework.optim.momentum_optimizer import MomentumOptimizer
from framework.utilities.checks import check_at_least, check_one_of


class LionK(MomentumOptimizer):
    """Steps against a subgradient of a convex function K of the momentum.

    With ``c = beta1 m + (1 - beta1) g`` a step is ``x <- (1 - lr wd) x - lr grad K(c)`` and
    ``m <- beta2 m + (1 - beta2) g``. ``kappa='sign'`` is Lion, whose weight decay is the constraint
    ``max |x| <= 1 / wd``; the other members solve ``min f(x) + K*(wd x) / wd``. Norms and biases
    belong into a group without weight decay.

    Paper: Chen et al., Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts, ICLR
    2024, arXiv:2310.05898; Lion itself: arXiv:2302.06675. The paper stores the momentum with the
    opposite sign; this is the convention of PyTorch's optimizers.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate; 3 to 10 times smaller than AdamW's.
        betas: Coefficients of the step and of the momentum.
        weight_decay: Decoupled weight decay, lambda above; 3 to 10 times larger than AdamW's.
        kappa: Convex function K: ``sign``, ``lp``, ``threshold``, ``topk``, ``huber``, ``square``,
            ``group`` or ``nuclear``.
        kappa_kwargs: Arguments of K: ``p`` of lp, ``e`` of threshold and huber, ``k`` of topk.
        scope: Domain of K: each ``tensor``, or all tensors of a ``group`` at once.
        rms_scale: Whether to multiply lp's step by the square root of the size.
        maximize: Whether to ascend rather than descend.
        foreach: Way of working: None takes cache-sized blocks on a CPU and whole lists on a GPU;
            True takes lists everywhere, False one tensor after the other. The results are the same.
        fused: Whether to take each weight in one pass over memory, by a C++ kernel that is compiled
            at the first step: on a CPU, for the element-wise ``sign``, ``threshold``, ``huber`` and
            ``square``. The results are the same. Complex and float16 weights, DTensors, gradients
            laid out otherwise than their weights, and a learning rate that is a tensor take the
            other way.
        capturable: Whether to keep the learning rate in a tensor beside the parameters, for CUDA
            graphs.

    Raises:
        ValueError: an argument is out of range, K does not take its arguments, or ``fused`` does
            not go with another.
        RuntimeError: sparse gradients; with ``fused`` a weight on a GPU, or no C++ compiler.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = LionK([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.detach()
        tensor([ 0.9000, -1.9000])
    """

    momentum_key = "exp_avg"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        kappa: str = "sign",
        kappa_kwargs: dict[str, float] | None = None,
        scope: Literal["tensor", "group"] = "tensor",
        rms_scale: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "weight_decay": weight_decay,
            "kappa": kappa,
            "kappa_kwargs": dict(kappa_kwargs or {}),
            "scope": scope,
            "rms_scale": rms_scale,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def check(self, options: dict[str, Any]) -> None:
        """Refuse options that are out of range."""
        lr, betas, weight_decay = options["lr"], options["betas"], options["weight_decay"]
        kappa, scope = options["kappa"], options["scope"]
        check_at_least(0, lr=float(lr), weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {tuple(betas)}.")
        check_one_of(("tensor", "group"), scope=scope)
        make_kappa(kappa, options["kappa_kwargs"], options["rms_scale"])
        if scope == "group" and kappa in ("group", "nuclear"):
            raise ValueError(f"kappa={kappa!r} is a function of a matrix; it takes scope='tensor'.")
        if options["fused"] and kappa not in KINDS:
            raise ValueError(f"fused=True takes one of {', '.join(KINDS)} as kappa, not {kappa!r}.")
        if options["fused"] and (options["foreach"] or options["capturable"]):
            raise ValueError("fused=True excludes foreach=True and capturable=True.")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose options take the place of the defaults."""
        super().add_param_group(param_group)
        _place_lr(self.param_groups[-1])

    @property
    def couples_entries(self) -> bool:
        """Whether the step of an entry depends on others of its parameter or group."""
        groups = ((g["kappa"], g["kappa_kwargs"], g["rms_scale"]) for g in self.param_groups)
        return not all(make_kappa(*options).elementwise for options in groups)

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Move the parameters of a group, all of which have a gradient."""
        if group["fused"] and not isinstance(group["lr"], Tensor):
            parameters = [p for p in parameters if not self._step_fused(p, group)]
        if not parameters:
            return
        triples = [self.triple(p, group) for p in parameters]
        kappa = make_kappa(group["kappa"], group["kappa_kwargs"], group["rms_scale"])
        if group["scope"] == "group" and not kappa.elementwise:
            _step_together(group, kappa, triples)
            return
        foreach = group["foreach"]
        if foreach is None:
            foreach = all(p.device.type != "cpu" for p, _, _ in triples)
        if foreach:
            _step_lists(group, kappa, triples)
            return
        if group["foreach"] is None and kappa.elementwise:
            triples = [cast(Triple, b) for triple in triples for b in blocks(*triple)]
        beta1, beta2 = group["betas"]
        # one buffer for all of a dtype stays in the cache
        size = max(momentum.numel() for _, _, momentum in triples)
        buffers: dict[torch.dtype, Tensor] = {}
        for weight, gradient, momentum in triples:
            if is_dense(momentum):
                if momentum.dtype not in buffers:
                    buffers[momentum.dtype] = momentum.new_empty(size)
                c = buffers[momentum.dtype].as_strided(momentum.shape, momentum.stride())
                torch.lerp(momentum, gradient, 1 - beta1, out=c)
            else:
                c = torch.lerp(momentum, gradient, 1 - beta1)
            momentum.lerp_(gradient, 1 - beta2)
            _apply(group, weight, kappa.grad_(c))

    def _step_fused(self, parameter: Tensor, group: dict[str, Any]) -> bool:
        """Step in one pass if that is possible, and return whether it was."""
        gradient, momentum = parameter.grad, self.momentum(parameter)
        assert gradient is not None
        if parameter.device.type != "cpu":
            raise RuntimeError(
                f"LionK(fused=True) works on a CPU and found a weight on {parameter.device}: leave "
                "fused out there, where whole lists of weights take a kernel per operation."
            )
        fusible = is_fusible(parameter, gradient, momentum)
        if fusible:
            fused_step(parameter, gradient, momentum, group)
        return fusible

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            # checkpoints of version 0.1 have no such option
            group.setdefault("fused", False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the momentum of a half-precision weight stays in float32."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            _place_lr(group)


def _place_lr(group: dict[str, Any]) -> None:
    """Let a capturable group's learning rate be a tensor where its parameters are."""
    if group["capturable"] and group["params"]:
        group["lr"] = torch.as_tensor(group["lr"], device=group["params"][0].device)


def _apply(group: dict[str, Any], weight: Tensor, direction: Tensor) -> None:
    """Decay ``weight`` and step against ``direction``."""
    lr = group["lr"]
    if group["weight_decay"]:
        weight.mul_(1 - lr * group["weight_decay"])
    if isinstance(lr, Tensor):
        weight.sub_(direction.mul_(lr))
    else:
        weight.add_(direction, alpha=-lr)


def _step_lists(group: dict[str, Any], kappa: Kappa, triples: list[Triple]) -> None:
    """Step with one kernel per operation and list, as a GPU prefers."""
    lr, (beta1, beta2) = group["lr"], group["betas"]
    for weights, gradients, momenta in in_lists(triples, foreach=True):
        directions = list(torch._foreach_lerp(momenta, gradients, 1 - beta1))
        if group["kappa"] == "sign":
            signs = torch._foreach_sign(directions)
            # NaN stays NaN, see ``Sign``
            torch._foreach_add_(signs, directions, alpha=0)
            directions = list(signs)
        else:
            directions = [kappa.grad_(c) for c in directions]
        if group["weight_decay"]:
            _decay_lists(weights, 1 - lr * group["weight_decay"])
        if isinstance(lr, Tensor):
            torch._foreach_mul_(directions, lr)
            torch._foreach_sub_(weights, directions)
        else:
            torch._foreach_add_(weights, directions, alpha=-lr)
        torch._foreach_lerp_(momenta, gradients, 1 - beta2)


def _decay_lists(weights: list[Tensor], factor: Any) -> None:
    if weights[0].device.type != "cpu":
        torch._foreach_mul_(weights, factor)
        return
    # on a CPU the list operation rounds the factor to the weights' dtype, in bfloat16 to 1
    for weight in weights:
        weight.mul_(factor)


def _step_together(group: dict[str, Any], kappa: Kappa, triples: list[Triple]) -> None:
    """Step with K as a function of all tensors of the group."""
    beta1, beta2 = group["betas"]
    parts = [torch.lerp(m, g, 1 - beta1).flatten() for _, g, m in triples]
    direction = kappa.grad_(torch.cat(parts))
    pieces = direction.split([part.numel() for part in parts])
    for (weight, gradient, momentum), piece in zip(triples, pieces, strict=True):
        _apply(group, weight, piece.view(weight.shape))
        momentum.lerp_(gradient, 1 - beta2)
