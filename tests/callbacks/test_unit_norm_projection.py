"""Class vectors have norm 1 after every step, also after a resumed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.unit_norm_projection import UnitNormProjection
from framework.embedding.heads import HypersphericalHead
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class WithHead(TinyModule):
    """The tiny module with a head in the place of its linear layer."""

    def __init__(self, constraint: str) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.5, momentum=0.9)
        torch.manual_seed(0)
        self.network = nn.Linear(5, 4)
        self.head = HypersphericalHead(4, 3, constraint=constraint)
        self.head.reduction = "none"
        self.provides = ("per_sample", "index")

    def objectives(self, batch):
        loss, _ = self.head(self.network(batch["image"]), batch["label"])
        return Objectives(per_sample={"classification": loss}, index=batch["index"])

    def evaluate(self, batch):
        return None


def fit(folder: Path, module: Any, projection: UnitNormProjection, **options: Any) -> Any:
    options = {"limit_val_batches": 0, "max_epochs": 2, **options}
    tiny_trainer(folder, [projection], False, **options).fit(module, TinyData())
    return module


def norms(weight: torch.Tensor) -> list[float]:
    return weight.detach().norm(dim=1).tolist()


def test_the_vectors_of_a_head_are_projected_and_learn(tmp_path):
    module = WithHead("project")
    before = module.head.weight.detach().clone()
    fit(tmp_path, module, UnitNormProjection())
    assert norms(module.head.weight) == pytest.approx([1.0] * 3, abs=1e-6)
    assert (module.head.weight - before).abs().max() > 0.1


def test_named_matrices_of_any_module(tmp_path):
    module = TinyModule()
    fit(tmp_path, module, UnitNormProjection(["network.weight"]), max_steps=1)
    assert norms(module.network.weight) == pytest.approx([1.0] * 3, abs=1e-6)


def test_the_start_is_projected_and_a_run_that_goes_on_is_not(tmp_path):
    module = TinyModule()
    module.network.weight.data.mul_(7)
    projection = UnitNormProjection(["network.weight"])
    fit(tmp_path, module, projection, max_steps=0)
    trainer: Any = type("Trainer", (), {"global_step": 0})()
    projection.on_train_start(trainer, module)
    assert norms(module.network.weight) == pytest.approx([1.0] * 3, abs=1e-6)
    module.network.weight.data.mul_(7)
    trainer.global_step = 5
    projection.on_train_start(trainer, module)
    projection.on_train_batch_end(trainer, module, None, None, 0)  # no step was taken
    assert norms(module.network.weight) == pytest.approx([7.0] * 3, abs=1e-5)
    trainer.global_step = 6
    projection.on_train_batch_end(trainer, module, None, None, 1)
    assert norms(module.network.weight) == pytest.approx([1.0] * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("module", "projection", "message"),
    [
        (lambda: WithHead("reparam"), UnitNormProjection(), "no HypersphericalHead with constr"),
        (TinyModule, UnitNormProjection(), "or name parameters"),
        (
            TinyModule,
            UnitNormProjection(["network.bias"]),
            r"'network.bias' is no matrix of TinyModule, which has network\.weight",
        ),
        (TinyModule, UnitNormProjection(["head.weight"]), "'head.weight' is no matrix"),
    ],
)
def test_nothing_to_project_is_said(tmp_path, module, projection, message):
    with pytest.raises(IncompatibleError, match=message):
        fit(tmp_path, module(), projection)
