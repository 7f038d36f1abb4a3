"""A run of all phases that takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything

from datamodules import Digits, WholeSet
from modules import DEPICT
from tests.helpers.tiny import tiny_trainer

SAMPLES = 103


def data(**kwargs: Any) -> WholeSet:
    """103 digits in batches of 40, so that the last batch is smaller."""
    digits = Digits(test_size=SAMPLES, mean=[0.5], std=[0.5])
    return WholeSet(digits, **({"parts": ["test"], "batch_size": 40} | kwargs))


def model(**kwargs: Any) -> DEPICT:
    """A small network whose phases last two epochs each."""
    settings: dict[str, Any] = {
        "num_clusters": 10,
        "input_shape": (1, 8, 8),
        "channels": (4, 6),
        "kernels": (4, 4),
        "paddings": (1, 1),
        "phase_epochs": (2, 2, 2),
        "init_options": {"n_init": 2},
        "baselines": False,
    }
    seed_everything(0, verbose=False)
    return DEPICT(**settings | kwargs)


def fit(
    folder: Path, *callbacks: Callback, source: WholeSet | None = None, **kwargs: Any
) -> tuple[DEPICT, Trainer]:
    """Fit a small model to the end of its last phase."""
    module = model(**kwargs)
    trainer = tiny_trainer(folder, list(callbacks), False, max_epochs=-1, log_every_n_steps=50)
    trainer.fit(module, source or data())
    return module, trainer
