"""Refuses what does not make sense together, before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.nn.modules.loss import MultiMarginLoss, NLLLoss, _Loss
from torch.optim import LBFGS, Adafactor, Muon, Optimizer
from torch.utils.data import IterableDataset

from framework.distributed.row_shards import row_shards
from framework.gradients.combiner import GradientCombiner
from framework.losses.loss import NEEDS, ClassificationLoss, Loss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import OPTIONAL_FIELDS, Objectives
from framework.runs.fully_sharded import FullyShardedStrategy

Kind = TypeVar("Kind")

UNFIT_CALLBACKS: dict[type[Callback], str] = {
    BaseFinetuning: (
        "changes `requires_grad` during a run, where ranks would diverge in silence; leave idle "
        "parameters trainable and skip their group of the optimizer"
    ),
    LearningRateFinder: (
        "sets an attribute `lr` of the module, but the learning rate is that of model.optimizer "
        "and its schedule; set model.optimizer.lr"
    ),
    StochasticWeightAveraging: (
        "changes weights and learning rates where no checkpoint sees it, so that a resumed run "
        "would end differently; use EMAWeightAveraging"
    ),
}
"""Why a callback of Lightning cannot be used, by its class."""

_WHOLE_PARAMETERS = (ModelPruning, WeightAveraging)
"""Callbacks of Lightning that read or change parameters between steps."""

AVERAGED = "current_model_state"
"""Name of the weights of the training in a checkpoint whose ``state_dict`` is their average."""

# what a loss may need and the base class itself can always give
_ALWAYS_GIVEN = ("group", "inputs", "weight", "epoch", "step", "micro_batch", "forward")


def require(owner: object, given: object, kind: type[Kind], need: str, instead: str = "") -> Kind:
    """Return ``given``, or raise ``IncompatibleError`` where it is not of a kind.

    Args:
        owner: Object that needs it.
        given: Module, datamodule or other part that was given.
        kind: Class or runtime protocol that is needed.
        need: Name of the kind in the message, with its article.
        instead: Advice at the end of the message.

    Example:
        >>> require("a text", 3, int, "a number")
        3
        >>> require("a text", 3, str, "a string")
        Traceback (most recent call last):
        framework.objectives.errors.IncompatibleError: str needs a string, which int is not.
    """
    if not isinstance(given, kind):
        advice = f": {instead}" if instead else ""
        raise IncompatibleError(
            f"{type(owner).__name__} needs {need}, which {type(given).__name__} is not{advice}."
        )
    return given


def require_logits(owner: object, module: LightningModule, shape: Sequence[int]) -> None:
    """Raise ``IncompatibleError`` if a module predicts no distribution over classes.

    Args:
        owner: Object that compares distributions.
        module: Module that predicts.
        shape: Shape of a row of its predictions.
    """
    if not shape or shape[-1] < 2:
        raise IncompatibleError(
            f"{type(owner).__name__} compares the logits of at least two classes, and a row of "
            f"{type(module).__name__}'s predictions has the shape {tuple(shape)}."
        )


def require_alone(owner: object, others: Iterable[object]) -> None:
    """Raise ``IncompatibleError`` if another object of the owner's class is among the others."""
    if any(isinstance(other, type(owner)) and other is not owner for other in others):
        name = type(owner).__name__
        raise IncompatibleError(f"{name} is given twice, but there can be one in a run.")


def check_needs(
    owner: object, needs: Iterable[str], module: LightningModule, provides: Iterable[str]
) -> None:
    """Raise ``IncompatibleError`` unless ``module`` provides everything ``owner`` needs."""
    name = type(owner).__name__
    known = NEEDS if isinstance(owner, _Loss) else OPTIONAL_FIELDS
    for need in needs:
        if need not in known:
            raise IncompatibleError(
                f"{name} needs {need!r}, which is not one of {', '.join(known)}."
            )
        if need in _ALWAYS_GIVEN and isinstance(owner, _Loss):
            continue
        if need not in provides:
            raise IncompatibleError(
                f"{name} needs `{need}`, which {type(module).__name__} does not provide "
                f"(it provides {', '.join(provides) or 'nothing'})."
            )


def check_groups(owner: object, datamodule: Any) -> None:
    """Raise ``IncompatibleError`` if ``owner`` needs groups of rows and the data has none."""
    if "group" in getattr(owner, "needs", ()) and not getattr(datamodule, "has_groups", False):
        raise IncompatibleError(
            f"{type(owner).__name__} needs `group`, the bag that each row belongs to, and "
            f"{type(datamodule).__name__} gives none: wrap the data in Bags."
        )


def check_callbacks(trainer: Trainer) -> None:
    """Raise ``IncompatibleError`` for a callback that no ``TrainingModule`` can have."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, reason in UNFIT_CALLBACKS.items():
            if isinstance(callback, kind):
                raise IncompatibleError(f"{type(callback).__name__} {reason}.")


def averages_weights(callback: Callback) -> bool:
    """Return whether a callback averages the weights, and saves the average in their place."""
    return isinstance(callback, WeightAveraging) or getattr(callback, "averages_weights", False)


def check_average(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Raise ``IncompatibleError`` where a fit would go on from averaged weights as if trained."""
    if trainer.state.fn != "fit" or AVERAGED not in checkpoint:
        return
    if not any(averages_weights(c) for c in trainer.callbacks):  # type: ignore[attr-defined]
        raise IncompatibleError(
            "The checkpoint's weights are an average, and nothing in this run goes on with those "
            "of the training: add the callback of the checkpoint's run, such as EMAWeights."
        )


def will_accumulate(trainer: Trainer) -> bool:
    """Return whether a callback will accumulate the gradients of several batches."""
    return any(
        isinstance(callback, GradientAccumulationScheduler)
        and callback.going_to_accumulate_grad_batches()
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )


def check_combiner(combiner: GradientCombiner, module: LightningModule, guided: bool) -> None:
    """Raise ``IncompatibleError`` where the gradients of several terms cannot be combined.

    Args:
        combiner: Method that makes one gradient of those of several terms.
        module: Module in a Trainer's run.
        guided: Whether there is held-out data that can guide.
    """
    trainer, name = module.trainer, type(combiner).__name__
    if will_accumulate(trainer):
        raise IncompatibleError(
            f"{name} combines the gradients of one batch; it cannot be used with a "
            "GradientAccumulationScheduler."
        )
    if trainer.accumulate_grad_batches > 1:
        raise IncompatibleError(
            f"{name} combines the gradients of one batch; it cannot be used with "
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}."
        )
    if str(trainer.precision) == "16-mixed":
        raise IncompatibleError(
            f"{name} takes gradients before they are scaled for fp16; use bf16-mixed."
        )
    if not module.automatic_optimization:
        raise IncompatibleError(
            f"{name} needs automatic optimization, which {type(module).__name__} does not use."
        )
    if combiner.guided and not guided:
        raise IncompatibleError(
            f"{name} is guided by held-out data: give it to the callback DynamicPreference instead "
            "of model.gradient_combiner."
        )


def check_sharding(module: LightningModule) -> None:
    """Raise ``IncompatibleError`` where a run needs whole parameters and its ranks hold parts."""
    trainer = module.trainer
    fully = isinstance(trainer.strategy, FullyShardedStrategy)
    rows = [*row_shards(module)]
    if not fully and not rows:
        return
    if fully and rows:
        raise IncompatibleError(
            f"Each rank holds some rows of {rows[0]!r} already: use the strategy ddp."
        )
    reason = (
        "FullyShardedStrategy gives each rank a part of them: use the strategy ddp"
        if fully
        else f"each rank holds some rows of {rows[0]!r}: set model.sharded to false"
    )
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for part in [*module.modules(), *callbacks]:
        if isinstance(part, _WHOLE_PARAMETERS) or getattr(part, "whole_parameters", False):
            raise IncompatibleError(
                f"{type(part).__name__} reads or changes whole parameters between steps, and "
                f"{reason}."
            )
    combiner = getattr(module, "gradient_combiner", None)
    if combiner is not None:
        raise IncompatibleError(
            f"{type(combiner).__name__} combines whole gradients, and {reason}."
        )
    if str(trainer.precision) == "16-mixed":
        name = "FullyShardedStrategy" if fully else "A sharded head"
        raise IncompatibleError(f"{name} has no gradient scaler for fp16: use bf16-mixed.")


def check_compilation(module: LightningModule) -> None:
    """Raise ``IncompatibleError`` where ``torch.compile`` would not reach a module's steps."""
    if not getattr(module, "compilable", True):
        raise IncompatibleError(
            f"model.compile compiles networks, and the steps of {type(module).__name__} take parts "
            "of its network one by one: set it to false."
        )


def check_map_style(owner: object, trainer: Trainer) -> None:
    """Raise ``IncompatibleError`` if samples have no position that could be their index."""
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if isinstance(dataset, IterableDataset):
        raise IncompatibleError(
            f"{type(owner).__name__} remembers every sample by its index, and an iterable data set "
            f"({type(dataset).__name__}) has none."
        )


def check_fact(
    data: Any, name: str, built_for: Any, argument: str = "", at_most: bool = False
) -> None:
    """Raise ``IncompatibleError`` if a datamodule says that its data does not fit the model.

    Args:
        data: Datamodule, or None; what it does not say is not checked.
        name: Attribute of the datamodule.
        built_for: Value of the attribute that the model was built for.
        argument: Argument of the model to change; default ``name``.
        at_most: Whether a smaller value fits, too.
    """
    given = getattr(data, name, None)
    if given is None:
        return
    if isinstance(built_for, Sequence):
        given, built_for = list(given), list(built_for)
    if not (given <= built_for if at_most else given == built_for):
        trained = getattr(data, "trained", None)
        raise IncompatibleError(
            f"{type(data).__name__} has {name} {given}, but the model was "
            + (
                f"trained on {built_for}: give data of that {name}."
                if trained
                else f"built for {built_for}: set model.{argument or name} to {given}."
            )
        )


def check_per_sample(loss: nn.Module, owner: str, unit: str = "sample") -> None:
    """Raise ``IncompatibleError`` if a loss is one number for a batch and not one per sample.

    Args:
        loss: Loss.
        owner: Name of what needs a value for each sample.
        unit: Word for what it needs a value of.
    """
    if getattr(loss, "batch_coupled", False):
        raise IncompatibleError(
            f"{type(loss).__name__} is one number for a batch, and {owner} needs one per {unit}."
        )


def check_unmixed(data: Any, reason: str) -> None:
    """Raise ``IncompatibleError`` if a datamodule mixes its samples.

    Args:
        data: Datamodule, or None.
        reason: Beginning of the message: what the module does that mixed samples spoil.
    """
    if getattr(data, "mixes_samples", False):
        raise IncompatibleError(
            f"{reason} and cannot be combined with mixup; switch {type(data).__name__}'s mixup off."
        )


def check_provided(module: Any, owners: Iterable[Any], objectives: Objectives) -> None:
    """Refuse objectives without a field that the module says it provides and something needs.

    Args:
        module: TrainingModule that made them.
        owners: Losses and callbacks with the fields that they need in ``needs``.
        objectives: Objectives of a step.

    Raises:
        RuntimeError: The module itself left a field out.
        IncompatibleError: The batches lack a field that something needs.
    """
    for name in module.provides:
        value = getattr(objectives, name)
        if value is not None and value != {}:
            continue
        if name not in ("index", "group"):
            raise RuntimeError(
                f"{type(module).__name__} says that it provides `{name}`, but its objectives "
                "have none."
            )
        # these two come from the batch, which may lack what nothing needs
        for owner in owners:
            if name in owner.needs:
                raise IncompatibleError(
                    f"{type(owner).__name__} needs `{name}`, a field that the batches of this "
                    "loader do not have."
                )


def check_monitors(losses: Iterable[Loss], trainer: Trainer, terms: Iterable[str] = ()) -> None:
    """Raise ``IncompatibleError`` if a callback monitors a loss whose value means nothing.

    Args:
        losses: Losses of the module.
        trainer: Trainer whose callbacks are looked at.
        terms: Names of the module's terms, where they are known.
    """
    meaningless = [type(loss).__name__ for loss in losses if not loss.monitorable]
    if not meaningless:
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        name = str(monitor).rpartition("/")[2].removesuffix("_epoch")
        if monitor is not None and (name == "loss" or name in terms):
            raise IncompatibleError(
                f"{type(callback).__name__} monitors {monitor!r}, but the value of "
                f"{meaningless[0]} means nothing; monitor a metric instead."
            )


def check_soft_targets(losses: Iterable[_Loss], datamodule: Any) -> None:
    """Raise ``IncompatibleError`` if a loss takes hard labels only and the data mixes them."""
    if not getattr(datamodule, "mixes_samples", False):
        return
    for loss in losses:
        hard = not loss.soft_targets if isinstance(loss, ClassificationLoss) else False
        if hard or isinstance(loss, (MultiMarginLoss, NLLLoss)):
            raise IncompatibleError(
                f"{type(loss).__name__} is defined for hard labels only and cannot be combined "
                f"with mixup, which makes soft ones; switch {type(datamodule).__name__}'s mixup "
                "off or take another loss."
            )


def check_eps(optimizer: Optimizer) -> None:
    """Raise ``IncompatibleError`` where the divisor of a step may be 0 in half precision."""
    for group in optimizer.param_groups:
        eps = group.get("eps")
        if not isinstance(eps, float) or eps == 0:
            continue
        for dtype in {p.dtype for p in group["params"] if p.is_floating_point()}:
            if not torch.tensor(eps).to(dtype):
                raise IncompatibleError(
                    f"{type(optimizer).__name__} divides by a mean plus eps={eps}, which is 0 in "
                    f"{dtype}: set model.optimizer.eps to 1e-4, or take precision "
                    "16-mixed or bf16-true."
                )


def check_optimizer(optimizer: Optimizer, trainer: Trainer) -> None:
    """Raise ``IncompatibleError`` for an optimizer that fp16 or several ranks cannot drive."""
    check_eps(optimizer)
    needs_closure = isinstance(optimizer, LBFGS) or getattr(optimizer, "needs_closure", False)
    if needs_closure and str(trainer.precision) == "16-mixed":
        raise IncompatibleError(
            f"{type(optimizer).__name__} evaluates its closure again, which fp16's gradient scaler "
            "cannot do; use precision 32-true or bf16-mixed."
        )
    check_clipping(optimizer, trainer, "trainer.gradient_clip_val", trainer.gradient_clip_val)
    if isinstance(optimizer, LBFGS) and trainer.world_size > 1:
        raise IncompatibleError(
            f"{type(optimizer).__name__} decides by the loss of its own rank how often to evaluate "
            "it, so that ranks would wait for one another for ever; use one process."
        )


def sees_scaled_gradients(optimizer: Optimizer, trainer: Trainer) -> bool:
    """Return whether gradients are scaled for fp16 still where a step begins."""
    # so torch and Lightning tell a fused optimizer, which unscales the gradients in its step
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused and str(trainer.precision) == "16-mixed"


def check_clipping(
    optimizer: Optimizer, trainer: Trainer, option: str, value: float | None
) -> None:
    """Raise ``IncompatibleError`` if gradients are clipped that fp16 scaled, by a named option."""
    if value and sees_scaled_gradients(optimizer, trainer):
        raise IncompatibleError(
            f"A fused {type(optimizer).__name__} takes gradients as they are scaled for fp16, so "
            f"that {option}={value} cannot clip them; set model.optimizer.fused to false, or use "
            "bf16-mixed."
        )


def check_row_optimizer(optimizer: Optimizer, module: nn.Module) -> None:
    """Raise ``IncompatibleError`` if ranks hold rows of what an optimizer looks at as a whole."""
    rows = [*row_shards(module)]
    whole = isinstance(optimizer, (Adafactor, Muon)) or getattr(optimizer, "couples_entries", False)
    if rows and whole:
        raise IncompatibleError(
            f"{type(optimizer).__name__} moves an entry of {rows[0]!r} by what it knows of others, "
            "and each rank holds some rows of it: set model.sharded to false, or take an optimizer "
            "that moves each entry by itself, such as AdamW."
        )
