"""Refuses runs whose steps an optimizer cannot evaluate again by the outputs of the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.distributed.averages import average_over_ranks
from framework.objectives.errors import IncompatibleError
from framework.optim.target_closure import Outputs, Target
from framework.runs.fully_sharded import FullyShardedStrategy
from framework.training.compatibility import will_accumulate

# of the length of what is compared; rounding leaves less
_EXACT, _HALF = 0.01, 0.1


def check_replayable(optimizer: Optimizer, module: Any) -> None:
    """Raise ``IncompatibleError`` for a run whose steps cannot be evaluated again.

    Args:
        optimizer: Optimizer that does so.
        module: ``TrainingModule`` of the run.
    """
    trainer, name = module.trainer, type(optimizer).__name__
    kind = type(module).__name__
    if "predictions" not in module.provides or not module.automatic_optimization:
        raise IncompatibleError(
            f"{name} evaluates the predictions of a step again, which {kind} does not publish; "
            "take another optimizer."
        )
    for callback in module.objectives_callbacks:
        if not callback.repeatable:
            raise IncompatibleError(
                f"{name} evaluates a step several times, and {type(callback).__name__} draws other "
                "random numbers at each; leave one of them out."
            )
    if trainer.accumulate_grad_batches != 1 or will_accumulate(trainer):
        raise IncompatibleError(
            f"{name} evaluates one batch several times in a step; set "
            "trainer.accumulate_grad_batches to 1, leave out a GradientAccumulationScheduler, and "
            "take a larger batch."
        )
    if trainer.gradient_clip_val:
        raise IncompatibleError(
            f"{name} chooses the length of its steps itself; leave out trainer.gradient_clip_val."
        )
    if module.gradient_combiner is not None:
        raise IncompatibleError(
            f"{type(module.gradient_combiner).__name__} makes the gradient of a step, and {name} "
            "takes further ones; leave one of them out."
        )
    if module.runs_compiled:
        raise IncompatibleError(
            f"{name} goes backward through one batch several times, which compiled networks do "
            "not; set model.compile to false."
        )
    if isinstance(trainer.strategy, FullyShardedStrategy):
        raise IncompatibleError(
            f"{name} takes gradients of whole parameters, and FullyShardedStrategy gives each rank "
            "a part of them; use the strategy ddp."
        )


def check_outputs(name: str, module: Any, targets: Sequence[Target], outputs: Outputs) -> None:
    """Raise ``IncompatibleError`` unless a step's gradient is that by way of its outputs.

    Collective: all ranks must call it.

    Args:
        name: Name of the optimizer.
        module: ``TrainingModule`` whose step was sent backward.
        targets: Outputs and gradients of the step.
        outputs: The same outputs, evaluated again.
    """
    kind = type(module).__name__
    pairs = [(z, t.value) for z, t in zip(outputs, targets, strict=True)]
    if not _share(average_over_ranks(_squares(pairs, module.device))) <= _tolerance(targets):
        raise IncompatibleError(
            f"{name} evaluates the predictions of a step again, and {kind}.forward returns others "
            "than its objectives publish; make them agree by forward_inputs and predictions_of, or "
            "take another optimizer."
        )
    parameters = [p for p in module.parameters() if p.grad is not None]
    if not parameters:
        return
    reached = [(z, t.gradient) for z, t in zip(outputs, targets, strict=True) if z.requires_grad]
    through: Sequence[Tensor | None] = [None] * len(parameters)
    if reached:
        values, seeds = zip(*reached, strict=True)
        through = torch.autograd.grad(values, parameters, seeds, allow_unused=True)
    means = average_over_ranks(
        [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, through, strict=True)]
    )
    gradients = [p.grad for p in parameters if p.grad is not None]
    share = _share(_squares(zip(means, gradients, strict=True), module.device))
    if not share <= _tolerance(targets):
        raise IncompatibleError(
            f"{name} needs a loss that is a function of the predictions alone, and {share:.0%} of "
            f"the gradient of {kind}'s loss comes by other ways, such as further outputs of its "
            "network; take another optimizer."
        )


def _squares(pairs: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> list[Tensor]:
    """Return the squared lengths of the differences and of the second tensors."""
    difference, length = (torch.zeros((), device=device) for _ in range(2))
    for found, expected in pairs:
        if found.shape != expected.shape:
            # no error, as other ranks compare theirs
            difference += torch.inf
            continue
        difference += (found.detach().float() - expected.float()).square().sum()
        length += expected.float().square().sum()
    return [difference, length]


def _share(squares: Sequence[Tensor]) -> float:
    difference, length = (float(square) for square in squares)
    return (difference / length) ** 0.5 if length else float(difference > 0)


def _tolerance(targets: Sequence[Target]) -> float:
    half = any(torch.finfo(t.value.dtype).bits < 32 for t in targets)
    return _HALF if half else _EXACT
