"""Autoencoders of ours in the real ``sae-lens``, and its and dictionary_learning's in ours.

Skipped where the packages are not installed; what they read and write is pinned without them in
``test_export.py``.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.sae import load_autoencoder, save_autoencoder
from tests.modules.sae.test_export import FEATURES, SCALE, SELECTIONS, TARGET_SCALE, D, raw, trained


def imported(name: str) -> Any:
    """Return a module of a package that warns of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture(scope="module")
def sae_lens() -> Any:
    return imported("sae_lens")


def gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", SELECTIONS)
def test_sae_lens_reconstructs_the_same(name: str, sae_lens: Any, tmp_path) -> None:
    sae, x = trained(name), raw()
    save_autoencoder(sae, tmp_path, {"model_name": "tiny", "hook_name": "layer.3"})
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        expected = sae(SCALE * x) / SCALE
        code = theirs.encode(x)
        found, at_once = theirs.decode(code), theirs(x)
    assert torch.equal(code > 0, sae.encode_dense(SCALE * x) > 0)
    assert gap(found, expected) < 1e-5
    assert gap(at_once, expected) < 1e-5
    assert theirs.cfg.architecture() == ("topk" if name == "topk" else "jumprelu")
    assert theirs.cfg.metadata["hook_name"] == "layer.3"


@pytest.mark.parametrize("skip", [False, True])
def test_sae_lens_predicts_the_same(skip: bool, sae_lens: Any, tmp_path) -> None:
    sae, x = trained("jump", d_out=5, skip=skip), raw()
    save_autoencoder(sae, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        assert gap(theirs(x), sae(SCALE * x) / TARGET_SCALE) < 1e-5


KINDS = {
    "standard": ("standard_sae", "StandardTrainingSAE", {}),
    "gated": ("gated_sae", "GatedTrainingSAE", {}),
    "jumprelu": ("jumprelu_sae", "JumpReLUTrainingSAE", {}),
    "topk": ("topk_sae", "TopKTrainingSAE", {"k": 4}),
    "topk, free lengths": (
        "topk_sae",
        "TopKTrainingSAE",
        {"k": 4, "rescale_acts_by_decoder_norm": False},
    ),
    "batchtopk": ("batchtopk_sae", "BatchTopKTrainingSAE", {"k": 4}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_sae_lens_saves_is_read(kind: str, sae_lens: Any, tmp_path) -> None:
    module, name, settings = KINDS[kind]
    package = imported(f"sae_lens.saes.{module}")
    torch.manual_seed(0)
    config = getattr(package, f"{name}Config")(d_in=D, d_sae=FEATURES, device="cpu", **settings)
    theirs = getattr(package, name)(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if kind == "batchtopk":
            theirs.topk_threshold.fill_(0.4)
    theirs.save_inference_model(tmp_path)
    x = raw()
    with torch.no_grad():
        expected = sae_lens.SAE.load_from_disk(tmp_path)(x)
        assert gap(load_autoencoder(tmp_path)(x), expected) < 1e-5


@pytest.mark.parametrize(
    ("module", "name", "kind"),
    [
        ("trainers.top_k", "AutoEncoderTopK", "AutoEncoderTopK"),
        ("trainers.batch_top_k", "BatchTopKSAE", "BatchTopKSAE"),
        ("dictionary", "AutoEncoder", "AutoEncoder"),
        ("dictionary", "AutoEncoderNew", "AutoEncoderNew"),
        ("dictionary", "GatedAutoEncoder", "GatedAutoEncoder"),
        ("dictionary", "JumpReluAutoEncoder", "JumpReluAutoEncoder"),
    ],
)
def test_what_dictionary_learning_saves_is_read(
    module: str, name: str, kind: str, tmp_path
) -> None:
    package = imported(f"dictionary_learning.{module}")
    torch.manual_seed(0)
    sizes = (D, FEATURES, 4) if "TopK" in name else (D, FEATURES)
    theirs = getattr(package, name)(*sizes)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if kind == "BatchTopKSAE":
            theirs.threshold.fill_(0.4)
        if kind == "JumpReluAutoEncoder":
            theirs.threshold.abs_()
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind}}))
    x = raw()
    with torch.no_grad():
        assert gap(load_autoencoder(tmp_path)(x), theirs(x)) < 1e-5
