"""Whether Lion-K's weights are inside their constraint, and whether its energy falls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from framework.objectives.errors import IncompatibleError
from framework.optim import LionK
from framework.optim.kappa import make_kappa
from framework.optim.momentum_optimizer import has_gradient
from framework.runs.panels import STEP, Panel
from framework.utilities.checks import check_at_least
from framework.utilities.lightning_internals import is_accumulating, logged_step


class ConstraintMonitor(Callback):
    """Logs how far LionK's weights are outside their constraint, and its Lyapunov function.

    Weight decay lambda drives the weights into a set and then, inside it, lets a Lyapunov function
    of weights and momentum fall. All three values are of the weights and the momentum before the
    step; with mini-batches the loss, and so the last of them, is noisy.

    ``lion/violation`` is the largest ``gauge(lambda x) - 1`` of a tensor, 0 inside the set;
    ``lion/saturated`` the share of entries with ``|x| >= 0.99 / lambda``; both are over tensors
    with weight decay. ``lion/lyapunov`` is the loss plus, summed over tensors,
    ``K*(lambda x) / lambda + a [K*(lambda x) + K(m) - lambda <x, m>]`` with m minus LionK's
    momentum and ``a = lr beta1 / ((1 - beta2) + lr lambda (1 - beta1))``, infinite outside the set.

    Paper: Chen et al., *Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts*, ICLR
    2024, arXiv:2310.05898; the Lyapunov function is that of continuous time, per step.

    Args:
        every_n_steps: Optimizer steps between two rows.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
        IncompatibleError: The optimizer is not one LionK under automatic optimization.

    Example:
        >>> ConstraintMonitor(every_n_steps=10).every_n_steps
        10
    """

    whole_parameters = True
    panels: tuple[Panel, ...] = (Panel("Constraint of Lion-K", ("lion/*",), axis=STEP),)

    def __init__(self, every_n_steps: int = 50) -> None:
        check_at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._loss: Tensor | float = 0.0
        self._measured: dict[str, float] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse any other optimizer."""
        names = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        if len(names) != 1 or not isinstance(trainer.optimizers[0], LionK):
            raise IncompatibleError(
                f"ConstraintMonitor watches the constraint of one LionK; this run's optimizer is "
                f"{' and '.join(names) or 'missing'}."
            )
        if not pl_module.automatic_optimization:
            raise IncompatibleError(
                f"ConstraintMonitor needs the loss of every step, which {type(pl_module).__name__} "
                "keeps to itself by manual optimization."
            )
        self._loss, self._measured = 0.0, None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure weights and momentum as the loss saw them."""
        if trainer.loggers and (logged_step(trainer) + 1) % self.every_n_steps == 0:
            assert isinstance(optimizer, LionK)
            self._measured = _measure(optimizer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the loss, of which accumulation gives a share per batch, and log."""
        if isinstance(outputs, dict):  # a batch may be skipped
            self._loss += outputs["loss"]
        if self._measured is not None:
            loss = float(trainer.strategy.reduce(self._loss, reduce_op="mean"))
            row = {"epoch": trainer.current_epoch, **self._measured}
            maximize = trainer.optimizers[0].param_groups[0]["maximize"]
            row["lion/lyapunov"] += -loss if maximize else loss
            for logger in trainer.loggers:
                logger.log_metrics(row, step=logged_step(trainer))
            self._measured = None
        if not is_accumulating(trainer):
            self._loss = 0.0


@torch.no_grad()
def _measure(optimizer: LionK) -> dict[str, float]:
    """Return what is logged, the Lyapunov function still without the loss."""
    violation, saturated, entries, energy = 0.0, 0, 0, 0.0
    for group in optimizer.param_groups:
        kappa = make_kappa(group["kappa"], group["kappa_kwargs"], group["rms_scale"])
        lr, decay, (beta1, beta2) = float(group["lr"]), group["weight_decay"], group["betas"]
        coupling = lr * beta1 / ((1 - beta2) + lr * decay * (1 - beta1))
        for x, momentum in _arguments(optimizer, group, whole=not kappa.elementwise):
            y, m = decay * x, -momentum
            if decay > 0:
                violation = max(violation, float(kappa.gauge(y)) - 1)
                saturated += int((y.abs() >= 0.99).sum())
                entries += y.numel()
            conjugate = float(kappa.conjugate(y))
            # one product, as 0 times an infinite conjugate would be NaN; without decay K*(0) is 0
            energy += conjugate * (coupling + (1 / decay if decay > 0 else 0.0))
            energy += coupling * float(kappa.value(m) - (y * m).sum())
    return {
        "lion/violation": violation,
        "lion/saturated": saturated / entries if entries else 0.0,
        "lion/lyapunov": energy,
    }


def _arguments(
    optimizer: LionK, group: dict[str, Any], whole: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights and momentum of everything that K is a function of."""
    pairs = []
    for parameter in group["params"]:
        if has_gradient(parameter):
            x = parameter.detach()
            momentum = optimizer.state[parameter].get("exp_avg", torch.zeros_like(x))
            if x.is_complex():
                x, momentum = torch.view_as_real(x), torch.view_as_real(momentum)
            low = x.dtype in (torch.float16, torch.bfloat16)
            pairs.append((x.float() if low else x, momentum.float() if low else momentum))
    if group["scope"] == "group" and whole and pairs:
        columns = zip(*pairs, strict=True)
        x, momentum = (torch.cat([t.flatten() for t in column]) for column in columns)
        pairs = [(x, momentum)]
    yield from pairs
