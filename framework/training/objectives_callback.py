"""The base of callbacks that change training."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch import Callback, Trainer

from framework.data.datasets import Batch
from framework.objectives.objectives import Objectives


class ObjectivesCallback(Callback):
    """A callback that changes training: adds a term, or weighs or selects samples.

    Class attributes:
        needs: optional fields of ``Objectives`` that it reads.
        whole_parameters: whether it reads or changes parameters outside of the steps, so that the
            ranks cannot hold parts of them.
        repeatable: whether a step that is evaluated again with the same generators sees the same
            random numbers.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    whole_parameters: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True

    def on_objectives(
        self, trainer: Trainer, module: Any, objectives: Objectives, batch: Batch
    ) -> None:
        """Change ``objectives`` in place, after the module filled it and before it is reduced.

        Called in every training step on every rank, in the order of the callbacks in the config;
        a rank's batch may be empty.
        """
