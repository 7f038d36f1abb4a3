"""The base of every LightningModule that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, ClassVar, TypedDict

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import Parameter
from torch.nn.modules.loss import _Loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch, root_and_rows
from framework.data.facts import KEY, facts_of
from framework.distributed.consistency import check_equal_on_all_ranks
from framework.distributed.row_shards import row_shards
from framework.distributed.sample_state import check_index
from framework.gradients.combined_step import CombinedStep
from framework.gradients.combiner import GradientCombiner
from framework.losses.loss import Loss
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import ReducedObjectives, reduce_objectives
from framework.optim.parameter_groups import is_decayed
from framework.runs import model_class
from framework.schedules.steps import total_steps_from
from framework.training import compatibility
from framework.training.accumulation import AccumulationWindow
from framework.training.clipping import clip_gradients
from framework.training.compilation import compile_networks
from framework.training.equal_buffers import has_equal_buffers
from framework.training.evaluation import EvaluationModule
from framework.training.needed_values import values_for
from framework.training.nonfinite import check_parameters
from framework.training.objectives_callback import ObjectivesCallback
from framework.training.optimizers import make_optimizer
from framework.training.plateau import PlateauStep, plateau_config, step_plateau
from framework.training.row_shards import save_whole_rows, take_own_states
from framework.training.step_replay import StepReplay
from framework.training.term_log import TermLog
from framework.training.terms import add_term, explained_labels
from framework.training.trainable import TrainableParameters
from framework.training.tuned_weights import match_tuned_weights
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.lightning_internals import (
    is_accumulating,
    train_loader,
    trainer_of,
)
from framework.utilities.module_copy import forget_methods_of_others


class TrainingOptions(TypedDict, total=False):
    """Arguments that every ``TrainingModule`` takes and hands on, but for the optimizer.

    The optimizer is an argument of each module, as its default differs.

    Args:
        lr_scheduler: Schedule of the learning rate, which counts optimizer steps; None for none.
        sync_batchnorm: Whether ranks share their batch-norm statistics.
        gradient_combiner: Method that makes one gradient of those of several terms; None adds them.
        compile: Whether the networks run as compiled code, by ``torch.compile``.
    """

    lr_scheduler: LRSchedulerCallable | None
    sync_batchnorm: bool
    gradient_combiner: GradientCombiner | None
    compile: bool


class TrainingModule(EvaluationModule):
    """Base of every domain: from named terms to a step that is the same on any number of ranks.

    A domain writes ``forward``, ``objectives``, ``evaluate`` and, where they differ from
    the default, ``shared_parameters``, ``parameter_groups``, and what
    ``EvaluationModule`` asks for.

    Class attributes:
        provides: Optional fields of ``Objectives`` that ``objectives`` fills; ``index`` and
            ``group`` may be missing where the batches lack them and nothing needs them.
        whole_parameters: Whether it reads or changes parameters outside of its steps, so that the
            ranks cannot hold parts of them.
        compilable: Whether its steps call its networks as such, which is what ``compile`` reaches.
        whole_batches: Whether what its networks train on has the rows of the batch, in their order.

    Args:
        optimizer: Optimizer, made from the parameter groups.
        lr_scheduler: Schedule of the learning rate, which counts optimizer steps; None for none.
        sync_batchnorm: Whether ranks share their batch-norm statistics.
        gradient_combiner: Method that makes one gradient of those of several terms; None adds them.
        compile: Whether the networks run as compiled code, by ``torch.compile``.
    """

    provides: tuple[str, ...] = ()
    whole_parameters: ClassVar[bool] = False
    compilable: ClassVar[bool] = True
    whole_batches: ClassVar[bool] = True
    prediction_shape: tuple[int, ...] | None = None
    """Shape of one row of ``Objectives.predictions``, where it is fixed."""

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        sync_batchnorm: bool = True,
        gradient_combiner: GradientCombiner | None = None,
        compile: bool = False,  # noqa: A002  (torch's name)
    ) -> None:
        super().__init__()
        self.runs_compiled = compile
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.sync_batchnorm = sync_batchnorm
        self._combined_step: CombinedStep | None = None
        self.gradient_combiner = gradient_combiner
        self.guide_batch: Callable[[], Batch] | None = None
        self.phase = 0
        self._phase_start = 0
        self._term_log = TermLog()
        self._trainable: TrainableParameters | None = None
        self._fields_checked = False
        self._window = AccumulationWindow()
        self._replay: StepReplay | None = None
        self._num_samples: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingModule:
        """Copy parameters and state, for averages of the weights.

        Callables are shared: those of the command hold the whole run, and the guide's a loader.
        """
        for shared in (self.optimizer, self.lr_scheduler, self.guide_batch):
            memo[id(shared)] = shared
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__({k: deepcopy(v, memo) for k, v in self.__getstate__().items()})
        forget_methods_of_others(copied)
        return copied

    # ---- what a domain writes -----------------------------------------------------------------

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms of one training step on this rank's batch, which may be empty."""
        raise NotImplementedError(f"{type(self).__name__} defines no objectives.")

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes, so that others can ask for this batch's predictions."""
        return (batch["image"],)

    def predictions_of(self, output: Any) -> Tensor:
        """Return ``Objectives.predictions`` of what ``forward`` returned; default: the same."""
        return output

    def shared_parameters(self) -> Iterable[Parameter]:
        """Return what gradient methods act on; default: every trainable parameter."""
        return [p for p in self.parameters() if p.requires_grad]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups; default: no weight decay for norms, biases and other vectors.

        A group's ``lr_scale`` multiplies its learning rate; ``bias`` tells a schedule of biases.
        """
        trainable = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        matrices = [p for n, p in trainable if is_decayed(n, p)]
        vectors = [p for n, p in trainable if not is_decayed(n, p)]
        groups: list[dict[str, Any]] = []
        if matrices:
            groups.append({"params": matrices})
        if vectors:
            groups.append({"params": vectors, "weight_decay": 0.0})
        return groups

    def guide_objectives(self, batch: Batch) -> Objectives:
        """Return the terms whose plain sum a held-out guide minimizes; default: all of a step.

        Called in evaluation mode, with gradients, on rows that are not trained.
        """
        return self.objectives(batch)

    @property
    def gradient_combiner(self) -> GradientCombiner | None:
        """How the gradients of several terms become one; the config or one callback fills it."""
        return None if self._combined_step is None else self._combined_step.combiner

    @gradient_combiner.setter
    def gradient_combiner(self, combiner: GradientCombiner | None) -> None:
        present = self.gradient_combiner
        if combiner is not None and present is not None and combiner is not present:
            raise compatibility.IncompatibleError(
                f"{type(present).__name__} already combines the gradients of "
                f"{type(self).__name__}; {type(combiner).__name__} would be a second one."
            )
        if combiner is not present:
            self._combined_step = None if combiner is None else CombinedStep(combiner)

    # ---- set-up -------------------------------------------------------------------------------

    @property
    def losses(self) -> list[Loss]:
        """Every Trimtab loss of this module."""
        return [m for m in self.modules() if isinstance(m, Loss)]

    @property
    def objectives_callbacks(self) -> list[ObjectivesCallback]:
        """The callbacks that change training, in order; none without a Trainer."""
        callbacks = getattr(trainer_of(self), "callbacks", [])
        return [c for c in callbacks if isinstance(c, ObjectivesCallback)]

    @property
    def _owners(self) -> list[Loss | ObjectivesCallback]:
        """Everything that declares what it needs."""
        return [*self.losses, *self.objectives_callbacks]

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks that make resuming exact, for any Trainer."""
        from framework.runs.lost_rank import LostRank
        from framework.runs.preemption import PreemptionCheckpoint
        from framework.runs.resume import ExactResume

        kinds: list[type[Callback]] = [PlateauStep, ExactResume, LostRank]
        if self.trainer.state.fn == "fit":
            compatibility.check_callbacks(self.trainer)
            if self.trainer.checkpoint_callbacks:
                kinds.append(PreemptionCheckpoint)
        present = {type(callback) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        return [kind() for kind in kinds if kind not in present]

    def setup(self, stage: str) -> None:
        """Make metrics, allocate per-sample state, and refuse what does not fit together."""
        self.setup_metrics()
        if self.trainer.world_size > 1 and self.sync_batchnorm:
            from framework.layers.sync_batchnorm import convert_sync_batchnorm

            convert_sync_batchnorm(self)
        if self.runs_compiled:
            compatibility.check_compilation(self)
            compile_networks(
                self,
                self.trainer.strategy.root_device,
                several_backwards=self.gradient_combiner is not None,
            )
        # DDP would make the rows of one rank those of all
        self._ddp_params_and_buffers_to_ignore = list(row_shards(self))
        if stage != "fit":
            return
        data = self.datamodule
        self.data_facts = facts_of(data)
        compatibility.check_sharding(self)
        for owner in self._owners:
            compatibility.check_groups(owner, data)
            compatibility.check_needs(owner, owner.needs, self, self.provides)
        compatibility.check_monitors(self.losses, self.trainer)
        compatibility.check_soft_targets([m for m in self.modules() if isinstance(m, _Loss)], data)
        if self.gradient_combiner is not None:
            guided = self.guide_batch is not None
            compatibility.check_combiner(self.gradient_combiner, self, guided)
        for loss in self.losses:
            loss.setup(*self._data_facts(loss, data), self.trainer.strategy.root_device)

    def _data_facts(self, loss: Loss, data: Any) -> tuple[int, int | None]:
        """Return the rows of the full training set and the number of classes."""
        if isinstance(data, DataModule):
            return data.num_samples, data.num_classes
        if "index" not in loss.needs:
            return 0, None
        dataset = getattr(train_loader(self.trainer), "dataset", None)
        if not hasattr(dataset, "__len__"):
            raise compatibility.IncompatibleError(
                f"{type(loss).__name__} needs the number of training samples: give fit() a "
                "DataLoader of a map-style data set, or a trimtab DataModule."
            )
        self._num_samples = len(root_and_rows(dataset, [])[0])
        return self._num_samples, getattr(self, "num_classes", None)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that does not fit the run."""
        compatibility.check_optimizer(optimizer, self.trainer)
        compatibility.check_row_optimizer(optimizer, self)
        wants_replays = getattr(optimizer, "needs_problem", False)
        self._replay = StepReplay(self, optimizer) if wants_replays else None
        # of this run alone: Lightning warns of every module that overrides it
        vars(self).pop("optimizer_step", None)
        if self._replay is not None:
            vars(self)["optimizer_step"] = self._replay.optimizer_step

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build optimizer and schedule from the callables of the config."""
        optimizer = make_optimizer(self.optimizer, self.parameter_groups(), type(self).__name__)
        self.check_optimizer(optimizer)
        if self.lr_scheduler is None:
            return optimizer
        with total_steps_from(self.trainer, start=self._phase_start):
            schedule = self.lr_scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            config |= plateau_config(schedule)
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]

    def new_phase(self) -> None:
        """Begin the next phase of a method: rebuild optimizer and schedule.

        The number of the phase, ``phase``, is in the checkpoint and restored before the
        optimizer is built, so ``parameter_groups`` may depend on it. A schedule with
        ``total_steps: auto`` covers the rest of the run.
        """
        self.phase += 1
        self._phase_start = self.global_step
        self.trainer.strategy.setup_optimizers(self.trainer)

    def on_fit_start(self) -> None:
        """Note what is trainable: it must not change while DDP holds its buckets."""
        self._trainable = TrainableParameters(self)
        self._fields_checked = False
        self._window = AccumulationWindow()
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and has_equal_buffers(self):
            model.broadcast_buffers = False

    def on_train_start(self) -> None:
        """Refuse an iterable data set where something needs the index of a sample."""
        for owner in self._owners:
            if "index" in owner.needs:
                compatibility.check_map_style(owner, self.trainer)

    def check_numbers(self, batch: Batch) -> None:
        """Refuse an index that a loader made which is no data module's."""
        if self._num_samples is not None and self.trainer.training and "index" in batch:
            check_index(batch["index"], self._num_samples)

    # ---- training -----------------------------------------------------------------------------

    def add_term(
        self,
        objectives: Objectives,
        name: str,
        loss: _Loss,
        predictions: Tensor | None = None,
        targets: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> None:
        """Add ``loss`` to ``objectives``, handing it what it needs.

        Args:
            objectives: Objectives of this step; give index, group, features and sample weights.
            name: Name of the term.
            loss: Loss of torch or Trimtab.
            predictions: Predictions (B, ...); default ``objectives.predictions``.
            targets: Targets (B, ...); default ``objectives.targets``.
            inputs: Input of the network, for losses that need it.
        """
        predictions = objectives.predictions if predictions is None else predictions
        targets = objectives.targets if targets is None else targets
        assert predictions is not None
        assert targets is not None
        # a method of the module in both cases, as attacks ask a method for its network
        forward = self.forward if self._replay is None else self.recorded_forward
        available = values_for(loss, self, objectives, predictions, inputs, forward)
        ignored = getattr(loss, "ignore_index", None)
        with explained_labels(predictions, targets, ignored):
            add_term(objectives, name, loss, predictions, targets, **available)

    def reduced_objectives(self, batch: Batch) -> ReducedObjectives:
        """Return the step's terms after the callbacks and the reduction over ranks."""
        batch = self.fields_of(batch)
        replay = self._replay
        objectives = self.objectives(batch) if replay is None else replay.objectives(batch)
        if not self._fields_checked:
            compatibility.check_provided(self, self._owners, objectives)
            terms = [*objectives.terms, *objectives.per_sample]
            compatibility.check_monitors(self.losses, self.trainer, terms)
            self._fields_checked = True
        for callback in self.objectives_callbacks:
            callback.on_objectives(self.trainer, self, objectives, batch)
        reduced = reduce_objectives(objectives)
        if self._combined_step is not None:
            reduced.total = self._combine(self._combined_step, reduced, objectives)
        self._term_log.add(self.trainer, reduced, objectives, self._combined_step)
        return reduced

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return what is sent backward."""
        reduced = self.reduced_objectives(batch)
        if self.trainer.accumulate_grad_batches == 1:
            return reduced.total
        normalizer = reduced.rows if reduced.normalizer is None else reduced.normalizer
        return reduced.total * self._window.add(normalizer, batch_idx)

    def recorded_forward(self, *inputs: Any) -> Any:
        """Return what ``forward`` does, and let the optimizer ask for it again."""
        return self.forward(*inputs) if self._replay is None else self._replay.forward(*inputs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as ``clip_gradients`` of ``framework.training.clipping`` does."""
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_after_backward(self) -> None:
        """Make the accumulated gradient that of the union of the batches."""
        if self._window.is_open and not is_accumulating(self.trainer):
            self._window.close(self.parameters(), self.trainer.accumulate_grad_batches)

    def _combine(
        self, step: CombinedStep, reduced: ReducedObjectives, objectives: Objectives
    ) -> Tensor:
        """Return the plain sum, whose backward pass gives the combined gradient."""
        return step(
            reduced.terms,
            [p for p in self.parameters() if p.requires_grad],
            self.shared_parameters(),
            weights=objectives.weights,
            features=objectives.features,
            step=self.global_step,
            guide=None if self.guide_batch is None else self._guide,
        )

    def _guide(self) -> tuple[Tensor, Tensor | None]:
        """Return the plain sum on a held-out batch, and its features."""
        assert self.guide_batch is not None
        batch = self.guide_batch()
        with evaluation_mode(self):
            objectives = self.guide_objectives(batch)
        return reduce_objectives(objectives).total, objectives.features

    # ---- what is logged -----------------------------------------------------------------------

    @property
    def term_values(self) -> dict[str, Tensor]:
        """Loss, terms and logs of this rank's latest step, detached, for progress bars."""
        return self._term_log.latest

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means and check that the ranks still agree."""
        means = self._term_log.means.compute()
        self.log_dict({f"train/{name}_epoch": value for name, value in means.items()})
        self._term_log.means.reset()
        if self.trainer.is_last_batch:
            step_plateau(self, epoch_is_over=True)
        # a search before the fit, such as that of the largest batch, runs without ``on_fit_start``
        if self._trainable is not None:
            self._trainable.check(self)
        check_equal_on_all_ranks(self)

    # ---- checkpoints --------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the phase, the running means of the epoch and the combiner's state.

        Raises:
            FloatingPointError: a loss was NaN, or a parameter is; nothing is written then.
        """
        self._term_log.watch.check()
        check_parameters(self, self.global_step)
        checkpoint[KEY] = self.data_facts
        checkpoint[model_class.KEY] = model_class.class_paths(type(self))
        checkpoint["phase"] = [self.phase, self._phase_start]
        if self._combined_step is not None:
            checkpoint["gradient_combiner"] = self._combined_step.state_dict()
        checkpoint["epoch_means"] = self._term_log.means.state_dict()
        if row_shards(self):
            save_whole_rows(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` added, and prepare the data as those in training."""
        trainer = trainer_of(self)
        match_tuned_weights(self, checkpoint)
        self.data_facts = checkpoint.get(KEY, self.data_facts)
        if trainer is not None and isinstance(data := self.datamodule, DataModule):
            data.adopt(self.data_facts, trainer.state.fn or "fit")
        if trainer is not None:
            compatibility.check_average(trainer, checkpoint)
            # Lightning does so after the weights are restored, and float64 ones would lose bits
            trainer.precision_plugin.convert_module(self)
        self.phase, self._phase_start = checkpoint.get("phase", (0, 0))
        if row_shards(self):
            take_own_states(self, checkpoint)
        if self._combined_step is not None and "gradient_combiner" in checkpoint:
            self._combined_step.load_state_dict(checkpoint["gradient_combiner"])
        if "epoch_means" in checkpoint and trainer is not None and trainer.state.fn == "fit":
            device = trainer.strategy.root_device
            self._term_log.means.load_state_dict(checkpoint["epoch_means"], device)
