"""Autoencoders in files that other tools read, and theirs in ours.

The layout of SAELens, a folder with ``cfg.json`` and ``sae_weights.safetensors``, is written and
read; that of dictionary_learning, ``ae.pt`` with ``config.json``, is read. Nothing is unpickled.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.sparse_coding.selection import BatchTopK, Selection, TokenChoice
from framework.utilities.files import write_atomically
from modules.sae.activations import Activation, GatedReLU, JumpReLU, ReLUWithL1
from modules.sae.network import SparseAutoencoder

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
LAYOUT_VERSION = "6.0.0"
"""Of SAELens, which takes files that name none for older ones, and drops their metadata."""
NO_TOPK_TRANSCODER = "SAELens has no TopK transcoder; train one with BatchTopK instead."
NO_STANDARDIZED_SKIP = (
    "SAELens puts the linear part of a transcoder on activations that are not standardized; train "
    "with another normalization than layernorm, or without skip."
)


@dataclass(frozen=True)
class FoldedAutoencoder:
    """Weights that encode activations as the language model gives them, one token at a time.

    ``z = z' * 1[z' > threshold]`` with ``z' = (x - b_dec) @ W_enc.T + b_enc`` (a transcoder: ``x @
    W_enc.T + b_enc``), cut to the ``k`` largest where k is given.

    Args:
        W_enc: (F, d).
        b_enc: (F,).
        W_dec: (F, d_out).
        b_dec: (d_out,).
        threshold: (F,), at least 0.
        W_skip: (d_out, d) or None.
        k: of TopK, otherwise None.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    W_skip: Tensor | None = None
    k: int | None = None


@torch.no_grad()
def fold(sae: SparseAutoencoder) -> FoldedAutoencoder:
    """Return weights for activations in their own size, with everything as thresholds.

    With activations s x in the common size, biases and thresholds are divided by s; codes then are
    in the activations' own size too. Standardized activations have no common factor, and the
    weights remain those for standardized ones.

    Example:
        >>> import torch
        >>> from modules.sae.export import fold
        >>> from modules.sae.network import SparseAutoencoder
        >>> sae = SparseAutoencoder(d_in=4, d_sae=64)
        >>> sae.input_scale.fill_(2.0), sae.b_dec.data.fill_(1.0)
        (tensor(2.), tensor([1., 1., 1., 1.]))
        >>> fold(sae).b_dec
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    weight, bias = sae.W_enc.float(), sae.b_enc.float()
    k = None
    if isinstance(sae.selection, Activation):
        weight, bias, threshold = sae.selection.as_threshold(weight, bias)
    elif sae.selection.across_tokens:
        threshold = sae.thresholds.values().float()
    else:
        threshold, k = torch.zeros_like(bias), sae.selection.k
    scale = sae.input_scale.float()
    output = sae.output_scale.float() if sae.transcoder else scale
    return FoldedAutoencoder(
        W_enc=weight.clone(),
        b_enc=bias / scale,
        W_dec=sae.W_dec.float() * (scale / output),
        b_dec=sae.b_dec.float() / output,
        threshold=threshold / scale,
        W_skip=None if sae.W_skip is None else sae.W_skip.float() * (scale / output),
        k=k,
    )


def save_autoencoder(
    sae: SparseAutoencoder, folder: str | Path, metadata: dict[str, Any] | None = None
) -> None:
    """Write ``sae`` in the layout that ``SAE.load_from_disk`` of SAELens loads.

    A TopK autoencoder stays one; everything else becomes a JumpReLU, which gives the same code.

    Args:
        sae: trained.
        folder: is made.
        metadata: JSON values, such as ``model_name`` and ``hook_name``.

    Raises:
        ModuleNotFoundError: ``safetensors`` is missing.
        ValueError: a TopK transcoder, or one with a linear part on standardized activations, which
            SAELens does not know.
    """
    from safetensors.torch import save

    folded = fold(sae)
    if sae.transcoder and folded.k is not None:
        raise ValueError(NO_TOPK_TRANSCODER)
    if sae.layernorm and sae.W_skip is not None:
        raise ValueError(NO_STANDARDIZED_SKIP)
    tensors = {
        "W_enc": folded.W_enc.T,
        "b_enc": folded.b_enc,
        "W_dec": folded.W_dec,
        "b_dec": folded.b_dec,
    }
    config: dict[str, Any] = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not sae.transcoder,
        "normalize_activations": "layer_norm" if sae.layernorm else "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": LAYOUT_VERSION, **(metadata or {})},
    }
    if folded.k is not None:
        config |= {
            "architecture": "topk",
            "k": folded.k,
            "rescale_acts_by_decoder_norm": False,
        }
    else:
        tensors["threshold"] = folded.threshold
        config["architecture"] = "jumprelu"
    if sae.transcoder:
        config["d_out"] = sae.d_out
        config["architecture"] = "jumprelu_transcoder"
    if folded.W_skip is not None:
        tensors["W_skip"] = folded.W_skip
        config["architecture"] = "jumprelu_skip_transcoder"
    data = save({name: value.contiguous().cpu() for name, value in tensors.items()})
    text = json.dumps(config, indent=2).encode()
    write_atomically(Path(folder) / WEIGHTS, lambda file: file.write(data))
    write_atomically(Path(folder) / CONFIG, lambda file: file.write(text))


def load_autoencoder(path: str | Path) -> SparseAutoencoder:
    """Return an autoencoder that SAELens, dictionary_learning or ``save_autoencoder`` wrote.

    It takes activations in their own size or, where its ``layernorm`` is set, standardized ones,
    see ``Normalization``.

    Args:
        path: a folder with ``cfg.json`` and ``sae_weights.safetensors``, or with ``ae.pt`` and
            ``config.json``.

    Raises:
        FileNotFoundError: the folder holds neither.
        ModuleNotFoundError: ``safetensors`` is missing and needed.
        ValueError: a damaged file, or an autoencoder of a kind that is not known.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from modules.sae.export import load_autoencoder, save_autoencoder
        >>> from modules.sae.network import SparseAutoencoder
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
    from safetensors.torch import load_file

    config = _read_json(path / CONFIG)
    try:
        weights = load_file(path / WEIGHTS)
    except Exception as error:  # safetensors' own error class is no ValueError
        raise ValueError(f"{path / WEIGHTS} is not a whole file: {error}") from None
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
    sae = _build(path, selection, weight, parts, transcoder, centered)
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
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{file} holds more than tensors and was not loaded.") from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{file} is not a whole file: {str(error).splitlines()[0]}") from None
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
    transcoder: bool,
    centered: bool,
) -> SparseAutoencoder:
    features, d_in = weight.shape
    decoder = _tensor(parts, "W_dec", path, 2)
    skip = parts.get("W_skip")
    sae = SparseAutoencoder(
        d_in, features, selection, decoder.shape[1] if transcoder else None, skip is not None
    )
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
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object.")
    return found
