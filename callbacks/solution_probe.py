"""What kind of solution a run reaches: its features, weights, sharpness and margins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from framework.distributed.collectives import all_reduce_sum
from framework.distributed.row_shards import row_shards
from framework.dynamics.solution_probe import CLASSIFIED, WeightMetric, measure_solution
from framework.dynamics.watched_layers import WatchedLayer, WatchedLayers, find_layers
from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from framework.runs.panels import Panel
from framework.training.compatibility import require_alone
from framework.training.labeled_batches import class_labels, classifies, inputs_and_labels
from framework.training.module import TrainingModule
from framework.utilities.checks import check_at_least, check_one_of, check_positive
from framework.utilities.randomness import capture_rng, restore_rng

Metric = Literal["features", WeightMetric]
ALL: tuple[Metric, ...] = get_args(Metric)


class SolutionProbe(Callback):
    """Logs measures of a solution besides its loss, and changes nothing of the training.

    The optimizer decides which of many solutions of equal loss is found ("Optimizers Qualitatively
    Alter Solutions", arXiv:2507.12224). After validations it measures, on their rows, all under
    ``probe/``:

    - ``features``: ``effective_rank``, ``stable_rank`` and ``energy_rank`` (directions with 99 % of
      the energy) of the centered features of some layers, and ``class_cosine``, the mean cosine
      between class means;
    - ``sparsity``: share of weights below 0.01 of the rms of their tensor;
    - ``norms``: ``norm_l2`` and ``norm_max`` of all parameters;
    - ``pruning``: ``pruned_50`` ... ``pruned_98``, accuracy without the smallest 50, 80, 90, 95 and
      98 % of all weights together, and ``pruned_mean``, the mean height of this curve;
    - ``margins``: ``margin_05``, ``margin_50`` and ``margin_95``, quantiles of the logit margin;
    - ``sharpness``: ``lambda_max`` of the Hessian by Lanczos iteration, and ``ascent``, the rise of
      the loss by a step of length ``rho`` along its gradient. The loss is what the module
      publishes as its terms in evaluation mode, else the cross-entropy.

    Features cost next to nothing; pruning takes 6 forward passes of the rows, sharpness some 20 to
    100 double backward passes. ``trimtab report RUNS --equal`` compares runs by these values at
    equal training loss; ``framework.dynamics`` has the same for one's own loop.

    It serves any ``LightningModule``. What needs class logits takes a ``forward`` that returns them
    (B, C), and batches with ``image`` and ``label`` or a tuple of both.

    Args:
        metrics: Groups of metrics, as above; None for all that fit the module.
        layers: Layers whose outputs are the features, by patterns of their names such as
            ``network.*``; None for the input of the last linear layer. With patterns, the name of
            the layer follows that of the metric.
        every_n_epochs: Epochs between two measurements during ``fit``; the last of ``max_epochs``
            and ``validate`` are always measured.
        max_samples: Rows of a validation after which no further batch is looked at, but by
            ``features``.
        rho: Length of the step of ``ascent``.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: A group that the module does not fit, layers that there are not, weights
            of which ranks hold parts, or a second SolutionProbe.

    Example:
        >>> SolutionProbe(["features", "sharpness"], every_n_epochs=5).metrics
        ('features', 'sharpness')
    """

    panels = (
        Panel("Dimensions of the features", ("probe/*_rank*",), "directions"),
        Panel("Cosine between class means", ("probe/class_cosine*",), "cosine"),
        Panel(
            "Accuracy after pruning", ("probe/accuracy", "probe/pruned_*"), "share of the samples"
        ),
        Panel("Sparsity", ("probe/sparsity",), "share of the weights"),
        Panel("Sharpness", ("probe/lambda_max",)),
        Panel("Rise of the loss along its gradient", ("probe/ascent",)),
        Panel("Margins", ("probe/margin_*",), "logits"),
        Panel("Norms of the parameters", ("probe/norm_*",)),
    )

    def __init__(
        self,
        metrics: list[Metric] | None = None,
        layers: list[str] | None = None,
        every_n_epochs: int = 1,
        max_samples: int = 2048,
        rho: float = 0.05,
    ) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs, max_samples=max_samples)
        check_positive(rho=rho)
        for metric in metrics or ():
            check_one_of(ALL, metrics=metric)
        self.metrics = ALL if metrics is None else tuple(metrics)
        self.layers = layers
        self.every_n_epochs = every_n_epochs
        self.max_samples = max_samples
        self.rho = rho
        self._is_explicit = metrics is not None
        self._watched: WatchedLayers | None = None
        self._batches: list[tuple[Any, int]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what the module has not."""
        require_alone(self, trainer.callbacks)  # type: ignore[attr-defined]
        has = {
            **dict.fromkeys(CLASSIFIED, classifies(pl_module)),
            "sharpness": _has_loss(pl_module),
        }
        for metric in self.metrics if self._is_explicit else ():
            if not has.get(metric, True):
                needed = "class logits" if metric in CLASSIFIED else "a loss of validation rows"
                raise IncompatibleError(
                    f"SolutionProbe measures {metric!r} of {needed}, which "
                    f"{type(pl_module).__name__} does not have: leave it out of metrics."
                )
        if "features" in self.metrics:
            self._layers_of(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the layers, if this validation is measured."""
        self._forget()
        if self._measures(trainer) and "features" in self.metrics:
            self._watched = WatchedLayers(self._layers_of(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Forget what another callback let the layers see since the last batch."""
        if self._watched is not None:
            self._watched.forget()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the features up, and keep the batch for what is measured at the end."""
        if not self._measures(trainer):
            return
        if self._watched is not None:
            self._watched.add(class_labels(pl_module, batch))
        if set(self.metrics) != {"features"} and self._rows < self.max_samples:
            count = torch.tensor(_rows(batch), device=pl_module.device)
            with torch.inference_mode(False):
                # a tensor of inference mode cannot take part in a gradient
                kept = tree_map_only(Tensor, torch.clone, batch)
            self._batches.append((kept, int(all_reduce_sum(count))))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        if not self._measures(trainer):
            return
        values = {} if self._watched is None else self._watched.compute()
        batches = self._batches
        self._forget()
        if batches:
            values |= self._measured(trainer, pl_module, batches)
        pl_module.log_dict({f"probe/{name}": value for name, value in values.items()})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Watch no layer any longer."""
        self._forget()

    def _measured(
        self, trainer: Trainer, module: LightningModule, batches: list[tuple[Any, int]]
    ) -> dict[str, Tensor]:
        """Return what is measured of the weights, and leave no trace of it."""
        labeled = classifies(module) and class_labels(module, batches[0][0]) is not None
        misfit = [one for one in self.metrics if one in CLASSIFIED]
        if self._is_explicit and misfit and not labeled:
            raise IncompatibleError(
                f"SolutionProbe measures {misfit[0]!r} by labels (B,) of classes, which the "
                "batches do not have: leave it out of metrics."
            )
        groups: list[WeightMetric] = [
            one for one in self.metrics if one != "features" and (labeled or one not in CLASSIFIED)
        ]
        if "sharpness" in groups and not labeled and not _publishes(module):
            groups.remove("sharpness")
        if row_shards(module) or any(isinstance(p, DTensor) for p in module.parameters()):
            raise IncompatibleError(
                "SolutionProbe measures whole weights, of which ranks hold parts here: set its "
                "metrics to ['features']."
            )
        rows = sum(count for _, count in batches)
        rng = capture_rng()
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

        def loss() -> Iterator[Tensor]:
            restore_rng(rng)
            for batch, count in batches:
                assert isinstance(module, TrainingModule)
                objectives = module.guide_objectives(module.fields_of(batch))
                yield reduce_objectives(objectives).total * (count / rows)

        def predict(*inputs: Any) -> Tensor:
            output = module(*inputs)
            found = module.predictions_of(output) if isinstance(module, TrainingModule) else output
            if not isinstance(found, Tensor) or found.ndim != 2:
                raise IncompatibleError(
                    f"SolutionProbe takes a forward that returns class logits (B, C), which that "
                    f"of {type(module).__name__} does not: set its metrics to features, sparsity "
                    "and norms."
                )
            return found

        pairs = [inputs_and_labels(module, b, "SolutionProbe") for b, _ in batches if labeled]
        try:
            with torch.inference_mode(False), trainer.precision_plugin.forward_context():
                return measure_solution(
                    module,
                    pairs,
                    groups,
                    predict,
                    loss if _publishes(module) else None,
                    self.rho,
                )
        finally:
            restore_rng(rng)
            for buffer, value in buffers:
                buffer.copy_(value)

    @property
    def _rows(self) -> int:
        return sum(count for _, count in self._batches)

    def _layers_of(self, module: LightningModule) -> list[WatchedLayer]:
        found = find_layers(module, self.layers)
        if not found and self._is_explicit:
            raise IncompatibleError(
                f"{type(module).__name__} has no linear layer whose inputs are features: name "
                "layers of SolutionProbe."
            )
        return found

    def _forget(self) -> None:
        if self._watched is not None:
            self._watched.close()
        self._watched, self._batches = None, []

    def _measures(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        done = trainer.current_epoch + 1
        due = done % self.every_n_epochs == 0 or done == trainer.max_epochs
        return due or trainer.state.fn == "validate"


def _publishes(module: LightningModule) -> bool:
    """Return whether the terms of a module are a loss of validation rows."""
    return (
        isinstance(module, TrainingModule)
        and module.automatic_optimization
        # those rows are of classes that are not trained
        and module.embedding_column is None
    )


def _has_loss(module: LightningModule) -> bool:
    return classifies(module) or _publishes(module)


def _rows(batch: Any) -> int:
    """Return the number of rows of a batch of any form."""
    values = batch.values() if isinstance(batch, dict) else batch
    values = [values] if isinstance(values, Tensor) else list(values)
    sizes = [len(v) for v in values if isinstance(v, list) or (isinstance(v, Tensor) and v.ndim)]
    return max(sizes, default=0)
