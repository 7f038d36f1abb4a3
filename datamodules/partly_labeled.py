"""Rows of which few have a label, and the others none and perhaps another domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.class_parts import ClassSubset
from datamodules.image_datasets import ImageSet
from framework.data.datasets import Batch, BatchedDataset
from framework.objectives.labels import IGNORE_INDEX
from framework.utilities.randomness import seeded


class PartlyLabeled(BatchedDataset):
    """Rows of one data set or two, some of them without a label and of a shifted domain.

    Args:
        sources: Data sets of batches with ``image`` or ``input``, one after another.
        label: Labels (N,) int64 of all of their rows, ``IGNORE_INDEX`` where there is none.
        transforms: Modules from an unlabeled image or row to one of the same shape.
        seed: Seed of the transforms' draws.
        normalize: Normalization of images, after the transforms.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        label: Tensor,
        transforms: Sequence[nn.Module],
        seed: int,
        normalize: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.sources = list(sources)
        self.fields = {"label": label}
        self.transforms = nn.Sequential(*transforms)
        self.seed = seed
        self.normalize = normalize
        self.decodes = len(transforms) > 0 or any(getattr(s, "decodes", False) for s in sources)

    def __len__(self) -> int:
        return len(self.fields["label"])

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        first, found, places = 0, [], []
        for source in self.sources:
            own = ((rows >= first) & (rows < first + len(source))).nonzero().flatten()
            if len(own) or not len(rows):
                name, inputs = _inputs(source, rows[own] - first)
                found.append(inputs)
                places.append(own)
            first += len(source)
        inputs = torch.cat(found)[torch.cat(places).argsort()]
        label = self.fields["label"][rows]
        if len(self.transforms):
            for k in (label == IGNORE_INDEX).nonzero().flatten().tolist():
                with seeded(self.seed, "unlabeled", int(rows[k])):
                    inputs[k] = self.transforms(inputs[k])
        return {name: inputs if self.normalize is None else self.normalize(inputs), "label": label}

    def check_shapes(self, labeled: int, unlabeled: int) -> None:
        """Raise ``ValueError`` unless two rows have inputs of the same shape.

        Args:
            labeled: Row of the first kind.
            unlabeled: Row of the second kind, whose transforms must keep the shape.
        """
        shapes = []
        for row in (labeled, unlabeled):
            source = self.sources[0] if row < len(self.sources[0]) else self.sources[-1]
            first = 0 if source is self.sources[0] else len(self.sources[0])
            _, inputs = _inputs(source, torch.tensor([row - first]))
            shapes.append(list(inputs.shape[1:]))
        with seeded(self.seed, "check"):
            shapes.append(list(self.transforms(inputs[0]).shape))
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Labeled rows have inputs of shape {shapes[0]} and unlabeled ones {shapes[1]}, "
                "which must be the same."
            )
        if shapes[1] != shapes[2]:
            raise ValueError(
                f"transform makes inputs of shape {shapes[2]} of {shapes[1]}, which it must keep."
            )


def _inputs(source: Any, rows: Tensor) -> tuple[str, Tensor]:
    """Return the name and the values of the inputs, images in [0, 1]."""
    if isinstance(source, ClassSubset):
        return _inputs(source.source, source.rows[rows])
    batch = source.read(rows) if isinstance(source, ImageSet) else source.batch(rows)
    name = "image" if "image" in batch else "input"
    return name, batch[name]
