"""A run that takes milliseconds: two loss terms, one metric, 24 samples in 6 steps per epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.objectives.objectives import Objectives
from framework.training.module import TrainingModule

CLASSES = ("circle", "square", "triangle")


class TinyData(DataModule):
    num_classes = 3
    class_names = CLASSES

    def __init__(self, predict_rows: int = 10, **kwargs: Any) -> None:
        super().__init__(batch_size=4, **kwargs)
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(24, 5, generator=generator)
        label = torch.randint(3, (24,), generator=generator)
        self.train_set = ArrayDataset(image=image, label=label)
        self.val_set = ArrayDataset(image=image[:9], label=label[:9])
        self.test_set = ArrayDataset(image=image[9:], label=label[9:])
        self.predict_set = ArrayDataset(image=image[:predict_rows])


class TinyModule(TrainingModule):
    provides = ("per_sample", "predictions", "targets", "index")

    def __init__(self) -> None:
        super().__init__(sync_batchnorm=False)
        self.network = nn.Linear(5, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def objectives(self, batch: Batch) -> Objectives:
        logits = self(batch["image"])
        entropy = nn.functional.cross_entropy(logits, batch["label"], reduction="none")
        return Objectives(
            per_sample={"classification": entropy, "size": logits.square().mean(1)},
            weights={"size": 0.5},
            predictions=logits,
            targets=batch["label"],
            index=batch["index"],
        )

    def evaluate(self, batch: Batch) -> Objectives:
        objectives = self.objectives(batch)
        assert objectives.predictions is not None
        self.metrics.update(objectives.predictions.softmax(-1), batch["label"])
        return objectives

    def make_metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(3, average="micro"),
                "confusion": MulticlassConfusionMatrix(3),
            },
            compute_groups=False,
        )

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        probability = self(batch["image"]).softmax(-1)
        return {"prediction": probability.argmax(-1), "probability": probability}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        from framework.figures.tables import confusion_matrix

        return {"confusion_matrix": confusion_matrix(values["confusion"], CLASSES)}


def tiny_trainer(folder: Path, callbacks: list[Callback], loggers: Any, **kwargs: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
        **kwargs,
    }
    return Trainer(default_root_dir=folder, callbacks=callbacks, logger=loggers, **settings)


def save_state(path: Path, step: int, **more: Any) -> Path:
    """Write what training could go on from, as far as can be seen without a model."""
    state = {"state_dict": {"w": torch.zeros(500)}, "optimizer_states": [], "global_step": step}
    torch.save({**state, **more}, path)
    return path
