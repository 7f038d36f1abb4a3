"""Inputs and labels of any classifier, for callbacks that look at predictions."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from framework.objectives.errors import IncompatibleError
from framework.training.module import TrainingModule


def inputs_and_labels(
    module: LightningModule, batch: Any, owner: str
) -> tuple[tuple[Any, ...], Tensor]:
    """Return what ``forward`` takes and the labels (B,), or refuse the batch.

    Args:
        module: Any module; where it is none of ours, its ``forward`` takes the input alone.
        batch: What its loader yields: for such a module a dict with ``image`` and ``label`` or a
            tuple (image, label).
        owner: Name of the asking class, for the message.

    Raises:
        IncompatibleError: A batch of another form.
    """
    if isinstance(module, TrainingModule):
        fields = module.fields_of(batch)
        if "label" not in fields:
            raise IncompatibleError(
                f"{owner} needs batches with 'label', which those of {type(module).__name__} lack: "
                f"they have {', '.join(fields)}."
            )
        return module.forward_inputs(fields), fields["label"]
    if isinstance(batch, dict) and {"image", "label"} <= batch.keys():
        return (batch["image"],), batch["label"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return (batch[0],), batch[1]
    raise IncompatibleError(
        f"{owner} needs batches that are a dict with 'image' and 'label' or a tuple "
        f"(image, label), got {type(batch).__name__}."
    )


def class_labels(module: LightningModule, batch: Any) -> Tensor | None:
    """Return the labels (B,) of a batch, or None where there are none."""
    if isinstance(module, TrainingModule):
        batch = module.fields_of(batch)
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    label = batch.get("label") if isinstance(batch, dict) else batch[1] if pair else None
    is_class = isinstance(label, Tensor) and label.ndim == 1 and not label.is_floating_point()
    return label if is_class else None


def classifies(module: LightningModule) -> bool:
    """Return whether a module has class logits; one that is not ours may have them."""
    if not isinstance(module, TrainingModule):
        return True
    shape = module.prediction_shape
    fields = module.required_fields
    labeled = shape is not None and len(shape) == 1 and (not fields or "label" in fields)
    return labeled and module.embedding_column is None
