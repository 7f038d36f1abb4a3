"""Writes a trained sparse autoencoder for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.training.compatibility import require
from framework.utilities.lightning_internals import datamodule_of
from framework.utilities.packages import require_package


@runtime_checkable
class Exporting(Protocol):
    """Module that the callback can export."""

    def check_export(self) -> None:
        """Refuse, before training, what ``export`` could not write."""

    def export(self, folder: str | Path, metadata: dict[str, Any]) -> None:
        """Write the model into a folder."""


class SAELensExport(Callback):
    """At the end of a fit, writes the autoencoder into the folder ``sae`` of the run.

    It has the layout that SAELens loads, with the size of the activations folded into the weights.

    Args:
        metadata: Notes beside it; model, hook point and context length of the data are added where
            it has them.

    Raises:
        IncompatibleError: A module that has nothing to export, or that the layout does not know.
        ImportError: ``safetensors`` is not installed.

    Example:
        >>> SAELensExport(metadata={"dataset_path": "pydoc"}).metadata
        {'dataset_path': 'pydoc'}
    """

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that has nothing to export."""
        require(self, pl_module, Exporting, "a sparse autoencoder")  # type: ignore[type-abstract]
        require_package("safetensors", extra="language", purpose="SAELensExport")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what could not be written, once every callback has changed the module."""
        assert isinstance(pl_module, Exporting)
        pl_module.check_export()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the autoencoder on rank 0."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Exporting)
        data: Any = datamodule_of(trainer)
        names = {"model_name": "model", "hook_name": "hook_point", "context_size": "context_length"}
        found = {name: getattr(data, theirs, None) for name, theirs in names.items()}
        noted = {name: value for name, value in found.items() if value is not None}
        pl_module.export(Path(trainer.default_root_dir) / "sae", noted | self.metadata)
