"""Co-teaching: two networks that select training samples for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MetricCollection

from framework.data.datasets import Batch
from framework.distributed.collectives import all_reduce_sum, rank, rows_per_rank
from framework.gradients.combiner import GradientCombiner
from framework.metrics.prefix_accuracy import PrefixAccuracy
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.ops.prefix import prefix_predictions
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.precision import at_least_float32
from modules.classifier.module import Criterion
from modules.classifier.network import build_network
from modules.coteaching.small_loss import Scope, SmallLossSelector
from modules.coteaching.stage_one import load_stage_one
from modules.nested.module import NestedClassifier
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
    forget rate and the frozen batch-norm statistics; ``halves=False`` is Han et al.'s rule.

    Args:
        num_classes: K.
        input_shape: (C, H, W) of an image.
        backbone: of both networks, see ``NestedClassifier``.
        widths: as there.
        pretrained: as there; the heads differ all the same.
        sigma: of the nested dropout; None for plain co-teaching.
        mu: as there.
        dropout: as there.
        forget_rate: share of rows that are left out, in [0, 1); about that of wrong labels.
        ramp_epochs: epochs of stage 2 in which the forget rate grows from 0.
        scope: whether rows are ranked over all ranks (``global``) or on each (``local``).
        halves: each network scores one half of the batch; otherwise both score all of it.
        freeze_batchnorm: keep the batch-norm statistics of stage 1 in stage 2.
        checkpoints: of two stage-1 runs of ``NestedClassifier``.
        warmup_epochs: length of stage 1 in this run.
        teaching_lr: learning rate of stage 2; default that of ``optimizer``.
        criterion: the loss that is trained; what scores is always cross-entropy.
        optimizer: from parameter groups to an optimizer.
        lr_scheduler: from an optimizer to a schedule, in each stage from its start.
        sync_batchnorm: share batch-norm statistics between ranks.
        gradient_combiner: how the gradients of several terms become one.

    Raises:
        ValueError: an argument out of range, other than two checkpoints, checkpoints together with
            a warm-up, a criterion that is no sum over samples, or see
            ``Classifier``.
        FileNotFoundError: there is no such checkpoint (at ``setup``).
        IncompatibleError: a checkpoint of another network, or data that mixes samples (likewise).

    Example:
        >>> import torch
        >>> from modules import CoTeaching
        >>> model = CoTeaching(num_classes=10, input_shape=(1, 8, 8), forget_rate=0.4)
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    provides: tuple[str, ...] = ("per_sample", "targets", "index")

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: Sequence[int] = (1, 8, 8),
        backbone: str = "mlp",
        widths: Sequence[int] = (256, 256),
        pretrained: bool = False,
        sigma: float | None = 50.0,
        mu: float = 0.0,
        dropout: float = 0.0,
        forget_rate: float = 0.2,
        ramp_epochs: int = 0,
        scope: Scope = "global",
        halves: bool = True,
        freeze_batchnorm: bool = True,
        checkpoints: list[str] | None = None,
        warmup_epochs: int = 0,
        teaching_lr: float | None = None,
        criterion: Criterion | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        sync_batchnorm: bool = True,
        gradient_combiner: GradientCombiner | None = None,
    ) -> None:
        super().__init__(
            num_classes,
            input_shape,
            backbone,
            widths,
            pretrained,
            sigma,
            mu,
            dropout,
            criterion,
            optimizer,
            lr_scheduler,
            sync_batchnorm,
            gradient_combiner,
        )
        if getattr(self.criterion, "batch_coupled", False):
            raise ValueError(
                f"Co-teaching selects samples, and {type(self.criterion).__name__} is no sum over "
                "samples."
            )
        if checkpoints is not None and len(checkpoints) != 2:
            raise ValueError(f"checkpoints must name two files, got {len(checkpoints)}.")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative, got {warmup_epochs}.")
        if checkpoints is not None and warmup_epochs:
            raise ValueError("checkpoints are of stage 1, so set warmup_epochs to 0 with them.")
        other = build_network(backbone, num_classes, input_shape, widths, pretrained)
        self.network_2 = NestedNetwork(other, sigma, mu, dropout)
        self.selector = SmallLossSelector(forget_rate, ramp_epochs, scope)
        self.halves = halves
        self.freeze_batchnorm = freeze_batchnorm
        self.checkpoints = checkpoints
        self.warmup_epochs = warmup_epochs
        self.teaching_lr = teaching_lr

    # ---- the two stages -----------------------------------------------------------------------

    @property
    def networks(self) -> list[NestedNetwork]:
        """Both networks."""
        return [self.network, self.network_2]

    @property
    def teaching(self) -> bool:
        """Whether stage 2 has begun."""
        return self.phase > 0 or self.warmup_epochs == 0

    def setup(self, stage: str) -> None:
        """Refuse mixed samples, and start from the checkpoints of stage 1."""
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "mixes_samples", False):
            raise IncompatibleError(
                "Co-teaching selects samples by their own labels and cannot be combined with "
                f"mixup; switch {type(data).__name__}'s mixup off."
            )
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

    def _freeze(self) -> None:
        if self.freeze_batchnorm and self.teaching:
            for layer in self.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of both networks, with the learning rate of the stage."""
        groups = super().parameter_groups()
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
        try:
            return self._teach(batch) if self.teaching else self._on_all_rows(batch)[0]
        except (IndexError, RuntimeError):
            self._check_labels(batch["label"])
            raise

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
        candidates = self._candidates(label)
        chosen = [
            self._select(network, batch, rows)
            for network, rows in zip(self.networks, candidates, strict=True)
        ]
        objectives = Objectives(targets=label, index=batch.get("index"))
        # each network learns from what the other one chose
        self._add_network(objectives, "network_1", self.network, batch, chosen[1])
        self._add_network(objectives, "network_2", self.network_2, batch, chosen[0])
        objectives.sample_weight = (chosen[0] | chosen[1]).float()
        objectives.logs = self._selection_logs(batch, candidates, chosen)
        return objectives

    def _candidates(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows, (B,) bool, that network 1 and network 2 score."""
        rows = len(label)
        if not self.halves:
            everything = torch.ones(rows, dtype=torch.bool, device=label.device)
            return everything, everything
        start = sum(rows_per_rank(rows, label.device)[: rank()])
        even = torch.arange(start, start + rows, device=label.device) % 2 == 0
        return even, ~even

    @torch.no_grad()
    def _select(self, network: NestedNetwork, batch: Batch, rows: Tensor) -> Tensor:
        """Return which of ``rows``, (B,) bool, have a small loss under ``network``."""
        label = batch["label"][rows]
        with evaluation_mode(network):
            logits = at_least_float32(network(batch["image"][rows])[0])
        losses = F.cross_entropy(logits, label, reduction="none")
        everywhere = losses.new_zeros(len(rows)).masked_scatter(rows, losses)
        epoch = self.current_epoch - self.warmup_epochs
        return self.selector.select(everywhere, epoch, rows)

    def _add_network(
        self,
        objectives: Objectives,
        name: str,
        network: NestedNetwork,
        batch: Batch,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Add the term of a network on ``rows``, (B,) bool, or all; return its features."""
        fields = ("image", "label", "index", "group")
        part = {k: batch[k] if rows is None else batch[k][rows] for k in fields if k in batch}
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
            values = values.new_zeros(len(rows)).masked_scatter(rows, values)
            if count is None:
                count = rows
            elif count.ndim:
                count = count.new_zeros(len(rows)).masked_scatter(rows, count)
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

    def make_metrics(self) -> MetricCollection:
        """Return the accuracy of every prefix, of both networks and of each."""
        channels = self.network.head.in_features
        names = ("prefix_accuracy", "prefix_accuracy_1", "prefix_accuracy_2")
        return MetricCollection(
            {name: PrefixAccuracy(channels) for name in names}, compute_groups=False
        )

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
