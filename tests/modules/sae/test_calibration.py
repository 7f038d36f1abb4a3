"""Thresholds of features come from the training mix, and their common factor from held-out text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from framework.sparse_coding.selection import FeatureChoice, MutualChoice, Selection
from modules.sae import calibration
from modules.sae.calibration import calibrated_thresholds, scaled_thresholds
from modules.sae.module import SparseAutoencoderModule
from modules.sae.network import SparseAutoencoder


def draw(tokens: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(tokens, 6, generator=torch.Generator().manual_seed(1)) + shift


def test_one_factor_gives_k_features_per_token_and_leaves_dead_features_dead() -> None:
    torch.manual_seed(0)
    sae = SparseAutoencoder(6, 24, FeatureChoice(k=4))
    x = draw(20_000)
    before = torch.linspace(0.5, 1.0, 24)
    before[3], before[5] = torch.inf, 0.0
    after = scaled_thresholds(sae, before, x.split(7_000))
    assert after[3] == torch.inf
    assert after[5] == 0
    factors = (after / before)[torch.isfinite(before) & (before > 0)]
    torch.testing.assert_close(factors, factors[:1].expand_as(factors))
    active = (sae.pre_activations(x) > after).sum(1).double().mean()
    assert float(active) == pytest.approx(4, rel=0.002)


def test_too_few_values_leave_no_threshold_but_the_infinite_ones() -> None:
    torch.manual_seed(0)
    # 20 of 24 features per token is more than are above 0
    sae = SparseAutoencoder(6, 24, FeatureChoice(k=20))
    before = torch.full((24,), 0.5)
    before[3] = torch.inf
    expected = torch.zeros(24).masked_fill(before.isinf(), torch.inf)
    assert torch.equal(scaled_thresholds(sae, before, [draw(1000)]), expected)


@pytest.mark.parametrize("rule", [MutualChoice, FeatureChoice])
def test_tokens_are_looked_at_in_parts(rule: type[Selection], monkeypatch) -> None:
    torch.manual_seed(0)
    sae = SparseAutoencoder(6, 24, rule(k=4))
    inputs = draw(1000).split(300)
    whole = calibrated_thresholds(sae, inputs)
    scaled = scaled_thresholds(sae, whole, inputs)
    monkeypatch.setattr(calibration, "_ENTRIES", 7 * 24)
    torch.testing.assert_close(calibrated_thresholds(sae, inputs), whole)
    torch.testing.assert_close(scaled_thresholds(sae, whole, inputs), scaled)


def test_held_out_text_of_another_kind_does_not_force_features_to_their_shares() -> None:
    torch.manual_seed(0)
    module = SparseAutoencoderModule(6, 24, FeatureChoice(k=4))
    mixed, text = draw(20_000), draw(20_000, shift=0.7)
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(sample=lambda rows: {"activation": mixed})
    )
    module.prepare_calibration()
    module.calibrate([{"activation": text}])
    rates = (module.sae.encode_dense(mixed) > 0).double().mean(0)
    # uniform budgets: the features share alike where tokens are mixed, but not on the text
    on_text = (module.sae.encode_dense(text) > 0).double().mean(0)
    assert float(on_text.sum()) == pytest.approx(4, rel=0.002)
    assert float(rates.std() / rates.mean()) < 0.25 * float(on_text.std() / on_text.mean())


def test_a_transcoder_in_double_precision_is_calibrated_on_single_precision_data() -> None:
    torch.manual_seed(0)
    sae = SparseAutoencoder(8, 32, MutualChoice(4), d_out=8).double()
    x = torch.randn(200, 8)
    (threshold,) = calibrated_thresholds(sae, [x]).unique()
    assert float((sae.pre_activations(x.double()) >= threshold).double().sum(1).mean()) == 4
