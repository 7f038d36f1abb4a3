"""Validation, test and prediction, the same for every domain and any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torchmetrics import MetricCollection

from framework.data.datasets import Batch
from framework.data.facts import Facts, facts_of, model_arguments
from framework.distributed.collectives import world_size
from framework.figures.score_table import Table
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.runs.panels import Panel
from framework.training.batches import named_fields
from framework.training.term_means import TermMeans
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.lightning_internals import QuickHooksModule, datamodule_of, trainer_of
from framework.utilities.precision import FullPrecisionDict


class EvaluationModule(QuickHooksModule):
    """Runs a domain's metrics and losses over a validation or test set, and its predictions.

    A domain writes ``evaluate`` and, where it has them, ``make_metrics``, ``figures``,
    ``score_tables``, ``panels`` and ``predict_columns``, or ``predict_step`` where predictions are
    no columns.
    """

    config: dict[str, Any] | None = None
    """The run's config, of a module that ``trimtab.load`` returned."""
    make_datamodule: Callable[[], Any] | None = None
    """Returns the datamodule of the run that the module was loaded from."""
    decoding_facts: Mapping[str, Any] = {}
    """What a reader of the network's output must know beside the data's facts; plain values."""

    arguments_from_data: Mapping[str, str] = {}
    """Fact of the data that an argument follows from where nobody gives it, see ``for_data``."""
    required_fields: tuple[str, ...] = ()
    """Fields that every batch must have, the input first; prediction needs that one only."""
    tuple_fields: tuple[str, ...] = ()
    """Names of the parts of a batch that is a tuple; without them a tuple is refused."""
    panels: tuple[Panel, ...] = ()
    """Charts of the domain on a dashboard, before those of every domain."""
    embedding_column: str | None = None
    """Predicted column (B, D) that ``EmbeddingWriter`` writes as an array, as it fits no table."""
    predicts_rows = True
    """False if ``predict_step`` returns something else than columns with a row per sample."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics = FullPrecisionDict()
        self._stage_means = {stage: TermMeans() for stage in ("val", "test")}
        self.metric_values: dict[str, Any] = {}
        """Every value of the latest evaluation, also those that are no scalars."""
        self.data_facts: Facts = {}
        """What the training data were found to be, such as the names of the classes."""

    @classmethod
    def for_data(cls, data: LightningDataModule, **arguments: Any) -> Self:
        """Return a module for data, which are set up to learn what the arguments leave open.

        Args:
            data: Datamodule to train on.
            **arguments: Arguments of the module.

        Example:
            >>> from datamodules import Digits
            >>> from modules import Classifier
            >>> model = Classifier.for_data(Digits(), backbone="mlp")
            >>> model.num_classes, model.input_shape
            (10, (1, 8, 8))
        """
        data.prepare_data()
        data.setup("fit")
        return cls(**arguments, **model_arguments(cls, facts_of(data), arguments))

    @property
    def column_names(self) -> dict[str, Sequence[str]]:
        """Names of the K parts of a predicted column (B, K), or of the values of an integer (B,).

        The prediction file has them in the place of numbers.
        """
        return {}

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in training, by label, or None where they have none."""
        return self.data_facts.get("class_names")

    def evaluate(self, batch: Batch) -> Objectives | None:
        """Update ``metrics`` with a batch; terms that are returned are averaged and logged."""
        raise NotImplementedError(f"{type(self).__name__} defines no evaluation.")

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return columns of the prediction file, each (B,) or (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} defines no predictions.")

    @property
    def datamodule(self) -> Any:
        """The Trainer's datamodule, or that of the run that the module was loaded from, or None."""
        trainer = trainer_of(self)
        if trainer is not None:
            return datamodule_of(trainer)
        return None if self.make_datamodule is None else self.make_datamodule()

    @torch.no_grad()
    def predict(self, inputs: Any) -> Any:
        """Return what ``trimtab predict`` writes, of raw inputs or of a batch.

        The module may be in either mode, and predicts as in evaluation. It computes in the
        precision of its parameters.

        Args:
            inputs: What the datamodule's ``as_batch`` takes, such as images (N, C, H, W) of a
                tensor or an array, uint8 or in [0, 1], or rows (N, D) of a table; or a batch, a
                dict of tensors as the datamodule's loaders yield it, predicted as it is.

        Returns:
            The columns of the prediction file by name, each (N,) or (N, K), or what
            ``predict_step`` returns where predictions are no columns, such as one dict of
            detections per image.

        Raises:
            ValueError: Raw inputs for a module that knows no datamodule, or of another kind than
                its datamodule serves.
        """
        if not isinstance(inputs, Mapping):
            as_batch = getattr(self.datamodule, "as_batch", None)
            if as_batch is None:
                raise ValueError(
                    f"{type(self).__name__} knows no datamodule that makes a batch of these "
                    f"inputs: load it by trimtab.load, or give a batch, a dict of tensors."
                )
            inputs = as_batch(inputs)
        batch = self.transfer_batch_to_device(inputs, self.device, 0)
        with evaluation_mode(self):
            return self.predict_step(batch, 0)

    def make_metrics(self) -> Mapping[str, Any] | MetricCollection | None:
        """Return the metrics of an evaluation, named without a stage; called once per stage."""
        return None

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return named matplotlib figures of an evaluation's metric values."""
        return {}

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return named tables of an evaluation's metric values, such as the scores of classes."""
        return {}

    @property
    def has_metrics(self) -> bool:
        """Whether the metrics mean something yet; the same on every rank."""
        return True

    def setup_metrics(self) -> None:
        """Make the metrics of every stage, once."""
        for name in self._stage_means:
            metrics = self.make_metrics()
            if metrics is None or name in self._metrics:
                continue
            if not isinstance(metrics, MetricCollection):
                # groups would tie states of metrics together and break their separate reset
                metrics = MetricCollection(dict(metrics), compute_groups=False)
            self._metrics[name] = metrics

    @property
    def stage(self) -> str:
        """``'val'`` or ``'test'`` while evaluating."""
        trainer = trainer_of(self)
        return "test" if trainer is not None and trainer.testing else "val"

    @property
    def metrics(self) -> MetricCollection:
        """The metrics of the current evaluation; empty before ``setup``."""
        if self.stage not in self._metrics:
            return MetricCollection({})
        return self._metrics[self.stage]  # type: ignore[return-value]

    def fields_of(self, batch: Any, predicting: bool = False) -> Batch:
        """Return the batch of any loader as a dict with the fields that a step reads.

        Args:
            batch: Dict, or a tuple or list of tensors where ``tuple_fields`` names its parts.
            predicting: Whether the input alone is needed.

        Raises:
            IncompatibleError: The batch is of another kind, or lacks a field.
        """
        if not self.required_fields:
            return batch
        required = self.required_fields[:1] if predicting else self.required_fields
        return named_fields(batch, type(self).__name__, required, self.tuple_fields)

    def check_numbers(self, batch: Batch) -> None:
        """Refuse numbers of a batch, still on the CPU, that would end a process on a GPU."""

    def prepare_on_cpu(self, batch: Any) -> Any:
        """Check the numbers of a batch that is measured, where its steps cannot."""
        trainer = trainer_of(self)
        measured = trainer is not None and not trainer.predicting
        # a tensor is an example of the input, for a summary
        if measured and self.device.type != "cpu" and not isinstance(batch, Tensor):
            self.check_numbers(self.fields_of(batch))
        return batch

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch."""
        self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> None:
        objectives = self.evaluate(self.fields_of(batch))
        if objectives is None:
            return
        reduced = reduce_objectives(objectives)
        values = torch.stack([reduced.total, *reduced.terms.values()]).detach()
        names = ("loss", *reduced.terms)
        self._stage_means[self.stage].update(names, values / world_size(), reduced.rows)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and the mean losses."""
        self._log_evaluation()

    def on_test_epoch_end(self) -> None:
        """Log the metrics and the mean losses."""
        self._log_evaluation()

    def _log_evaluation(self) -> None:
        means = self._stage_means[self.stage]
        values: dict[str, Any] = dict(means.compute())
        means.reset()
        if self.stage in self._metrics and self.has_metrics:
            values |= self.metrics.compute()
            # a fit could not update what is made in the inference mode of an evaluation before it
            with torch.inference_mode(False):
                self.metrics.reset()
        self.metric_values = values
        if self.trainer.sanity_checking:
            # its few batches may lack a value, which would change the order of all that follow
            return
        scalars = {n: v for n, v in values.items() if isinstance(v, Tensor) and v.numel() == 1}
        self.log_dict({f"{self.stage}/{n}": v.float() for n, v in scalars.items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the columns of the prediction file and the index of each row."""
        batch = self.fields_of(batch, predicting=True)
        columns = self.predict_columns(batch)
        return {"index": batch["index"], **columns} if "index" in batch else columns
