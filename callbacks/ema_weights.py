"""An average of the weights is what is evaluated, saved and exported."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from callbacks.after_step import AfterStep
from framework.objectives.errors import IncompatibleError
from framework.optim.averaged_weights import (
    AveragedWeights,
    check_average,
    load_weights,
    named_weights,
)
from framework.training.compatibility import AVERAGED, averages_weights
from framework.utilities.lightning_internals import change_saved_weights, save_weights_as_they_are


class EMAWeights(AfterStep):
    """Evaluates, saves and exports an exponential moving average (EMA) of the weights.

    The average is ``framework.optim.AveragedWeights``, which serves any training loop; this
    callback moves it after every optimizer step of any ``LightningModule``, lets validations of a
    fit, and everything after its last step, compute with it, and makes it the ``state_dict`` of
    every checkpoint, so that ``trimtab test``, ``trimtab.load`` and exports take it. The weights of
    the training and the number of updates are in the checkpoint too, and a fit goes on with them. A
    fit that goes on from a checkpoint without an average starts one.

    Unlike Lightning's ``EMAWeightAveraging`` it copies no module, so that what ``setup`` makes of
    it, such as joined batch norm or metrics, does not matter; no GPU waits in a step; and weights
    are right in a checkpoint that is written during a validation.

    Paper: Morales-Brotons et al., *Exponential Moving Average of Weights in Deep Learning*,
    TMLR 2024, arXiv:2411.18704; the ramp is that of YOLOv5.

    Args:
        decay: Share of the average that a step keeps, in [0, 1); for S steps keep
            ``1 / (1 - decay)`` below S / 20.
        ramp: Number of steps r of ``decay * (1 - exp(-u / r))``, by which the share grows in the
            u-th step; 0 for the whole share at once.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: A second average of the weights, or weights in half precision, which are
            too coarse for an average with this decay.

    Example:
        >>> EMAWeights(decay=0.999).ramp
        2000
    """

    whole_parameters = True
    averages_weights = True

    def __init__(self, decay: float = 0.9999, ramp: float = 2000) -> None:
        check_average(decay, ramp)
        self.decay = decay
        self.ramp = ramp
        self.weights: AveragedWeights | None = None
        """The average, also after the fit; None before it."""
        self._loaded: dict[str, Any] | None = None
        self._updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second average, and come last: others' validations see the average to the end.

        Raises:
            IncompatibleError: There is a second average.
        """
        if stage != "fit":
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for other in callbacks:
            if averages_weights(other) and other is not self:
                raise IncompatibleError(
                    f"{type(other).__name__} averages the weights, as EMAWeights does: leave one "
                    "of them out."
                )
        before = [c for c in callbacks if c is not self and not isinstance(c, Checkpoint)]
        after = [c for c in callbacks if isinstance(c, Checkpoint)]
        trainer.callbacks = [*before, self, *after]  # type: ignore[attr-defined]
        self.weights = self._loaded = None
        self._updates = 0
        change_saved_weights(trainer, self._averaged)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo ``setup``; the module has the average, which is saved as it is."""
        save_weights_as_they_are(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, which by now have their device and precision."""
        self.weights = AveragedWeights(pl_module, self.decay, self.ramp)
        if self._loaded is not None:
            self.weights.load_state_dict({"average": self._loaded, "updates": self._updates})
            self._loaded = None

    def after_step(self, pl_module: LightningModule) -> None:
        """Move the average."""
        assert self.weights is not None
        self.weights.update()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a validation of the fit compute with the average."""
        if trainer.state.fn == "fit" and self.weights is not None:
            self.weights.apply()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on training with the weights of the training."""
        if trainer.state.fn == "fit" and self.weights is not None:
            self.weights.restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give a module whose validation was cut short the weights of the training back."""
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module, for exports and evaluations."""
        if self.weights is not None:
            self.weights.apply()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do so also where a fit had no step left."""
        self.on_train_end(trainer, pl_module)

    # ---- checkpoints --------------------------------------------------------------------------

    def _averaged(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of the module with the average in place of its weights."""
        return state if self.weights is None else {**state, **self.weights.average}

    def state_dict(self) -> dict[str, Any]:
        """Return how often the average moved."""
        return {} if self.weights is None else {"updates": self.weights.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep how often the average moved until training starts."""
        self._updates = state_dict.get("updates", 0)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the weights of the training."""
        if self.weights is not None:
            checkpoint[AVERAGED] = {n: v.detach() for n, v in self.weights.latest.items()}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the weights of the training; the module has the average by now.

        Raises:
            ValueError: They do not fit the module.
        """
        if trainer.state.fn != "fit" or AVERAGED not in checkpoint:
            return
        weights: dict[str, Tensor] = named_weights(pl_module)
        self._loaded = {name: checkpoint["state_dict"].get(name) for name in weights}
        load_weights(weights, checkpoint[AVERAGED], AVERAGED)
