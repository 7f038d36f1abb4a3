"""When a selection changes, and what is handed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from callbacks.selection_schedule import SelectionPhase, SelectionSchedule
from framework.objectives.errors import IncompatibleError
from framework.sparse_coding.selection import FeatureChoice, MutualChoice
from tests.helpers.configs import arguments
from tests.helpers.runs import fit
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Watch(Callback):
    """Remembers rule, thresholds and optimizer around every step."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.laws: list[list[float]] = []
        self.densities: list[torch.Tensor] = []
        self.moments: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        sae = pl_module.sae
        self.rules.append(type(sae.selection).__name__)
        self.laws.append(sae.selections[1].law.tolist())
        self.densities.append(sae.statistics.density().clone())
        self.shares = sae.selections[1].share.clone()
        state = trainer.optimizers[0].state[sae.W_enc]
        self.moments.append(float(state["step"]))


def test_feature_choice_follows_mutual_choice(tmp_path: Path) -> None:
    watch = Watch()
    args = [*arguments("sae_feature"), "--trainer.logger=false"]
    record = fit([*args, f"--run_folder={tmp_path}"], [watch])
    assert watch.rules == ["MutualChoice"] * 6 + ["FeatureChoice"] * 6
    assert watch.laws[:6] == [[0, 0, 0]] * 6
    alpha, _, r2 = watch.laws[6]
    assert alpha > 0
    assert 0 < r2 <= 1
    # the densest feature before the switch has the largest budget, and so on
    order = watch.densities[5].sort(descending=True, stable=True).indices
    assert (watch.shares[order].diff() <= 0).all()
    assert float(watch.shares.sum()) == pytest.approx(1)
    # the optimizer went on
    assert watch.moments == list(range(1, 13))
    # running thresholds began anew, one per feature
    assert 4 <= int(record.parameters["sae.thresholds.updates"].max()) <= 6
    assert record.parameters["sae.thresholds.mean"].unique().numel() > 1


def test_shares_become_steps() -> None:
    phases = [SelectionPhase(0.25, MutualChoice(1)), SelectionPhase(0.7, FeatureChoice(1))]
    schedule = SelectionSchedule(phases)
    assert [schedule.phase_at(step, 10) for step in range(10)] == [0] * 3 + [1] * 4 + [2] * 3


@pytest.mark.parametrize("starts", [[], [0.0], [1.0], [0.5, 0.5], [0.6, 0.4]])
def test_refuses_starts(starts: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending shares"):
        SelectionSchedule([SelectionPhase(start, MutualChoice(1)) for start in starts])


def test_refuses_a_module_without_selections(tmp_path: Path) -> None:
    schedule = SelectionSchedule([SelectionPhase(0.5, MutualChoice(1))])
    with pytest.raises(
        IncompatibleError, match="needs a sparse autoencoder, which TinyModule is not"
    ):
        tiny_trainer(tmp_path, [schedule], False).fit(TinyModule(), datamodule=TinyData())
