"""Writes a trained network as ONNX."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from framework.objectives.errors import IncompatibleError
from framework.training.module import TrainingModule
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.files import write_atomically
from framework.utilities.packages import require_package


class ONNXExport(Callback):
    """At the end of a fit, writes the module's ``network`` into ``network.onnx`` of the run.

    The number of images is free, their size is that of the data, also where training resizes them;
    what is predicted is as it comes out of the network, before any activation or selection. The
    latest weights are written, in evaluation mode, from rank 0. The file's metadata name the module
    and, as JSON, what the data has of classes, targets, and mean and std of the images, and what
    the module names in ``decoding_facts``, such as anchors.

    Args:
        opset: Version of ONNX's operators; default the exporter's.

    Raises:
        IncompatibleError: A module without a ``network``.
        ImportError: ``onnx`` or ``onnxscript`` is not installed.

    Example:
        >>> ONNXExport(opset=20).opset
        20
    """

    whole_parameters = True

    def __init__(self, opset: int | None = None) -> None:
        self.opset = opset
        self._shapes: list[torch.Size] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be written, before anything is trained."""
        network = getattr(pl_module, "network", None)
        if not isinstance(pl_module, TrainingModule) or not isinstance(network, nn.Module):
            raise IncompatibleError(
                f"ONNXExport writes the network of a module, and {type(pl_module).__name__} "
                "has none."
            )
        for package in ("onnx", "onnxscript"):
            require_package(package, extra="onnx", purpose="ONNXExport")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note, once, the sizes of what the network takes outside training."""
        if self._shapes:
            return
        assert isinstance(pl_module, TrainingModule)
        with evaluation_mode(pl_module):
            inputs = pl_module.forward_inputs(pl_module.fields_of(batch))
            self._shapes = [value.shape[1:] for value in inputs]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the network on rank 0; nothing where nothing was trained."""
        if not trainer.is_global_zero or not self._shapes:
            return
        assert isinstance(pl_module, TrainingModule)
        network: Any = pl_module.network
        like = next(network.parameters())
        # two rows, as one would be taken for a constant
        inputs = tuple(like.new_zeros(2, *shape) for shape in self._shapes)
        with evaluation_mode(network):
            program = torch.onnx.export(
                network,
                inputs,
                dynamo=True,
                opset_version=self.opset,
                dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs),
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(_metadata(pl_module))
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "network.onnx"
            program.save(written, external_data=False)
            content = written.read_bytes()
        target = Path(trainer.default_root_dir) / "network.onnx"
        write_atomically(target, lambda file: file.write(content))


def _metadata(module: TrainingModule) -> dict[str, str]:
    """Return what a person needs to use the network, as texts."""
    facts = module.data_facts
    found: dict[str, Any] = {
        name: facts[name] for name in ("class_names", "target_names") if name in facts
    }
    found |= {**facts.get("normalize", {}), **module.decoding_facts}
    return {"name": type(module).__name__, **{k: json.dumps(v) for k, v in found.items()}}
