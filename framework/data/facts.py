"""What modules and callbacks may read off a datamodule, and what data that wrap others forward."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule

FACTS = (
    "num_classes",
    "class_names",
    "input_shape",
    "input_size",
    "num_targets",
    "feature_names",
    "target_names",
    "target_mean",
    "target_std",
    "normalize",
)
"""Attributes that describe the data, each known at the latest after ``setup``."""


def copy_facts(source: LightningDataModule, target: LightningDataModule) -> None:
    """Set every fact that ``source`` has on ``target``, which serves the same samples."""
    for name in FACTS:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
