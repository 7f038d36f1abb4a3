"""Self-tuning networks: the hyperparameters of any module are tuned while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, Unpack, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.after_step import AfterStep
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.self_tuning.effect import Effect
from framework.self_tuning.self_tuner import SelfTuner
from framework.self_tuning.settings import SelfTuningOptions, SelfTuningSettings
from framework.training.evaluation import EvaluationModule
from framework.training.guide_stream import GuideStream
from framework.training.module import TrainingModule
from framework.training.objectives_callback import ObjectivesCallback
from framework.training.tuned_weights import SPACE, add_space, remove_space
from framework.training.tuning_loss import rows_of_batch, tuning_loss
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.lightning_internals import datamodule_of, logged_step, micro_batch_of

WARMUP_EPOCHS = 5
TuningSet = Literal["held_out", "val"]


class SelfTuning(SelfTuningSettings, ObjectivesCallback, AfterStep):
    r"""Tunes hyperparameters of any module in the one run that trains it.

    The module's layers become functions of the hyperparameters (``SelfTuner``). Each training step
    sees perturbed ones; after every ``train_steps`` of them, ``tune_steps`` steps on rows that are
    not trained move the hyperparameters, and nothing else, towards a lower loss. That loss is the
    sum of the terms of ``guide_objectives`` in evaluation mode, without what the effects do. The
    result is a schedule of hyperparameters, logged as ``train/hyperparameter/<name>`` beside the
    width of the perturbation, ``train/hyperparameter_scale/<name>``, and ``train/tuning_loss``.

    A checkpoint holds the responses and the hyperparameters. ``trimtab test``, ``trimtab.load`` and
    exports see an ordinary network, with the weights of the response to the hyperparameters of that
    time, and so does whoever holds the module after the fit.

    Tuning fits the hyperparameters to the tuning set: judge the result on a third one.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088. Learning rate,
    momentum and batch size cannot be tuned so, as the best response does not depend on them.

    Args:
        effects: Places where hyperparameters act, such as ``TunedDropout``.
        tuning_set: Rows to tune on: ``held_out``, a share of the training set that is not trained
            then, or ``val``, the validation set.
        held_out: Share of the training set that is held out.
        batch_size: Rows of a global batch of a tuning step; default that of training.
        tuning_terms: Names of the terms of the module that make the tuning loss; default all but
            those whose weight is tuned.
        warmup_steps: Number of training steps before the first round; default 5 epochs.
        **options: Arguments of ``SelfTuningSettings``.

    Raises:
        ValueError: An argument is out of range, or no layer matches (at ``setup``).
        IncompatibleError: Data of which nothing can be held out, a compiled module, one that trains
            on parts of a batch with ``per_sample``, an effect that the module cannot have, or
            layers that its first step does not call.

    Example:
        >>> from framework.self_tuning import InputDropout, TunedDropout
        >>> SelfTuning([InputDropout(), TunedDropout(layers="network.body.1")]).train_steps
        2
    """

    whole_parameters = True
    repeatable = False
    panels: tuple[Panel, ...] = (
        Panel("Tuned hyperparameters, by epoch", ("train/hyperparameter*_epoch",)),
        Panel("Tuned hyperparameters", ("train/hyperparameter/*",), axis=STEP),
        Panel("Scales of the perturbation", ("train/hyperparameter_scale/*",), axis=STEP),
        Panel("Tuning loss", ("train/tuning_loss",), best="min", axis=STEP),
    )

    def __init__(
        self,
        effects: Sequence[Effect],
        *,
        tuning_set: TuningSet = "held_out",
        held_out: float = 0.2,
        batch_size: int | None = None,
        tuning_terms: Sequence[str] | None = None,
        warmup_steps: int | None = None,
        **options: Unpack[SelfTuningOptions],
    ) -> None:
        super().__init__(**options)
        check_one_of(get_args(TuningSet), tuning_set=tuning_set)
        check_interval("(0, 1)", held_out=held_out)
        check_at_least(1, batch_size=batch_size)
        check_at_least(0, warmup_steps=warmup_steps)
        self.effects = list(effects)
        self.tuning_set = tuning_set
        self.held_out = held_out
        self.batch_size = batch_size
        self.tuning_terms = tuning_terms
        self.warmup_steps = warmup_steps
        self._options = options
        self.tuner: SelfTuner | None = None
        """What tunes the module of the fit at hand; None outside of one."""
        self.values: dict[str, float] = {}
        """Hyperparameters by name that the latest fit ended with."""
        self._data: DataModule | None = None
        self._loss: Callable[[Any, Any], Tensor] | None = None
        self._loader: Any = None
        self._stream = GuideStream()
        self._open: AbstractContextManager[None] | None = None
        self._loaded: dict[str, Any] | None = None

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Fields of ``Objectives`` that the effects read."""
        return tuple(dict.fromkeys(need for effect in self.effects for need in effect.needs))

    def tune_by(self, loss: Callable[[Any, Any], Tensor], loader: Any = None) -> SelfTuning:
        """Tune by a loss of one's own, which a module that is no ``TrainingModule`` needs.

        Args:
            loss: Function ``loss(module, batch)`` that returns a scalar, the mean over the batch.
            loader: Loader of the tuning batches; None for those of the datamodule.

        Returns:
            The callback itself.
        """
        self._loss, self._loader = loss, loader
        return self

    # ---- set-up -------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Convert the module, and hold the data of the tuning steps out."""
        if stage != "fit":
            if not isinstance(pl_module, EvaluationModule):
                # it takes a checkpoint as it was written, and computes what it would without one
                self.tuner = SelfTuner(
                    pl_module, self.effects, **(self._options | {"gate_scale": 0.0})
                )
                add_space(pl_module, self.tuner)
            return
        self._check(pl_module)
        # after an exception Lightning calls no ``teardown``
        self.teardown(trainer, pl_module, stage)
        remove_space(pl_module)
        self._hold_out(trainer)
        self.tuner = SelfTuner(pl_module, self.effects, **self._options)
        add_space(pl_module, self.tuner)
        self._stream.restart()
        self._loaded = None
        if any(isinstance(part, _BatchNorm) for part in pl_module.modules()):
            rank_zero_info(
                "Batch norm couples rows with different hyperparameters, and tuning steps see its "
                "running statistics; the published networks have none."
            )

    def _check(self, module: LightningModule) -> None:
        if getattr(module, "runs_compiled", False):
            raise IncompatibleError(
                "SelfTuning hands hyperparameters to layers aside of their arguments, which "
                "compiled code would not see: set model.compile to false."
            )
        if isinstance(module, TrainingModule):
            if self.per_sample and not module.whole_batches:
                raise IncompatibleError(
                    f"{type(module).__name__} trains its networks on parts of a batch, and "
                    "SelfTuning draws hyperparameters for each row of the whole: set its "
                    "per_sample to false."
                )
            return
        if self._loss is None:
            raise IncompatibleError(
                f"{type(module).__name__} is no TrainingModule, whose terms SelfTuning would know: "
                "give it a loss by SelfTuning(...).tune_by(loss, loader)."
            )
        for effect in self.effects:
            if type(effect).change_objectives is not Effect.change_objectives:
                raise IncompatibleError(
                    f"{type(effect).__name__} changes named terms, and {type(module).__name__} is "
                    "no TrainingModule: use framework.self_tuning.SelfTuner in its training_step."
                )

    def _hold_out(self, trainer: Trainer) -> None:
        if self._loader is not None:
            return
        data = datamodule_of(trainer)
        if not isinstance(data, DataModule):
            raise IncompatibleError(
                "SelfTuning tunes on rows that are not trained, which a trimtab DataModule holds "
                "out: use one, or give a loader by SelfTuning(...).tune_by(loss, loader)."
            )
        if self.tuning_set == "val" and data.val_set is None:
            raise IncompatibleError(
                f"{type(data).__name__} has no validation set to tune on: set tuning_set to "
                "held_out."
            )
        data.hold_out_for_run(self.held_out if self.tuning_set == "held_out" else None)
        self._data = data

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the loader; a checkpoint may have set the data up anew since ``setup``."""
        super().on_train_start(trainer, pl_module)
        assert self.tuner is not None
        if self._loaded is not None:
            self.tuner.load_state_dict(self._loaded["tuner"])
            self._stream.restart(self._loaded["drawn"])
            self._loaded = None
        if self.warmup_steps is None:
            batches = trainer.num_training_batches
            if batches == float("inf"):
                raise IncompatibleError(
                    "The epochs have no length, which the warm-up is measured in: set "
                    "warmup_steps of SelfTuning."
                )
            steps = -(-int(batches) // trainer.accumulate_grad_batches)
            self.tuner.warmup_steps = WARMUP_EPOCHS * steps
        else:
            self.tuner.warmup_steps = self.warmup_steps
        if self._data is None:
            self._stream.follow(self._loader)
        else:
            self._stream.begin(self._data, self.batch_size or self._data.batch_size)

    # ---- training steps -----------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Perturb the hyperparameters for the rows of this step, and change its batch."""
        assert self.tuner is not None
        self._close()
        self._open = self.tuner.training(
            self._rows(batch), trainer.global_step, micro_batch_of(trainer)
        )
        self._open.__enter__()
        changing = [e for e in self.effects if type(e).change_batch is not Effect.change_batch]
        if not changing:
            return
        if not isinstance(batch, dict):
            raise IncompatibleError(
                f"{type(changing[0]).__name__} changes the inputs of a batch by the name of their "
                f"field, and the loader gives a {type(batch).__name__}: let it give a dict."
            )
        batch.update(self.tuner.change_batch(batch))

    def on_objectives(
        self, trainer: Trainer, module: TrainingModule, objectives: Objectives, batch: Batch
    ) -> None:
        """Let the effects change the terms, and log the hyperparameters."""
        assert self.tuner is not None
        self.tuner.change_objectives(objectives, batch)
        objectives.logs.update(self._logs())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the perturbation, and tune once per optimizer step that is due."""
        self._close()
        assert self.tuner is not None
        if not self.tuner.conditioning.was_read:
            raise IncompatibleError(
                f"{type(pl_module).__name__} calls none of the layers that respond to "
                "hyperparameters, so that none can be tuned: widen `include`."
            )
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        every = getattr(trainer, "log_every_n_steps", 0)
        if isinstance(pl_module, TrainingModule) or not every or not trainer.loggers:
            return
        if (logged_step(trainer) + 1) % every == 0:
            row = {f"train/{n}": float(v) for n, v in self._logs().items()}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=logged_step(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a run whose tuning loss was not finite."""
        assert self.tuner is not None
        self.tuner.check()

    def _logs(self) -> dict[str, Tensor]:
        """Return what is logged of the state at hand."""
        assert self.tuner is not None
        space = self.tuner.space
        values = space.values(space.raw.detach())
        logs = {f"hyperparameter/{name}": value for name, value in values.items()}
        for name, scale in zip(space.names, space.scales(), strict=True):
            logs[f"hyperparameter_scale/{name}"] = scale.detach()
        if self.tuner.tuning_loss is not None:
            logs["tuning_loss"] = self.tuner.tuning_loss
        return logs

    # ---- tuning steps -------------------------------------------------------------------------

    def after_step(self, pl_module: LightningModule) -> None:
        """Tune, where a round is due."""
        assert self.tuner is not None
        if not self.tuner.is_due(self._step):
            return
        for _ in range(self.tuner.tune_steps):
            batch = self._stream.next(pl_module.trainer)
            self.tuner.tune(partial(self._tuning_loss, pl_module, batch), self._rows(batch))

    def _tuning_loss(self, module: Any, batch: Any) -> Tensor:
        if self._loss is not None:
            return self._loss(module, batch)
        return tuning_loss(module, batch, self.effects, self.tuning_terms)

    # ---- the end ------------------------------------------------------------------------------

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the module an ordinary one again, and give back what was held out."""
        self._close()
        self._stream.close()
        if self.tuner is not None:
            self.values = self.tuner.values()
            self.tuner.fold()
            delattr(self.tuner.network, SPACE)
            self.tuner = None
        self._return_data()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as it is, of which another callback may write a checkpoint."""
        self._close()
        self._return_data()

    def _rows(self, batch: Any) -> int:
        """Return the rows that have draws of their own."""
        return rows_of_batch(batch) if self.per_sample else 0

    def _return_data(self) -> None:
        if self._data is not None:
            self._data.return_held_out()
            self._data = None

    def _close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizers of the hyperparameters and how many batches were drawn."""
        if self.tuner is None:
            return {}
        return {"tuner": self.tuner.state_dict(), "drawn": self._stream.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._loaded = state_dict or None
