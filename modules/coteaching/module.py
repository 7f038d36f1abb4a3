"""Co-teaching: two networks that select training samples for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from framework.data.datasets import Batch
from framework.distributed.collectives import (
    all_reduce_sum,
    rank,
    rows_per_rank,
    world_size,
)
from framework.metrics.prefix_accuracy import PrefixAccuracy
from framework.objectives.labels import IGNORE_INDEX
from framework.objectives.objectives import Objectives
from framework.ops.prefix import prefix_predictions
from framework.runs.panels import Panel
from framework.training.compatibility import check_per_sample, check_unmixed
from framework.training.terms import explained_labels
from framework.utilities.checks import check_at_least
from framework.utilities.devices import to_device
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.precision import at_least_float32
from modules.coteaching.small_loss import Scope, SmallLossSelector
from modules.coteaching.stage_one import load_stage_one
from modules.nested.module import NestedClassifier, NestedOptions
from modules.nested.network import NestedNetwork


class CoTeaching(NestedClassifier):
    """Trains two networks, each on the samples whose loss the other one finds small.

    Two networks that start differently make different mistakes, so a wrong label that one has
    learned is filtered out by the other. In every step network 1 scores the rows at even places of
    the global batch and network 2 those at odd places, without dropout at the current prefix; each
    is then trained, with nested dropout at one k for both, on the rows that the *other* kept. The
    prediction are the mean logits of both at the prefix k* that the latest validation chose.

    The networks are those of stage 1: trained before (``checkpoints``), or first trained here on
    all rows, independently of each other, for ``warmup_epochs``. When the second stage begins,
    optimizer and schedule start anew. One optimizer over both networks equals one each, unless it
    clips or scales by a norm over all parameters.

    A batch holds ``image`` (B, C, H, W) float32, ``label`` (B,) int64 and ``index`` (B,); with
    ``clean_label`` (B,) it logs as ``purity`` the share of the selected rows whose label is right.
    ``selected`` is the share of rows that are kept. ``val/accuracy_1`` and ``val/accuracy_2`` are
    each network's own, at the common k*.

    Paper: Chen et al., *Compressing Features for Learning with Noisy Labels*, TNNLS 2022,
    arXiv:2206.13140, stage 2, after Han et al., *Co-teaching*, NeurIPS 2018, arXiv:1804.06872. Of
    the official code (yingyichen-cyy/Nested-Co-teaching) are the disjoint halves, the constant
    forget rate and the frozen batch norm; ``halves=False`` is Han et al.'s rule.

    Args:
        forget_rate: Share of rows that are left out, in [0, 1); about that of wrong labels.
        ramp_epochs: Number of epochs of stage 2 in which the forget rate grows from 0.
        scope: Rows that are ranked together: of all ranks (``global``) or of each (``local``).
        halves: Whether each network scores one half of the batch, and not all of it.
        freeze_batchnorm: Whether batch norm, its statistics, weight and bias, stays in stage 2 as
            stage 1 left it.
        checkpoints: Checkpoints of two stage-1 runs of ``NestedClassifier``.
        warmup_epochs: Length of stage 1 in this run, in epochs.
        teaching_lr: Learning rate of stage 2; default that of ``optimizer``.
        criterion: Loss that is trained; rows are always scored by cross-entropy.
        lr_scheduler: Schedule of the learning rate, in each stage from its start.
        pretrained: Whether to load timm's weights into both networks, whose heads differ.
        **options: Arguments of ``NestedClassifier``.

    Raises:
        ValueError: An argument is out of its range, there are other than two checkpoints, or
            checkpoints together with a warm-up, or as ``Classifier``.
        FileNotFoundError: A checkpoint does not exist (at ``setup``).
        IncompatibleError: The criterion is not a sum over samples, a checkpoint is of another
            network, or the data mixes samples (the latter two at ``setup``).

    Example:
        >>> import torch
        >>> from modules import CoTeaching
        >>> model = CoTeaching(num_classes=10, input_shape=(1, 8, 8), forget_rate=0.4)
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    panels: tuple[Panel, ...] = (
        *NestedClassifier.panels,
        Panel(
            "Samples that are trained on",
            ("train/selected_epoch", "train/purity_epoch"),
            "share of the samples",
        ),
    )
    provides: tuple[str, ...] = ("per_sample", "targets", "index")
    # a network learns from the rows that the other one chose
    whole_batches = False

    def __init__(
        self,
        *,
        forget_rate: float = 0.2,
        ramp_epochs: int = 0,
        scope: Scope = "global",
        halves: bool = True,
        freeze_batchnorm: bool = True,
        checkpoints: list[str] | None = None,
        warmup_epochs: int = 0,
        teaching_lr: float | None = None,
        **options: Unpack[NestedOptions],
    ) -> None:
        super().__init__(**options)
        check_per_sample(self.criterion, "co-teaching")
        check_at_least(0, warmup_epochs=warmup_epochs)
        if checkpoints is not None and len(checkpoints) != 2:
            raise ValueError(f"checkpoints must name two files, got {len(checkpoints)}.")
        if checkpoints is not None and warmup_epochs:
            raise ValueError("checkpoints are of stage 1, so set warmup_epochs to 0 with them.")
        self.network_2: NestedNetwork = self.nest(self.build_network(), stream="dropout 2")
        self.selector = SmallLossSelector(forget_rate, ramp_epochs, scope)
        self.halves = halves
        self.freeze_batchnorm = freeze_batchnorm
        self.checkpoints = checkpoints
        self.warmup_epochs = warmup_epochs
        self.teaching_lr = teaching_lr

    # ---- the two stages -----------------------------------------------------------------------

    @property
    def networks(self) -> list[NestedNetwork]:
        """The two networks."""
        return [self.network, self.network_2]

    @property
    def teaching(self) -> bool:
        """Whether stage 2 has begun."""
        return self.phase > 0 or self.warmup_epochs == 0

    def setup(self, stage: str) -> None:
        """Check that the data does not mix samples, and start from the checkpoints of stage 1."""
        check_unmixed(self.datamodule, "Co-teaching selects samples by their own labels")
        super().setup(stage)
        if stage == "fit" and self.checkpoints is not None and self.trainer.ckpt_path is None:
            for network, path in zip(self.networks, self.checkpoints, strict=True):
                load_stage_one(network, path)

    def on_train_start(self) -> None:
        """Freeze batch norm if the run starts, or was resumed, in stage 2."""
        super().on_train_start()
        self._freeze()

    def on_train_epoch_start(self) -> None:
        """Begin stage 2 when the warm-up is over."""
        if not self.teaching and self.current_epoch >= self.warmup_epochs:
            self.new_phase()
            self._freeze()

    def train(self, mode: bool = True) -> CoTeaching:
        """Change the mode, except of batch norm that is frozen."""
        super().train(mode)
        self._freeze()
        return self

    def _frozen_layers(self) -> list[_BatchNorm]:
        if not (self.freeze_batchnorm and self.teaching):
            return []
        return [layer for layer in self.modules() if isinstance(layer, _BatchNorm)]

    def _freeze(self) -> None:
        for layer in self._frozen_layers():
            layer.eval()

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Drop the gradients of frozen batch norm, which no optimizer sets to 0."""
        for layer in self._frozen_layers():
            layer.zero_grad()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of both networks without frozen layers, at the stage's rate."""
        groups = super().parameter_groups()
        # not by requires_grad, which must not change while DDP holds its buckets
        frozen = {id(p) for layer in self._frozen_layers() for p in layer.parameters()}
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in frozen]
        groups = [group for group in groups if group["params"]]
        if self.teaching and self.teaching_lr is not None:
            for group in groups:
                group["lr"] = self.teaching_lr
        return groups

    # ---- training -----------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Return the mean logits of both networks, (B, K)."""
        return torch.stack([network(image)[0] for network in self.networks]).mean(0)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms ``network_1`` and ``network_2``."""
        return self._teach(batch) if self.teaching else self._on_all_rows(batch)[0]

    def _on_all_rows(self, batch: Batch) -> tuple[Objectives, list[Tensor]]:
        """Return the terms without any selection, and the features of both networks."""
        objectives = Objectives(targets=batch["label"], index=batch.get("index"))
        features = [
            self._add_network(objectives, f"network_{number}", network, batch)
            for number, network in enumerate(self.networks, start=1)
        ]
        return objectives, features

    def _teach(self, batch: Batch) -> Objectives:
        label = batch["label"]
        counts = rows_per_rank(len(label), label.device)
        parts = self._parts(sum(counts[: rank()]))
        candidates = [self._candidates(label, part) for part in parts]
        chosen = [
            self._select(network, batch, part, among, counts)
            for network, part, among in zip(self.networks, parts, candidates, strict=True)
        ]
        # each network learns from what the other one chose
        learned = self._positions(chosen, parts)[::-1]
        objectives = Objectives(targets=label, index=batch.get("index"))
        for number, (network, rows) in enumerate(zip(self.networks, learned, strict=True), start=1):
            self._add_network(objectives, f"network_{number}", network, batch, rows)
        objectives.sample_weight = (chosen[0] | chosen[1]).float()
        objectives.logs = self._selection_logs(batch, candidates, chosen)
        return objectives

    def _parts(self, start: int) -> tuple[slice, slice]:
        """Return the rows that network 1 and network 2 score, of a batch that begins at a place."""
        if not self.halves:
            return slice(None), slice(None)
        return slice(start % 2, None, 2), slice((start + 1) % 2, None, 2)

    def _candidates(self, label: Tensor, part: slice) -> Tensor:
        """Return the rows of a part, (B,) bool, that have a label."""
        rows = torch.zeros_like(label, dtype=torch.bool)
        # others would have the smallest loss of all, 0
        rows[part] = label[part] != IGNORE_INDEX
        return rows

    @torch.no_grad()
    def _select(
        self,
        network: NestedNetwork,
        batch: Batch,
        part: slice,
        candidates: Tensor,
        counts: Sequence[int],
    ) -> Tensor:
        """Return which candidates, (B,) bool, have a small loss under ``network``."""
        label = batch["label"]
        with evaluation_mode(network):
            logits = at_least_float32(network(batch["image"][part].contiguous())[0])
        with explained_labels(logits, label[part]):
            losses = F.cross_entropy(logits, label[part], reduction="none")
        everywhere = losses.new_zeros(len(label))
        everywhere[part] = losses
        return self.selector.select(everywhere, self._teaching_epoch, candidates, counts)

    @property
    def _teaching_epoch(self) -> int:
        return self.current_epoch - self.warmup_epochs

    def _positions(
        self, chosen: Sequence[Tensor], parts: Sequence[slice]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the positions (n,) of the chosen rows, and which of the positions they are.

        One process knows how many there are at most, and fills up by others in the place of rows
        without a label; of several, each has to look how many are its own.
        """
        rows = len(chosen[0])
        # a row more would count in batch norm, and in a loss that remembers rows
        remembers = "index" in getattr(self.criterion, "needs", ())
        if world_size() == 1 and self.freeze_batchnorm and not remembers:
            found = []
            for mask, part in zip(chosen, parts, strict=True):
                most = self.selector.most(len(range(rows)[part]), self._teaching_epoch)
                order = mask.byte().sort(descending=True, stable=True).indices[:most]
                found.append((order, mask[order]))
            return found
        # one copy for both, as each makes the host wait for a GPU
        known = torch.stack(list(chosen)).cpu()
        places = [to_device(mask.nonzero().squeeze(1), chosen[0].device) for mask in known]
        return [(place, torch.ones_like(place, dtype=torch.bool)) for place in places]

    def _add_network(
        self,
        objectives: Objectives,
        name: str,
        network: NestedNetwork,
        batch: Batch,
        rows: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Add the term of a network on ``rows`` of ``_positions``, or all; return its features."""
        fields = ("image", "label", "index", "group")
        part = {k: batch[k] if rows is None else batch[k][rows[0]] for k in fields if k in batch}
        logits, features = network(part["image"])
        own = Objectives(
            predictions=logits,
            targets=part["label"],
            index=part.get("index"),
            group=part.get("group"),
            features=features,
        )
        self.add_term(own, name, self.criterion, inputs=part["image"])
        values, count = own.per_sample[name], own.count.get(name)
        if rows is not None:
            place, kept = rows
            everywhere = values.new_zeros(len(batch["label"]))
            values = everywhere.index_put((place,), values.where(kept, 0))
            if count is None or count.ndim:
                count = kept if count is None else count.where(kept, 0)
                count = everywhere.index_put((place,), count.to(everywhere.dtype))
        objectives.per_sample[name] = values
        if count is not None:
            objectives.count[name] = count
        return features

    def _selection_logs(
        self, batch: Batch, candidates: Sequence[Tensor], chosen: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return shares over the global batch."""
        selected, scored = torch.stack(list(chosen)), torch.stack(list(candidates))
        counts = [selected.sum(), scored.sum()]
        if "clean_label" in batch:
            counts.append((selected & (batch["label"] == batch["clean_label"])).sum())
        total = all_reduce_sum(torch.stack(counts).float())
        logs = {"selected": total[0] / total[1]}
        if "clean_label" in batch:
            logs["purity"] = total[2] / total[0]
        return logs

    # ---- evaluation ---------------------------------------------------------------------------

    def evaluate(self, batch: Batch) -> Objectives:
        """Count the rows that every prefix classifies correctly, and return the losses."""
        objectives, features = self._on_all_rows(batch)
        self.count_prefixes(features, batch["label"])
        return objectives

    def count_prefixes(self, features: list[Tensor], label: Tensor) -> None:
        """Update the accuracies of the mean logits and of each network."""
        super().count_prefixes(features, label)
        for number, own in enumerate(features, start=1):
            weight = self.networks[number - 1].head.weight
            metric = self.metrics[f"prefix_accuracy_{number}"]
            metric.update(prefix_predictions([own], [weight]), label)

    def make_metrics(self) -> dict[str, Any]:
        """Return the accuracy of every prefix, of both networks and of each."""
        channels = self.network.head.in_features
        return {f"prefix_accuracy{end}": PrefixAccuracy(channels) for end in ("", "_1", "_2")}

    def _log_accuracy(self) -> None:
        super()._log_accuracy()
        for name in ("accuracy_1", "accuracy_2"):
            value = self.metric_values[f"prefix_{name}"][self.eval_k - 1]
            self.metric_values[name] = value
            self.log(f"{self.stage}/{name}", value)

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the accuracy of every prefix."""
        from modules.nested.figure import prefix_accuracy_curves

        names = {"both networks": "", "network 1": "_1", "network 2": "_2"}
        curves = {name: values[f"prefix_accuracy{end}"].cpu() for name, end in names.items()}
        return {"prefix_accuracy": prefix_accuracy_curves(curves, self.eval_k)}
