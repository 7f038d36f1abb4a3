"""M-FAC: gradients preconditioned by the inverse of the Fisher matrix of the latest ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from framework.distributed.collectives import world_size
from framework.objectives.errors import IncompatibleError
from framework.optim.empirical_fisher import EmpiricalFisherInverse
from framework.optim.mfac_window import Columns, check_window, columns_of
from framework.optim.momentum_optimizer import has_gradient, load_uncast, real_view
from framework.optim.shared_options import check_shared
from framework.optim.window import GradientWindow, window_state
from framework.utilities.checks import check_at_least, check_interval, check_one_of, check_positive

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
# these belong to the one window of all groups
_SHARED = ("ngrads", "damping", "storage_dtype", "warmup", "keep_window", "sharded")


class MFAC(Optimizer):
    """Steps against ``F^-1 g``, F being the damped Fisher matrix of the latest gradients.

    ``F = damping * I + (1 / m) sum_j g_j g_j^T`` over a window of the last m gradients of all
    parameters, the present one included; see ``EmpiricalFisherInverse``. The first steps are of
    length ``m / |g|`` times the learning rate, and shrink as the window fills with gradients that
    resemble one another: tune the learning rate with m, as 1 / m to begin with. The window takes m
    numbers per parameter. A step whose gradient is not finite changes nothing; each step waits for
    the device to know.

    Where the same parameters are trained on several ranks, as by DDP, every rank holds the columns
    of some, and a step sends m numbers, and the direction once. A checkpoint holds the whole
    window, on rank 0: ``state_dict`` is then collective, and any number of ranks can go on.
    Parameters that are split between ranks are refused.

    Paper: Frantar, Kurtic and Alistarh, M-FAC: Efficient Matrix-Free Approximations of
    Second-Order Information, NeurIPS 2021, arXiv:2107.03356, and its code, from which the defaults
    are and that weight decay enters the window. Its recursion is replaced by one Cholesky
    factorization, which gives the same in exact arithmetic and loses no digits.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        ngrads: Number m of gradients in the window.
        damping: Damping of the matrix, above 0.
        momentum: Share of the mean of directions that a step keeps, in [0, 1).
        weight_decay: Weight decay, added to the gradient.
        decoupled: Whether weights are multiplied by ``1 - lr * weight_decay`` instead.
        storage_dtype: Data type of the window, ``bfloat16``, ``float32`` or ``float64``; None for
            float32, or float64 where a parameter is in it.
        warmup: Divisor of the sum while the window fills: m (``official``) or the number of
            gradients in it (``filled``), which makes the first steps m times shorter.
        keep_window: Whether the window is part of the state; otherwise it refills after a load.
        sharded: Whether ranks hold columns of one window; None if there are several. False where
            every rank trains a model of its own.
        maximize: Whether to ascend rather than descend.

    Raises:
        ValueError: An argument is out of range, groups differ in what the window needs, or a state
            has a window of another size.
        IncompatibleError: Parameters are split between ranks.
        RuntimeError: Sparse gradients, or a group that comes when ranks hold columns already.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = MFAC([weight], lr=0.1, ngrads=3, damping=0.1)
        >>> (weight.square() * torch.tensor([0.5, 5.0])).sum().backward()
        >>> optimizer.step()
        >>> weight.detach()
        tensor([0.9970, 0.9704])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        ngrads: int = 1024,
        damping: float = 1e-5,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        storage_dtype: Literal["bfloat16", "float32", "float64"] | None = None,
        warmup: Literal["official", "filled"] = "official",
        keep_window: bool = True,
        sharded: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "ngrads": ngrads,
            "damping": damping,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "storage_dtype": storage_dtype,
            "warmup": warmup,
            "keep_window": keep_window,
            "sharded": sharded,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    @property
    def couples_entries(self) -> bool:
        """Whether the step of an entry depends on others: on all."""
        return True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; earlier gradients in the window are 0 for its parameters."""
        _check(self.defaults | param_group)
        if self.param_groups:
            first = self.param_groups[0]
            for name in _SHARED:
                param_group.setdefault(name, first[name])
            check_shared([first, param_group], _SHARED)
        window = self.state.get("window")  # type: ignore[call-overload]
        if window is not None and self._columns().sharded:
            raise RuntimeError(
                "MFAC's ranks hold columns of the window already: add the group before a step."
            )
        super().add_param_group(param_group)
        added: list[Tensor] = self.param_groups[-1]["params"]
        if any(isinstance(p, DTensor) for p in added):
            self.param_groups.pop()
            raise IncompatibleError(
                "MFAC solves for all parameters at once and takes whole ones, but these are split "
                "between ranks: use the strategy ddp, where MFAC splits its window itself."
            )
        if window is not None:
            rows = window["rows"]
            zeros = rows.new_zeros(len(rows), sum(_flat(p).numel() for p in added))
            window["rows"] = torch.cat([rows, zeros], dim=1)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure is called once and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [p for _, p in self._parameters() if has_gradient(p)]
        if any(p.grad is not None and p.grad.is_sparse for p in moved):
            raise RuntimeError("MFAC does not support sparse gradients.")
        direction = self._direction() if moved else None
        if direction is not None:
            self._move(direction)
        return loss

    def _direction(self) -> Tensor | None:
        """Return F^-1 g for all parameters, flat; None where the gradient is not finite."""
        options, columns = self.param_groups[0], self._columns()
        # a load or a move to a device may have replaced the tensors
        state = self.state["window"]  # type: ignore[index]
        if not state:
            name = options["storage_dtype"]
            dtype = self._dtype() if name is None else _DTYPES[name]
            count = columns.own.stop - columns.own.start
            state.update(window_state(options["ngrads"], count, dtype, self._device()))
        window = GradientWindow(
            state["rows"], state["gram"], pushed=state["pushed"], sharded=columns.sharded
        )
        if not window.push(self._gradient(columns.own)):
            return None
        state["pushed"] = window.pushed
        fisher = EmpiricalFisherInverse.over(window, options["damping"], options["warmup"])
        return columns.joined(fisher.ihvp_row().to(self._dtype()))

    def _gradient(self, columns: slice) -> Tensor:
        """Return the new row of the window at some columns."""
        start, stop, dtype = columns.start, columns.stop, self._dtype()
        offset, parts = 0, []
        for group, parameter in self._parameters():
            weight = _flat(parameter)
            own = slice(max(start - offset, 0), max(min(stop - offset, len(weight)), 0))
            offset += len(weight)
            weight = weight[own]
            if parameter.grad is None:
                parts.append(torch.zeros_like(weight, dtype=dtype))
                continue
            gradient = _flat(parameter.grad)[own].to(dtype)
            gradient = gradient.neg() if group["maximize"] else gradient
            if group["weight_decay"] and not group["decoupled"]:
                gradient = gradient.add(weight, alpha=group["weight_decay"])
            parts.append(gradient)
        return torch.cat([part.to(self._device()) for part in parts])

    def _move(self, direction: Tensor) -> None:
        """Move the parameters that have a gradient."""
        offset = 0
        for group, parameter in self._parameters():
            size = _flat(parameter).numel()
            part = direction[offset : offset + size].to(parameter.device)
            offset += size
            if not has_gradient(parameter):
                continue
            if group["momentum"]:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(part)
                part = state["momentum"].lerp_(part, 1 - group["momentum"])
            if group["weight_decay"] and group["decoupled"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            weight = real_view(parameter)
            weight.sub_(part.view(weight.shape) * group["lr"])

    def _parameters(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return ((group, p) for group in self.param_groups for p in group["params"])

    def _device(self) -> torch.device:
        return next(p.device for _, p in self._parameters())

    def _dtype(self) -> torch.dtype:
        """Return the data type of directions: float32, or float64 where a parameter is in it."""
        wide = (torch.float64, torch.complex128)
        return (
            torch.float64 if any(p.dtype in wide for _, p in self._parameters()) else torch.float32
        )

    def _columns(self) -> Columns:
        size = sum(_flat(p).numel() for _, p in self._parameters())
        wanted = self.param_groups[0]["sharded"] is not False
        return Columns(size, sharded=wanted and world_size() > 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the whole window on rank 0; collective if ranks hold columns."""
        whole = super().state_dict()
        values = dict(whole["state"])
        window = values.pop("window", None)
        if window and self.param_groups[0]["keep_window"]:
            values["window"] = {**window, "rows": self._columns().joined_rows(window["rows"])}
        return {**whole, "state": values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, of any number of ranks; without a window, one begins."""
        window = state_dict["state"].get("window")
        if window is not None:
            m = state_dict["param_groups"][0].get("ngrads")
            check_window(window, m, self._columns().size)
        super().load_state_dict(state_dict)
        load_uncast(self, state_dict, "momentum", lambda _: self._dtype())
        self.state.pop("window", None)  # type: ignore[call-overload]
        if window is not None:
            own = columns_of(window, self._columns().own, self._device())
            self.state["window"] = own  # type: ignore[index]


def _check(options: dict[str, Any]) -> None:
    """Refuse options that are out of range."""
    check_at_least(0, lr=float(options["lr"]), weight_decay=options["weight_decay"])
    check_at_least(1, ngrads=options["ngrads"])
    check_positive(damping=options["damping"])
    check_interval("[0, 1)", momentum=options["momentum"])
    check_one_of(_DTYPES, storage_dtype=options["storage_dtype"])
    check_one_of(("official", "filled"), warmup=options["warmup"])


def _flat(x: Tensor) -> Tensor:
    """Return a tensor's real numbers in a row."""
    return real_view(x).detach().reshape(-1)
