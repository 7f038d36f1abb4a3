"""Dynamic preference: the weights of a run's terms follow from their gradients at every step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.data.datamodule import DataModule
from framework.gradients.combiner import GradientCombiner
from framework.gradients.held_out_lp import HeldOutGuidedLP
from framework.objectives.errors import IncompatibleError
from framework.training.compatibility import require
from framework.training.guide_stream import GuideStream
from framework.training.module import TrainingModule
from framework.utilities.checks import check_at_least, check_interval
from framework.utilities.lightning_internals import datamodule_of


class DynamicPreference(Callback):
    r"""Weighs the terms of any module anew at every step, by their gradients and a held-out guide.

    The shared parameters get ``scale * sum_j w_j g_j`` instead of the sum of the gradients g_j, of
    the terms with their weights; all other parameters get the gradient of the plain sum. The
    combiner finds w from the inner products of the g_j and, where it is guided, from those with the
    gradient of ``guide_objectives`` on a held-out batch. What
    is held out is the datamodule's ``guide_set``, such as the held-out part of the target in
    ``DomainPair``, or else a share of the training set, which is then not
    trained. The guide's batches are a stream of their own, in random order and without
    augmentation, seen in evaluation mode: batch norm keeps its statistics.

    At every logged step the run has, of the latest decision, ``train/preference/weight/<term>``,
    ``factor/<term>``, by which the gradient of the weighted term is multiplied,
    ``cosine/<a>/<b>`` and ``gram/<a>/<b>``, the products with the guide, ``guide/<term>``, its
    value ``guide_loss``, and what the combiner adds.

    The step is ``framework.gradients.CombinedStep``, which serves any training loop and the
    ``training_step`` of any ``LightningModule``; this callback fills the slot of a
    ``TrainingModule`` and holds data out for the guide.

    Paper: Lv et al., *Pareto Domain Adaptation*, NeurIPS 2021, arXiv:2112.04137. As in the released
    code heads and discriminators keep the gradient of the plain sum; unlike there, one forward pass
    does, and the held-out batch leaves the statistics of batch norm alone. The code also adds plain
    gradients of the first two terms to the shared ones: ``plain_terms`` of ``HeldOutGuidedLP``.

    Args:
        combiner: Rule that weighs the gradients; default ``HeldOutGuidedLP``.
        held_out: Share of the training set for the guide, where the data holds nothing out itself.
        batch_size: Rows of a global batch of the guide; default that of training.

    Raises:
        ValueError: An argument out of its range, or a share that leaves nothing (at ``setup``).
        IncompatibleError: Another module than a ``TrainingModule``, one that has a combiner, or
            data of which nothing can be held out.

    Example:
        >>> from framework.gradients import EPO
        >>> DynamicPreference(EPO(preference=[1.0, 3.0])).combiner.every_n_steps
        1
    """

    def __init__(
        self,
        combiner: GradientCombiner | None = None,
        held_out: float = 0.1,
        batch_size: int | None = None,
    ) -> None:
        check_interval("(0, 1)", held_out=held_out)
        check_at_least(1, batch_size=batch_size)
        self.combiner = HeldOutGuidedLP() if combiner is None else combiner
        self.held_out = held_out
        self.batch_size = batch_size
        self._guide = GuideStream()
        self._data: DataModule | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fill the module's slot and hold data out."""
        if stage != "fit":
            return
        module = require(
            self,
            pl_module,
            TrainingModule,
            "a TrainingModule",
            "return what framework.gradients.CombinedStep makes of its losses from training_step",
        )
        module.gradient_combiner = self.combiner
        if not self.combiner.guided:
            return
        data = datamodule_of(trainer)
        if not isinstance(data, DataModule):
            raise IncompatibleError(
                f"{type(self.combiner).__name__} is guided by held-out training data, which only "
                "a trimtab DataModule can give."
            )
        data.hold_out_for_run(self.held_out)
        self._data = data
        self._guide.restart()
        module.guide_batch = lambda: self._guide.next(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the guide's loader; a checkpoint may have set the data up anew since ``setup``."""
        if self._data is not None:
            self._guide.begin(self._data, self.batch_size or self._data.batch_size)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Empty the module's slot and give back what was held out."""
        self._guide.close()
        if isinstance(pl_module, TrainingModule) and pl_module.gradient_combiner is self.combiner:
            pl_module.gradient_combiner = pl_module.guide_batch = None
        if self._data is not None:
            self._data.return_held_out()
            self._data = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Empty the slot after an exception, where Lightning calls no ``teardown``."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches the guide has drawn."""
        return {"drawn": self._guide.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the stream of the guide there."""
        self._guide.restart(state_dict["drawn"])
