"""Reconstructions inside a language model, and what the loss of the whole says of them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer

from callbacks.loss_recovered_evaluation import LossRecoveredEvaluation
from datamodules import ActivationFile
from framework.language.language_model import LanguageModel
from framework.objectives.errors import IncompatibleError
from tests.helpers.language import LetterActivations as Data
from tests.helpers.language import Rebuild, tiny_causal, tiny_encoder
from tests.helpers.tiny import tiny_trainer

TEXT = "the quick brown fox jumps over the lazy dog. " * 8  # 360 letters
POINT = "model.layers.0"
# of the last 15 contexts of 45 two in three validate
VAL, TEST = [31, 32, 34, 35, 37, 38, 40, 41, 43, 44], [30, 33, 36, 39, 42]


class Constant(Rebuild):
    """Returns the same for every activation."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        return self.value.to(activation).expand_as(activation)


class Identity(Rebuild):
    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        return activation + 0 * self.network.weight.sum()


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def evaluated(module: LightningModule, data: Any, folder, stage="validate", **kwargs):
    trainer = tiny_trainer(folder, [LossRecoveredEvaluation(**kwargs)], False)
    getattr(trainer, stage)(module, data, verbose=False)
    prefix = "val/" if stage == "validate" else "test/"
    found = trainer.callback_metrics
    return {n.removeprefix(prefix): float(v) for n, v in found.items() if n.startswith(prefix)}


def by_hand(model: LanguageModel, contexts: torch.Tensor) -> float:
    """Return the mean loss of text tokens, as the model itself computes it."""
    with torch.inference_mode():
        logits = model.model(input_ids=contexts.long()).logits
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), contexts[:, 1:].flatten().long()))


def test_the_identity_recovers_everything_and_zeros_nothing(text, tmp_path):
    model = tiny_causal()
    data = Data(model, text=text)
    found = evaluated(Identity(), data, tmp_path)
    contexts = data.contexts[VAL]
    assert found["ce_clean"] == pytest.approx(by_hand(model, contexts), rel=1e-6)
    assert found["ce_sae"] == found["ce_clean"]
    assert (found["delta_ce"], found["loss_recovered"]) == (0, 1)
    assert found["loss_recovered_mean"] == 1
    zeros = evaluated(Constant(torch.zeros(8)), Data(model, text=text), tmp_path)
    assert zeros["ce_sae"] == zeros["ce_zero"] == found["ce_zero"]
    assert zeros["loss_recovered"] == 0
    assert zeros["ce_clean"] == found["ce_clean"]
    assert abs(found["ce_zero"] - found["ce_clean"]) > 1e-3
    assert abs(found["ce_mean"] - found["ce_zero"]) > 1e-3


def test_the_mean_recovers_nothing_against_the_mean(text, tmp_path):
    model = tiny_causal()
    data = Data(model, text=text)
    data.setup()
    mean = torch.cat([batch["activation"] for batch in data.val_dataloader()]).mean(0)
    found = evaluated(Constant(mean), data, tmp_path)
    assert found["ce_sae"] == pytest.approx(found["ce_mean"], rel=1e-6)
    assert found["loss_recovered_mean"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("normalization", ["constant", "layernorm"])
def test_the_common_size_is_undone(text, tmp_path, normalization):
    found = evaluated(
        Identity(), Data(tiny_causal(), text=text, normalization=normalization), tmp_path
    )
    assert found["ce_sae"] == pytest.approx(found["ce_clean"], abs=1e-5)


def test_special_tokens_keep_their_activations(text, tmp_path):
    model = tiny_causal()
    data = Data(model, text=text)
    found = evaluated(Constant(torch.zeros(8)), data, tmp_path)

    def zero_text(x):
        x = x.clone()
        x[:, 1:] = 0
        return x

    contexts = data.contexts[VAL].long()
    losses = []
    for replace in (zero_text, torch.zeros_like):
        logits = model.logits(contexts, {POINT: replace})[:, :-1].flatten(0, 1)
        losses.append(float(F.cross_entropy(logits, contexts[:, 1:].flatten())))
    assert found["ce_zero"] == pytest.approx(losses[0], rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-4


def test_a_transcoder_stands_in_for_what_it_predicts(text, tmp_path):
    model = tiny_causal()
    mlp = deepcopy(model.model.get_submodule("model.layers.1.mlp"))

    class Mlp(Rebuild):
        def forward(self, activation):
            return mlp(activation) + 0 * self.network.weight.sum()

    data = Data(
        model,
        text=text,
        hook_point="model.layers.1.mlp:input",
        target_hook_point="model.layers.1.mlp",
    )
    found = evaluated(Mlp(), data, tmp_path)
    assert found["ce_sae"] == pytest.approx(found["ce_clean"], abs=1e-6)
    assert found["ce_zero"] != pytest.approx(found["ce_clean"], abs=1e-3)


def test_the_test_part_and_the_number_of_contexts(text, tmp_path):
    model = tiny_causal()
    data = Data(model, text=text)
    found = evaluated(Identity(), data, tmp_path, stage="test", max_contexts=3)
    assert found["ce_clean"] == pytest.approx(by_hand(model, data.contexts[TEST[:3]]), rel=1e-6)
    small = evaluated(Identity(), data, tmp_path, stage="test", contexts_per_forward=2)
    assert small["ce_clean"] == pytest.approx(by_hand(model, data.contexts[TEST]), rel=1e-6)


def test_training_goes_on_between_evaluations(text, tmp_path):
    class Watch(LossRecoveredEvaluation):
        epochs: list[int] = []  # noqa: RUF012

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().on_validation_epoch_end(trainer, pl_module)
            if "val/ce_sae" in trainer.callback_metrics:
                self.epochs.append(trainer.current_epoch)

    trainer = tiny_trainer(tmp_path, [Watch(every_n_epochs=2)], False)
    trainer.fit(Rebuild(), Data(tiny_causal(), text=text))
    assert Watch.epochs == [1]


def on_this_rank(text, folder, devices=2):
    trainer = tiny_trainer(
        folder,
        [LossRecoveredEvaluation(contexts_per_forward=2)],
        False,
        devices=devices,
        strategy="ddp",
    )
    torch.manual_seed(0)
    trainer.validate(Rebuild(), Data(tiny_causal(), text=text, shards=2), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_two_ranks_find_what_one_finds(text, tmp_path, two_ranks):
    torch.manual_seed(0)
    alone = evaluated(
        Rebuild(), Data(tiny_causal(), text=text, shards=2), tmp_path, contexts_per_forward=2
    )
    for found in two_ranks(on_this_rank, text, tmp_path):
        assert {n: found[f"val/{n}"] for n in alone} == pytest.approx(alone, rel=1e-6)


def test_what_has_no_loss_is_refused(text, tmp_path):
    data = Data(tiny_encoder(), text=text, hook_point="encoder.layer.0")
    with pytest.raises(IncompatibleError, match="tiny predicts none: use a causal language model"):
        evaluated(Rebuild(), data, tmp_path)
    import numpy as np

    np.save(tmp_path / "x.npy", np.ones((90, 8), np.float32))
    with pytest.raises(IncompatibleError, match="which ActivationFile does not have"):
        evaluated(Rebuild(), ActivationFile(str(tmp_path / "x.npy")), tmp_path)
    for name in ("max_contexts", "contexts_per_forward", "every_n_epochs"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            LossRecoveredEvaluation(**{name: 0})
