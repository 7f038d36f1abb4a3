"""Folding, SAELens's layout and dictionary_learning's, against what their formulas say."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from framework.sparse_coding.selection import BatchTopK, FeatureChoice, MutualChoice, TokenChoice
from modules.sae import export, fold, load_autoencoder, save_autoencoder
from modules.sae.activations import GatedReLU, JumpReLU, ReLUWithL1
from modules.sae.network import SparseAutoencoder
from modules.sae.statistics import smallest_values

D, FEATURES, SCALE, TARGET_SCALE = 6, 24, 3.7, 0.6
SELECTIONS = {
    "topk": lambda: TokenChoice(4),
    "batch_topk": lambda: BatchTopK(4),
    "mutual": lambda: MutualChoice(4),
    "feature": lambda: FeatureChoice(4),
    "relu": ReLUWithL1,
    "jump": lambda: JumpReLU(threshold=0.3),
    "gated": GatedReLU,
}


def raw(tokens: int = 50) -> Tensor:
    return torch.randn(tokens, D, generator=torch.Generator().manual_seed(1)) + 0.5


@torch.no_grad()
def trained(name: str, **kwargs: object) -> SparseAutoencoder:
    """An autoencoder with nothing left at its start."""
    torch.manual_seed(0)
    sae = SparseAutoencoder(D, FEATURES, SELECTIONS[name](), **kwargs)
    for parameter in sae.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    sae.input_scale.fill_(SCALE)
    sae.output_scale.fill_(TARGET_SCALE if sae.transcoder else SCALE)
    code = sae.encode_batch(SCALE * raw()).code
    if sae.across_tokens:
        sae.thresholds.update(smallest_values(code, sae.selection.per_feature))
        # one bit below a value of this very batch, rounding would decide
        sae.thresholds.calibrate(0.99 * sae.thresholds.values())
    return sae


def theirs(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return code and reconstruction as SAELens computes them from its files."""
    config = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    transcoder = "transcoder" in config["architecture"]
    assert config["apply_b_dec_to_input"] is not transcoder
    centered = x if transcoder else x - w["b_dec"]
    pre_acts = centered @ w["W_enc"] + w["b_enc"]
    if config["architecture"] == "topk":
        assert not config["rescale_acts_by_decoder_norm"]
        best = pre_acts.topk(config["k"])
        code = torch.zeros_like(pre_acts).scatter(1, best.indices, best.values.relu())
    else:
        code = pre_acts.relu() * (pre_acts > w["threshold"])
    out = code @ w["W_dec"] + w["b_dec"]
    return code, out + x @ w["W_skip"].T if "skip" in config["architecture"] else out


@torch.no_grad()
@pytest.mark.parametrize("name", SELECTIONS)
def test_folded_weights_do_the_same_to_activations_in_their_own_size(name: str, tmp_path) -> None:
    sae, x = trained(name), raw()
    save_autoencoder(sae, tmp_path, {"model_name": "tiny"})
    code, rebuilt = theirs(tmp_path, x)
    inside = sae.encode_dense(SCALE * x)
    assert torch.equal(code > 0, inside > 0)
    assert 0 < int((code > 0).sum()) < code.numel()
    for folded, unfolded in ((code, inside), (rebuilt, sae(SCALE * x))):
        assert float((folded * SCALE - unfolded).abs().max()) < 1e-6 * float(unfolded.abs().max())
    noted = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert noted == {"sae_lens_version": "6.0.0", "model_name": "tiny"}


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_has_two_sizes(skip: bool, tmp_path) -> None:
    sae, x = trained("jump", d_out=5, skip=skip), raw()
    save_autoencoder(sae, tmp_path)
    _, rebuilt = theirs(tmp_path, x)
    torch.testing.assert_close(rebuilt * TARGET_SCALE, sae(SCALE * x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(load_autoencoder(tmp_path)(x), rebuilt, atol=1e-5, rtol=1e-5)


def test_the_closed_form_of_gated() -> None:
    sae, x = trained("gated"), raw()
    folded = fold(sae)
    pre_acts = (x - folded.b_dec) @ folded.W_enc.T + folded.b_enc
    code = torch.where(pre_acts > folded.threshold, pre_acts, 0.0)
    torch.testing.assert_close(code * SCALE, sae.encode_dense(SCALE * x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_was_written_is_read(name: str, tmp_path) -> None:
    sae, x = trained(name), raw()
    save_autoencoder(sae, tmp_path)
    back = load_autoencoder(tmp_path)
    torch.testing.assert_close(back(x) * SCALE, sae(SCALE * x), atol=1e-5, rtol=1e-5)
    save_autoencoder(back, tmp_path / "again")
    again = load_autoencoder(tmp_path / "again")
    torch.testing.assert_close(again(x), back(x), atol=1e-6, rtol=1e-6)


def test_other_forms_of_saelens(tmp_path) -> None:
    sae, x = trained("topk"), raw()
    save_autoencoder(sae, tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    config = json.loads((tmp_path / "cfg.json").read_text())
    # not centered: what b_dec would do in the encoder is in its bias
    moved = weights | {"b_enc": weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]}
    save_file(moved, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": False}))
    expected = sae(SCALE * x) / SCALE
    torch.testing.assert_close(load_autoencoder(tmp_path)(x), expected, atol=1e-5, rtol=1e-5)
    # free lengths: the code is that of directions of length 1
    lengths = torch.rand(FEATURES) + 0.5
    free = weights | {
        "W_enc": weights["W_enc"] / lengths / weights["W_dec"].norm(dim=1),
        "b_enc": weights["b_enc"] / lengths / weights["W_dec"].norm(dim=1),
        "W_dec": weights["W_dec"] * lengths[:, None],
    }
    save_file(
        {name: value.contiguous() for name, value in free.items()},
        tmp_path / "sae_weights.safetensors",
    )
    scaled = {"rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config | scaled))
    pre_acts = (x - free["b_dec"]) @ free["W_enc"] + free["b_enc"]
    norms = free["W_dec"].norm(dim=1)
    best = (pre_acts * norms).topk(4)
    code = torch.zeros_like(pre_acts).scatter(1, best.indices, best.values.relu())
    expected = (code / norms) @ free["W_dec"] + free["b_dec"]
    torch.testing.assert_close(load_autoencoder(tmp_path)(x), expected, atol=1e-5, rtol=1e-5)


# ---- dictionary_learning -------------------------------------------------------------------------


def linear(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def write(folder: Path, weights: dict[str, Tensor], kind: str) -> None:
    torch.save(weights, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind}}))


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE"])
def test_topk_dictionaries(kind: str, tmp_path) -> None:
    x = raw()
    w = {
        "encoder.weight": linear((FEATURES, D)),
        "encoder.bias": linear((FEATURES,)),
        "decoder.weight": linear((D, FEATURES)),
        "b_dec": linear((D,)),
        "k": torch.tensor(4),
        "threshold": torch.tensor(1.5),
    }
    write(tmp_path, w, kind)
    acts = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    if kind == "AutoEncoderTopK":
        best = acts.topk(4)
        acts = torch.zeros_like(acts).scatter(1, best.indices, best.values)
    else:
        acts = acts * (acts > 1.5)
    sae = load_autoencoder(tmp_path)
    torch.testing.assert_close(sae.encode_dense(x), acts, atol=1e-5, rtol=1e-5)
    expected = acts @ w["decoder.weight"].T + w["b_dec"]
    torch.testing.assert_close(sae(x), expected, atol=1e-5, rtol=1e-5)
    assert sae.selection.k == 4
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"needs config\.json"):
        load_autoencoder(tmp_path)


def test_other_dictionaries(tmp_path) -> None:
    x = raw()
    encoder, decoder = nn.Linear(D, FEATURES), linear((D, FEATURES))
    bias, gate, mag, r = linear((D,)), linear((FEATURES,)), linear((FEATURES,)), linear((25,))[:24]
    with torch.no_grad():
        plain = {
            "encoder.weight": encoder.weight.detach(),
            "encoder.bias": encoder.bias.detach(),
            "decoder.weight": decoder,
        }
        write(tmp_path, plain | {"bias": bias}, "AutoEncoder")
        expected = encoder(x - bias).relu() @ decoder.T + bias
        torch.testing.assert_close(load_autoencoder(tmp_path)(x), expected, atol=1e-5, rtol=1e-5)
        write(tmp_path, plain | {"decoder.bias": bias}, "AutoEncoderNew")
        expected = encoder(x).relu() @ decoder.T + bias
        torch.testing.assert_close(load_autoencoder(tmp_path)(x), expected, atol=1e-5, rtol=1e-5)
        jump = {
            "W_enc": encoder.weight.T.contiguous(),
            "b_enc": mag,
            "W_dec": decoder.T.contiguous(),
            "b_dec": bias,
            "threshold": r.abs(),
        }
        torch.save(jump, tmp_path / "ae.pt")
        (tmp_path / "config.json").unlink()
        pre_acts = x @ encoder.weight.T + mag
        expected = (pre_acts * (pre_acts > r.abs())).relu() @ decoder.T + bias
        torch.testing.assert_close(load_autoencoder(tmp_path)(x), expected, atol=1e-5, rtol=1e-5)
        gated = {
            "encoder.weight": encoder.weight.detach(),
            "decoder.weight": decoder,
            "decoder_bias": bias,
            "r_mag": r,
            "gate_bias": gate,
            "mag_bias": mag,
        }
        torch.save(gated, tmp_path / "ae.pt")
        inner = (x - bias) @ encoder.weight.T
        code = ((inner + gate) > 0) * (r.exp() * inner + mag).relu()
        expected = code @ decoder.T + bias
        torch.testing.assert_close(load_autoencoder(tmp_path)(x), expected, atol=1e-5, rtol=1e-5)


# ---- what is refused -----------------------------------------------------------------------------


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_is_unpickled(tmp_path, capsys) -> None:
    (tmp_path / "ae.pt").write_bytes(pickle.dumps({"b_dec": Harmful()}, protocol=2))
    with pytest.raises(ValueError, match=r"ae\.pt"):
        load_autoencoder(tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_refuses(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no autoencoder"):
        load_autoencoder(tmp_path)
    with pytest.raises(ValueError, match="no TopK transcoder"):
        save_autoencoder(trained("topk", d_out=5), tmp_path)
    save_autoencoder(trained("jump"), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    for change, says in (
        ({"architecture": "temporal"}, "architecture 'temporal' is not known"),
        ({"normalize_activations": "expected_average_only_in"}, "expected_average_only_in"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
        ({"architecture": "topk"}, "k must be a whole number of at least 1, got None"),
        ({"architecture": "topk", "k": "4"}, "k must be a whole number of at least 1, got '4'"),
        ({"architecture": "topk", "k": 25}, "k=25 of 24 features"),
        ({"architecture": "gated"}, "'b_mag' is missing"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=says):
            load_autoencoder(tmp_path)
    (tmp_path / "cfg.json").write_text("[")
    with pytest.raises(ValueError, match="is no JSON"):
        load_autoencoder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({k: v for k, v in weights.items() if k != "b_dec"}, tmp_path / export.WEIGHTS)
    for change in ({}, {"apply_b_dec_to_input": False}):
        (tmp_path / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="'b_dec' is missing"):
            load_autoencoder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    save_file(weights | {"W_enc": weights["W_enc"].flatten()}, tmp_path / export.WEIGHTS)
    with pytest.raises(ValueError, match=r"'W_enc' has the shape \(144,\), not 2 dimensions"):
        load_autoencoder(tmp_path)
    save_file(weights | {"b_dec": weights["b_dec"][:-1].clone()}, tmp_path / export.WEIGHTS)
    with pytest.raises(ValueError, match="has the shape"):
        load_autoencoder(tmp_path)
    (tmp_path / export.WEIGHTS).write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged or incomplete"):
        load_autoencoder(tmp_path)


def test_refuses_damaged_dictionaries(tmp_path) -> None:
    whole = {
        "encoder.weight": linear((FEATURES, D)),
        "encoder.bias": linear((FEATURES,)),
        "decoder.weight": linear((D, FEATURES)),
        "b_dec": linear((D,)),
        "k": torch.tensor(4),
        "threshold": torch.tensor(1.5),
    }
    for name in whole:
        missing = {k: v for k, v in whole.items() if k != name}
        write(tmp_path, missing, "BatchTopKSAE")
        with pytest.raises(ValueError, match="is missing"):
            load_autoencoder(tmp_path)
    for found in (whole["b_dec"], [whole["b_dec"]], {"b_dec": 1}):
        torch.save(found, tmp_path / "ae.pt")
        with pytest.raises(ValueError, match="must hold tensors by name"):
            load_autoencoder(tmp_path)
    write(tmp_path, whole, "AutoEncoderTopK")
    (tmp_path / "config.json").write_text('{"trainer": []}')
    with pytest.raises(ValueError, match=r"needs config\.json"):
        load_autoencoder(tmp_path)


def test_what_was_trained_on_standardized_activations_says_so_when_read(tmp_path) -> None:
    sae = trained("topk")
    sae.layernorm = True
    sae.input_scale.fill_(1.0)
    save_autoencoder(sae, tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_activations"] == "layer_norm"
    back = load_autoencoder(tmp_path)
    assert back.layernorm
    torch.testing.assert_close(back(raw()), sae(raw()))
    save_autoencoder(trained("topk"), tmp_path)
    assert not load_autoencoder(tmp_path).layernorm


@pytest.mark.parametrize("skip", [False, True])
def test_a_linear_part_on_standardized_activations_is_refused(skip: bool, tmp_path) -> None:
    sae = trained("jump", d_out=4, skip=skip)
    sae.layernorm = True
    if skip:
        with pytest.raises(ValueError, match="or without skip"):
            save_autoencoder(sae, tmp_path / "sae")
        assert not (tmp_path / "sae").exists()
    else:
        save_autoencoder(sae, tmp_path / "sae")
