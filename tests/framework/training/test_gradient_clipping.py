"""Gradients that are clipped, in each precision and also for a fused optimizer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from framework.objectives.errors import IncompatibleError
from framework.training.compatibility import check_optimizer
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def test_a_fused_optimizer_is_not_clipped_in_fp16():
    fused = torch.optim.Adam([nn.Parameter(torch.zeros(1))], fused=True)
    plain = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    trainer: Any = SimpleNamespace(precision="16-mixed", world_size=1, gradient_clip_val=0.5)
    check_optimizer(plain, trainer)
    with pytest.raises(IncompatibleError, match=r"fused Adam .*clip_val=0\.5.*fused to false"):
        check_optimizer(fused, trainer)
    trainer.gradient_clip_val = None
    check_optimizer(fused, trainer)
    trainer.precision, trainer.gradient_clip_val = "bf16-mixed", 0.5
    check_optimizer(fused, trainer)


class ClippedNorm(Callback):
    """Keeps the norm of the gradient that the optimizer gets."""

    def on_train_batch_end(self, trainer, pl_module, *batch):
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = float(torch.nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_fused_optimizer_is_clipped(precision: str, algorithm: str, tmp_path: Path) -> None:
    module = TinyModule()
    module.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1, fused=True)
    options: Any = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": algorithm}
    options |= {"precision": precision, "max_steps": 1, "limit_val_batches": 0}
    norm = ClippedNorm()
    tiny_trainer(tmp_path, [norm], False, **options).fit(module, TinyData())
    entries = sum(p.numel() for p in module.parameters())
    most = 1e-4 * (1 if algorithm == "norm" else entries**0.5)
    assert 0.1 * most < norm.norm <= 1.01 * most
