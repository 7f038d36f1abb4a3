"""Writes a trained sparse autoencoder for other tools."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.objectives.errors import IncompatibleError


@runtime_checkable
class Exporting(Protocol):
    """What the callback asks of a module."""

    def check_export(self) -> None:
        """Refuse, before training, what ``export`` could not write."""

    def export(self, folder: str | Path, metadata: dict[str, Any]) -> None:
        """Write the model into a folder."""


class SAELensExport(Callback):
    """At the end of a fit, writes the autoencoder into the folder ``sae`` of the run.

    In the layout that SAELens loads, with the size of the activations folded into the weights.

    Args:
        metadata: what is noted beside it; model, hook point and context length of the data are
            added where it has them.

    Raises:
        IncompatibleError: a module that has nothing to export, or that the layout does not know.

    Example:
        >>> SAELensExport(metadata={"dataset_path": "pydoc"}).metadata
        {'dataset_path': 'pydoc'}
    """

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that has nothing to export."""
        if not isinstance(pl_module, Exporting):
            raise IncompatibleError(
                f"SAELensExport writes a sparse autoencoder, and {type(pl_module).__name__} "
                "is none."
            )
        if find_spec("safetensors") is None:
            raise ModuleNotFoundError(
                "SAELensExport needs safetensors: pip install 'trimtab[language]'."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what could not be written, when every callback has had its say on the module."""
        assert isinstance(pl_module, Exporting)
        pl_module.check_export()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write on rank 0."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Exporting)
        data: Any = getattr(trainer, "datamodule", None)
        names = {"model_name": "model", "hook_name": "hook_point", "context_size": "context_length"}
        found = {name: getattr(data, theirs, None) for name, theirs in names.items()}
        noted = {name: value for name, value in found.items() if value is not None}
        pl_module.export(Path(trainer.default_root_dir) / "sae", noted | self.metadata)
