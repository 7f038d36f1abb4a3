"""Class vectors are brought back to norm 1 after each optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lightning.pytorch import LightningModule, Trainer

from callbacks.after_step import AfterStep
from framework.embedding.heads.hyperspherical import HypersphericalHead
from framework.embedding.unit_norm import project_rows_
from framework.objectives.errors import IncompatibleError


class UnitNormProjection(AfterStep):
    """Divides class vectors by their norms after each optimizer step.

    Without arguments these are the vectors of every ``HypersphericalHead`` with the constraint
    ``project``. In a ``LightningModule`` of one's own they are the rows of the named matrices, such
    as the weight of a linear layer without bias, which then classifies by angles. In a loop of
    one's own call ``framework.embedding.project_rows_`` or the head's ``project_``.

    Paper: Pereira et al., Hyperspherical embedding for novel class classification.
    arXiv:2102.03243

    Args:
        parameters: Names of the matrices in the module; None for those of its heads.

    Raises:
        IncompatibleError: There is no such head, or no such matrix.

    Example:
        >>> UnitNormProjection(parameters=["classifier.weight"]).parameters
        ['classifier.weight']
    """

    whole_parameters = True
    projects = True

    def __init__(self, parameters: Sequence[str] | None = None) -> None:
        self.parameters = None if parameters is None else list(parameters)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without such vectors."""
        if stage == "fit" and not self._projections(pl_module):
            raise IncompatibleError(
                f"UnitNormProjection found no HypersphericalHead with constraint 'project' in "
                f"{type(pl_module).__name__}: set model.head.constraint, or name parameters."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Project what a new run starts from; what is resumed was projected."""
        super().on_train_start(trainer, pl_module)
        if not trainer.global_step:
            self.after_step(pl_module)

    def after_step(self, pl_module: LightningModule) -> None:
        """Project the vectors."""
        for project in self._projections(pl_module):
            project()

    def _projections(self, module: LightningModule) -> list[Callable[[], None]]:
        if self.parameters is None:
            return [
                part.project_
                for part in module.modules()
                if isinstance(part, HypersphericalHead) and part.constraint == "project"
            ]
        known = dict(module.named_parameters())
        for name in self.parameters:
            if name not in known or known[name].ndim != 2:
                matrices = [other for other, value in known.items() if value.ndim == 2]
                raise IncompatibleError(
                    f"UnitNormProjection.parameters: {name!r} is no matrix of "
                    f"{type(module).__name__}, which has {', '.join(matrices)}."
                )
        return [partial(project_rows_, known[name]) for name in self.parameters]
