"""What guides DEPICT: samples that are not trained, by targets of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import DynamicPreference
from framework.clustering.target_distribution import dec_target_distribution
from framework.gradients import Combination, GradientCombiner
from tests.helpers.tiny import tiny_trainer
from tests.modules.depict.small import data, model


class Looking(GradientCombiner):
    """Weighs equally, and keeps what it was told."""

    guided = True

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[Any] = []

    def combination(self, facts):
        self.facts.append(facts)
        size = len(facts.names)
        return Combination(torch.full((size,), 1 / size, dtype=torch.float64), size)


def run(folder: Path, **kwargs: Any) -> list[Any]:
    settings = {name: kwargs.pop(name) for name in ("target",) if name in kwargs}
    combiner = Looking()
    trainer = tiny_trainer(
        folder,
        [DynamicPreference(combiner, held_out=0.2, batch_size=9)],
        False,
        max_epochs=-1,
        limit_val_batches=0,
        precision="64-true",
        **kwargs,
    )
    module = model(dropouts=(0.0, 0.0, 0.0), baselines=True, **settings)
    trainer.fit(module, data())
    return [(f.names, f.gram.tolist(), f.guide.tolist(), f.guide_loss) for f in combiner.facts]


@pytest.mark.parametrize("target", ["sqrt", "exact"])
def test_the_guide_is_the_same_on_two_ranks(target, tmp_path, two_ranks):
    alone = run(tmp_path, target=target)
    for found in two_ranks(run, tmp_path, target=target, devices=2, strategy="ddp"):
        assert len(found) == len(alone)
        for left, right in zip(found, alone, strict=True):
            assert left[0] == right[0]
            assert left[2] == pytest.approx(right[2], rel=1e-5, abs=1e-8)
            assert left[3] == pytest.approx(right[3], rel=1e-6)


def test_held_out_samples_have_targets_of_their_own(tmp_path):
    seen: dict[str, Any] = {}

    class Module(type(model())):
        def guide_objectives(self, batch):
            objectives = super().guide_objectives(batch)
            if self.part.name in ("head", "joint"):
                p = self.assign(batch["image"]).detach()
                known = self.assignments.read(self.tables.index)
                seen[self.part.name] = (p, known, objectives.targets)
            return objectives

    module = model()
    module.__class__ = Module
    trainer = tiny_trainer(
        tmp_path,
        [DynamicPreference(Looking(), held_out=0.2, batch_size=9)],
        False,
        max_epochs=-1,
        limit_val_batches=0,
    )
    trainer.fit(module, data())
    p, _, targets = seen["head"]
    assert torch.equal(targets, p.argmax(1))
    p, known, targets = seen["joint"]
    expected = dec_target_distribution(torch.cat([known, p]), "sqrt", known.sum(0))[len(known) :]
    torch.testing.assert_close(targets, expected)
