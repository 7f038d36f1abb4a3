"""Opposing signals: the training samples whose losses the steps move most, up and down."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks.after_step import AfterStep
from framework.dynamics.opposing_signals import SignalStep, SignalTracker, cosine_of
from framework.figures.opposing_signals import SignalPicture, as_pictures, member_table
from framework.figures.style import caption_of, may_fail, save_png
from framework.objectives.errors import IncompatibleError
from framework.runs.media import as_csv, log_figure, log_table
from framework.runs.panels import STEP, Panel
from framework.training.probe import Probe, check_probed
from framework.utilities.checks import check_at_least
from framework.utilities.files import write_text
from framework.utilities.lightning_internals import datamodule_of, logged_step

NAME = "opposing_signals"
IN_A_ROW = 3
"""Looks at the losses after consecutive steps: two changes, whose groups may be swapped."""
COST = 0.02
"""Rows of one look over those that are trained on from one row of looks to the next."""


class OpposingSignals(AfterStep):
    """Shows which training samples the steps of a run move most in opposite directions.

    After tracked steps the losses of a fixed set of training rows, the probe, are computed in
    evaluation mode. The ``k`` rows whose loss rose most in a step (G+) and the ``k`` whose loss
    fell most (G-) are compared: on the way to the edge of stability they become two groups that
    share a strong feature, need opposite outputs, and swap from step to step. Training is not
    changed by a bit. The method itself is ``framework.dynamics.SignalTracker``, for any loop.

    It serves every ``TrainingModule`` that provides ``per_sample``, and any ``LightningModule``
    with a method ``per_sample_losses(batch)`` that returns them, (B,). Terms that callbacks add,
    and losses of a whole batch, are not in it. Batch norm removes much of the effect, and with
    mini-batches the rows of the batch itself are among those that fall: full batches show it best.

    Logs under ``signals/``: the probe's mean ``loss`` and its ``change``, the mean loss of either
    group after the step (``loss_up``, ``loss_down``), their change over their loss before it
    (``relative_up``, ``relative_down``), the ``share`` of both in the changes of all losses, the
    ``overlap`` with the other group of the step before, the ``cosine`` between the gradients of the
    groups' summed losses, the tracked steps so far in which the loss rose (``spikes``), and the
    ``sharpness``. Draws ``figures/opposing_signals.png`` and lists the rows in
    ``tables/opposing_signals.csv``, after validations and at the end of a fit; loggers get both.

    Paper: Rosenfeld and Risteski, *Outliers with Opposing Signals Have an Outsized Effect on Neural
    Network Optimization*, ICLR 2024, arXiv:2311.04163.

    Args:
        probe_size: Largest number of rows of the probe.
        k: Number of rows in either group.
        every_n_steps: Optimizer steps between the beginnings of two rows of tracked steps; a row is
            three looks after consecutive steps, and up to 3 track every step. None for fifty
            times the rows of the probe over those of a step.
        sharpness_every: Tracked steps between two measurements of the largest eigenvalue of the
            Hessian of the probe's mean loss; 0 for none.
        every_n_minutes: Least time in minutes between two drawings during training.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: A module without a loss per sample, training data without positions, or
            a compiled module with ``sharpness_every``.

    Example:
        >>> OpposingSignals(every_n_steps=1, k=10).k
        10
    """

    whole_parameters = True
    panels: tuple[Panel, ...] = (
        Panel("Opposing signals: losses", ("signals/loss*",), axis=STEP),
        Panel("Opposing signals: sharpness", ("signals/sharpness",), axis=STEP),
        Panel("Opposing signals: spikes", ("signals/spikes",), "steps", axis=STEP),
        Panel("Opposing signals", ("signals/*",), axis=STEP),
    )

    def __init__(
        self,
        probe_size: int = 1000,
        k: int = 20,
        every_n_steps: int | None = None,
        sharpness_every: int = 0,
        every_n_minutes: float = 1.0,
    ) -> None:
        check_at_least(1, k=k, every_n_steps=every_n_steps)
        check_at_least(2, probe_size=probe_size)
        check_at_least(0, sharpness_every=sharpness_every, every_n_minutes=every_n_minutes)
        self.probe_size = probe_size
        self.k = k
        self.every_n_steps = every_n_steps
        self.sharpness_every = sharpness_every
        self.every_n_minutes = every_n_minutes
        self.tracker = SignalTracker(k)
        """What was found, also after the fit."""
        self._probe: Probe | None = None
        self._cosine = float("nan")
        # optimizer steps of the run, and changes among them that were measured
        self._done = self._tracked = 0
        self._loaded = False
        self._drawn_at = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what has no loss per sample."""
        if stage != "fit":
            return
        check_probed(pl_module, self)
        if self.sharpness_every and getattr(pl_module, "runs_compiled", False):
            raise IncompatibleError(
                "OpposingSignals differentiates the loss twice for the sharpness, which compiled "
                "code cannot: set sharpness_every to 0, or model.compile to false."
            )
        self._loaded = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the probe."""
        super().on_train_start(trainer, pl_module)
        if not self._loaded:
            self.tracker = SignalTracker(self.k)
            self._done, self._tracked, self._cosine = trainer.global_step, 0, float("nan")
        self._probe = Probe(pl_module, self.probe_size, self)
        self._drawn_at = time.monotonic()

    def after_step(self, pl_module: LightningModule) -> None:
        """Look at the probe, where it is time to."""
        assert self._probe is not None
        self._done += 1
        place = (self._done - 1) % self.interval(pl_module.trainer)
        if self.interval(pl_module.trainer) <= IN_A_ROW:
            place = self._done - 1
        elif place >= IN_A_ROW:
            return
        if place == 0:
            self.tracker.interrupt()
        found = self.tracker.update(self._probe.losses(), self._done)
        if found is not None:
            self._measure(pl_module, found)

    def interval(self, trainer: Trainer) -> int:
        """Return the optimizer steps from one row of looks to the next."""
        if self.every_n_steps is not None:
            return self.every_n_steps
        assert self._probe is not None
        rows = self._probe.rows_of_step * trainer.accumulate_grad_batches
        # a look goes forward only, a third of the work of a step on as many rows
        return max(IN_A_ROW + 1, round(len(self._probe) / (COST * rows)))

    def _measure(self, module: LightningModule, found: SignalStep) -> None:
        assert self._probe is not None
        trainer = module.trainer
        self._cosine = cosine_of(*self._probe.gradients(*found.groups))
        row = {**found.values, "cosine": self._cosine, "spikes": float(self.tracker.spikes)}
        if self.sharpness_every and self._tracked % self.sharpness_every == 0:
            row["sharpness"] = self._probe.sharpness()
        self._tracked += 1
        named = {f"signals/{name}": value for name, value in row.items() if value == value}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **named}, step=logged_step(trainer))

    # ---- pictures -----------------------------------------------------------------------------

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless it was done a short while ago."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and time.monotonic() - self._drawn_at >= 60 * self.every_n_minutes:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the latest groups."""
        self._draw(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the probe."""
        self._probe = None

    @rank_zero_only
    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        found = self.tracker.latest
        if found is None or self._probe is None:
            return
        self._drawn_at = time.monotonic()
        folder = Path(trainer.default_root_dir)
        with may_fail("the figure of opposing signals"):
            from framework.figures.opposing_signals import opposing_signals

            picture = self._picture(module, self._probe, found)
            path = folder / "figures" / f"{NAME}.png"
            figure = opposing_signals(picture)
            save_png(figure, path)
            log_figure(trainer, f"figures/{NAME}", path, caption_of(figure))
            table = member_table(picture, self._probe.index)
            write_text(folder / "tables" / f"{NAME}.csv", as_csv(table))
            log_table(trainer, f"tables/{NAME}", table)

    def _picture(self, module: LightningModule, probe: Probe, found: SignalStep) -> SignalPicture:
        members = probe.read(torch.cat(found.groups).tolist())
        image, label = (_field(members, name) for name in ("image", "label"))
        data = datamodule_of(module.trainer)
        if image is not None and getattr(data, "normalize", None) is not None:
            image = data.normalize.undo(image)
        classes = label is not None and label.ndim == 1 and not label.is_floating_point()
        # a further look may have begun the next row
        steps = [step for step in self.tracker.steps if step <= found.step]
        return SignalPicture(
            steps=np.array(steps),
            losses=torch.stack([*self.tracker.losses][: len(steps)]).numpy(),
            up=found.up.numpy(),
            down=found.down.numpy(),
            overlap=found.overlap,
            cosine=self._cosine,
            images=None if image is None else as_pictures(image.float().numpy()),
            labels=label.view(2, -1).numpy() if classes else None,  # type: ignore[union-attr]
            class_names=getattr(module, "class_names", None) or getattr(data, "class_names", None),
        )

    # ---- checkpoints --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was found, and where the run stands between two looks."""
        return {
            "tracker": self.tracker.state_dict(),
            "done": self._done,
            "tracked": self._tracked,
            "cosine": self._cosine,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.tracker.load_state_dict(state_dict["tracker"])
        self._done, self._tracked = state_dict["done"], state_dict["tracked"]
        self._cosine = state_dict["cosine"]
        self._loaded = True


def _field(batch: Any, name: str) -> Tensor | None:
    """Return a tensor of a batch, of which a tuple holds image and label, or None."""
    if isinstance(batch, (tuple, list)):
        batch = dict(zip(("image", "label"), batch, strict=False))
    value = batch.get(name) if isinstance(batch, dict) else None
    return value if isinstance(value, Tensor) else None
