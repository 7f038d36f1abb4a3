"""Export of autoencoders to the layout of SAELens: ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.objectives.errors import IncompatibleError
from framework.sparse_coding.selection import TokenChoice
from framework.utilities.files import write_atomically
from modules.sae.activations import Activation
from modules.sae.network import SparseAutoencoder

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
LAYOUT_VERSION = "6.0.0"
"""Version of SAELens; it takes files without one for older ones, and drops their metadata."""


@dataclass(frozen=True)
class FoldedAutoencoder:
    """Weights that encode activations as the language model gives them, one token at a time.

    ``z = z' * 1[z' > threshold]`` with ``z' = (x - b_dec) @ W_enc.T + b_enc`` (a transcoder: ``x @
    W_enc.T + b_enc``), cut to the ``k`` largest where k is given.

    Args:
        W_enc: Encoder weight, (F, d).
        b_enc: Encoder bias, (F,).
        W_dec: Decoder weight, (F, d_out).
        b_dec: Decoder bias, (d_out,).
        threshold: Thresholds of at least 0, (F,).
        W_skip: Linear map of a transcoder, (d_out, d); None for no such map.
        k: Number of features per token with TopK; None otherwise.
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


def check_exportable(sae: SparseAutoencoder, last: nn.Module, layernorm: bool) -> None:
    """Raise ``IncompatibleError`` if SAELens does not know what is to be exported.

    Args:
        sae: Autoencoder, which need not be trained yet.
        last: Rule or activation that it is exported with.
        layernorm: Whether its activations are standardized.
    """
    if sae.transcoder and isinstance(last, TokenChoice):
        raise IncompatibleError("SAELens has no TopK transcoder; train one with BatchTopK instead.")
    if layernorm and sae.W_skip is not None:
        raise IncompatibleError(
            "SAELens puts the linear part of a transcoder on activations that are not "
            "standardized; train with another normalization than layernorm, or without skip."
        )


def save_autoencoder(
    sae: SparseAutoencoder, folder: str | Path, metadata: dict[str, Any] | None = None
) -> None:
    """Write ``sae`` in the layout that ``SAE.load_from_disk`` of SAELens loads.

    A TopK autoencoder stays one; everything else becomes a JumpReLU, which gives the same code.

    Args:
        sae: Trained autoencoder.
        folder: Folder to write to, which is made.
        metadata: JSON values, such as ``model_name`` and ``hook_name``.

    Raises:
        ModuleNotFoundError: The package ``safetensors`` is missing.
        IncompatibleError: SAELens does not know such a transcoder, see ``check_exportable``.
    """
    from safetensors.torch import save

    check_exportable(sae, sae.selection, sae.layernorm)
    folded = fold(sae)
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
