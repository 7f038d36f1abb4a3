"""Metrics of a sparse autoencoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from framework.sparse_coding.feature_density import FeatureDensity
from framework.sparse_coding.fvu import FractionVarianceUnexplained
from framework.sparse_coding.l0 import L0
from framework.sparse_coding.nmse import NMSEOpenAI, NMSERatio
from framework.sparse_coding.selection import Selection
from framework.sparse_coding.shrinkage import (
    L2Ratio,
    ReconstructionCosine,
    RelativeReconstructionBias,
)
from modules.sae.network import Code, SparseAutoencoder, active_per_feature, active_per_token

RECONSTRUCTION = ("fvu", "nmse_ratio", "nmse_openai", "cos", "l2_ratio", "rel_rec_bias")


def autoencoder_metrics(sae: SparseAutoencoder) -> dict[str, Any]:
    """Return metrics with every token on its own, and one with the batch's rule if there is one."""
    size, features = sae.d_out, sae.d_sae
    metrics: dict[str, Any] = {
        "fvu": FractionVarianceUnexplained(size),
        "nmse_ratio": NMSERatio(),
        "nmse_openai": NMSEOpenAI(),
        "cos": ReconstructionCosine(),
        "l2_ratio": L2Ratio(),
        "rel_rec_bias": RelativeReconstructionBias(),
        "l0": L0(features),
        "density": FeatureDensity(features),
    }
    rules = [rule for rule in sae.selections if isinstance(rule, Selection)]
    # feature choice would force features onto tokens of a text that is not shuffled
    if any(rule.across_tokens for rule in rules) and not any(r.per_feature for r in rules):
        metrics["fvu_batch_rule"] = FractionVarianceUnexplained(size)
    return metrics


def measure(
    metrics: MetricCollection,
    sae: SparseAutoencoder,
    x: Tensor,
    target: Tensor,
    code: Code,
    rebuilt: Tensor,
) -> None:
    """Update ``autoencoder_metrics`` with a batch; a collective call.

    Args:
        metrics: Metrics.
        sae: Autoencoder.
        x: Activations (B, d).
        target: Activations to reconstruct, (B, d_out).
        code: Code of every token on its own, (B, F).
        rebuilt: Reconstruction from the code, (B, d_out).
    """
    per_token, per_feature = active_per_token(code), active_per_feature(code)
    for name in RECONSTRUCTION:
        metrics[name].update(rebuilt, target)
    metrics["l0"].update(per_token)
    metrics["density"].update(per_feature, per_token)
    if "fvu_batch_rule" in metrics:
        # every rank, as the selection is collective
        together = sae.decode(sae.encode_batch(x).code, x)
        metrics["fvu_batch_rule"].update(together, target)
