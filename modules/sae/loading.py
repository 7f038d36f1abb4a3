"""Autoencoders of SAELens and dictionary_learning; nothing in their files is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.sparse_coding.selection import BatchTopK, Selection, TokenChoice
from framework.utilities.json_files import read_json
from framework.utilities.tensor_archive import load_archive, load_safetensors
from modules.sae.activations import Activation, GatedReLU, JumpReLU, ReLUWithL1
from modules.sae.export import CONFIG, WEIGHTS
from modules.sae.network import SparseAutoencoder


def load_autoencoder(path: str | Path) -> SparseAutoencoder:
    """Return an autoencoder that SAELens, dictionary_learning or ``save_autoencoder`` wrote.

    It takes activations in their own size or, where its ``layernorm`` is set, standardized ones,
    see ``Normalization``.

    Args:
        path: Folder with ``cfg.json`` and ``sae_weights.safetensors``, or with ``ae.pt`` and
            ``config.json``.

    Raises:
        FileNotFoundError: The folder holds neither.
        ModuleNotFoundError: The package ``safetensors`` is missing and needed.
        ValueError: A file is damaged, or the kind of the autoencoder is not known.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from modules.sae import SparseAutoencoder, load_autoencoder, save_autoencoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_autoencoder(SparseAutoencoder(d_in=4, d_sae=64), folder)
        ...     sae = load_autoencoder(folder)
        >>> x = torch.randn(10, 4)
        >>> code = sae.encode_dense(x)
        >>> tuple(code.shape), tuple(sae(x).shape)
        ((10, 64), (10, 4))
    """
    path = Path(path).expanduser()
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return _from_saelens(path)
    if (path / "ae.pt").is_file():
        return _from_dictionary_learning(path)
    raise FileNotFoundError(
        f"{path} holds no autoencoder: neither {CONFIG} and {WEIGHTS} nor ae.pt."
    )


# ---- SAELens -------------------------------------------------------------------------------------


@torch.no_grad()
def _from_saelens(path: Path) -> SparseAutoencoder:
    config = _read_json(path / CONFIG)
    weights = load_safetensors(path / WEIGHTS)
    kind = str(config.get("architecture"))
    for name, known in (
        ("normalize_activations", ("none", "layer_norm")),
        ("reshape_activations", ("none",)),
    ):
        if config.get(name, "none") not in known:
            raise ValueError(f"{path / CONFIG}: {name}={config[name]!r} is not supported.")
    base = kind.removesuffix("_transcoder").removesuffix("_skip")
    if kind in ("transcoder", "skip_transcoder"):
        base = "standard"
    parts = {name: value.float() for name, value in weights.items()}
    selection: Selection | Activation
    if base == "topk":
        selection = TokenChoice(_whole(config.get("k"), path / CONFIG))
    elif base in ("standard", "jumprelu", "gated"):
        selection = {"standard": ReLUWithL1, "jumprelu": JumpReLU, "gated": GatedReLU}[base]()
    else:
        raise ValueError(
            f"{path / CONFIG}: architecture {kind!r} is not known; known are standard, topk, "
            "jumprelu, gated and transcoders."
        )
    if base == "gated":
        parts["b_enc"] = _tensor(parts, "b_mag", path, 1)
    transcoder = "transcoder" in kind
    centered = transcoder or bool(config.get("apply_b_dec_to_input", True))
    weight = _tensor(parts, "W_enc", path, 2).T
    sae = _build(path, selection, weight, parts, transcoder=transcoder, centered=centered)
    sae.layernorm = config.get("normalize_activations") == "layer_norm"
    if base == "topk" and config.get("rescale_acts_by_decoder_norm"):
        lengths = sae.W_dec.norm(dim=1)
        sae.W_enc.mul_(lengths[:, None])
        sae.b_enc.mul_(lengths)
        sae.normalize_decoder()
    return sae


# ---- dictionary_learning -------------------------------------------------------------------------


def _from_dictionary_learning(path: Path) -> SparseAutoencoder:
    file = path / "ae.pt"
    weights = load_archive(file)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"{file} must hold tensors by name.")
    config = _read_json(path / "config.json") if (path / "config.json").is_file() else {}
    trainer = config.get("trainer")
    named = trainer.get("dict_class") if isinstance(trainer, dict) else None
    kind = str(named or _guessed(weights))
    parts = {name: value.float() for name, value in weights.items()}
    selection: Selection | Activation
    if kind in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        k = _whole(int(_tensor(parts, "k", path, 0)), file)
        selection = TokenChoice(k) if kind == "AutoEncoderTopK" else BatchTopK(k)
    elif kind in ("AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder", "GatedAutoEncoder"):
        selection = {
            "JumpReluAutoEncoder": JumpReLU,
            "GatedAutoEncoder": GatedReLU,
        }.get(kind, ReLUWithL1)()
    else:
        raise ValueError(f"{path}: dictionaries of the class {kind!r} are not known.")
    names = {
        "encoder.bias": "b_enc",
        "mag_bias": "b_enc",
        "bias": "b_dec",
        "decoder_bias": "b_dec",
        "decoder.bias": "b_dec",
        "gate_bias": "b_gate",
    }
    parts = {names.get(name, name): value for name, value in parts.items()}
    if "encoder.weight" in parts:
        weight = _tensor(parts, "encoder.weight", path, 2)
        parts["W_dec"] = _tensor(parts, "decoder.weight", path, 2).T
    else:
        weight = _tensor(parts, "W_enc", path, 2).T
    # the encoders of two classes take the input as it is
    centered = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    sae = _build(path, selection, weight, parts, transcoder=False, centered=centered)
    if isinstance(selection, BatchTopK):
        threshold = _tensor(parts, "threshold", path, 0)
        sae.thresholds.calibrate(threshold.clamp(min=0).expand(sae.d_sae))
    return sae


def _guessed(weights: dict[str, Tensor]) -> str:
    if "r_mag" in weights:
        return "GatedAutoEncoder"
    if "W_enc" in weights and "threshold" in weights:
        return "JumpReluAutoEncoder"
    if "k" in weights:
        raise ValueError("ae.pt needs config.json beside it: TopK and BatchTopK look the same.")
    return "AutoEncoder" if "bias" in weights else "AutoEncoderNew"


# ---- both ----------------------------------------------------------------------------------------


@torch.no_grad()
def _build(
    path: Path,
    selection: Selection | Activation,
    weight: Tensor,
    parts: dict[str, Tensor],
    *,
    transcoder: bool,
    centered: bool,
) -> SparseAutoencoder:
    features, d_in = weight.shape
    decoder = _tensor(parts, "W_dec", path, 2)
    skip = parts.get("W_skip")
    try:
        sae = SparseAutoencoder(
            d_in=d_in,
            d_sae=features,
            selection=selection,
            d_out=decoder.shape[1] if transcoder else None,
            skip=skip is not None,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    wanted = {
        sae.W_enc: weight,
        sae.W_dec: decoder,
        sae.b_enc: _tensor(parts, "b_enc", path, 1),
        sae.b_dec: _tensor(parts, "b_dec", path, 1),
    }
    if sae.W_skip is not None and skip is not None:
        wanted[sae.W_skip] = skip
    if isinstance(selection, JumpReLU):
        wanted[selection.log_threshold] = _tensor(parts, "threshold", path, 1).clamp(min=0).log()
    if isinstance(selection, GatedReLU):
        wanted[selection.log_gain] = _tensor(parts, "r_mag", path, 1)
        wanted[selection.gate_bias] = _tensor(parts, "b_gate", path, 1)
    for parameter, value in wanted.items():
        if parameter.shape != value.shape:
            raise ValueError(
                f"{path}: a weight has the shape {tuple(value.shape)}, not "
                f"{tuple(parameter.shape)} as the others make it."
            )
        parameter.copy_(value)
    if not centered:
        # our encoder takes the decoder's bias off first
        sae.b_enc.add_(weight @ sae.b_dec)
    return sae


def _tensor(parts: dict[str, Tensor], name: str, path: Path, ndim: int) -> Tensor:
    if name not in parts:
        raise ValueError(f"{path}: the weight {name!r} is missing.")
    value = parts[name]
    if value.ndim != ndim:
        raise ValueError(
            f"{path}: {name!r} has the shape {tuple(value.shape)}, not {ndim} dimensions."
        )
    return value


def _whole(k: Any, file: Path) -> int:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"{file}: k must be a whole number of at least 1, got {k!r}.")
    return k


def _read_json(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object.")
    return found
