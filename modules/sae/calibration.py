"""Thresholds that keep as many features on held-out tokens as the selection does in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum
from framework.sparse_coding.quantiles import PositiveHistogram
from framework.sparse_coding.selection import FeatureChoice, Selection
from modules.sae.network import SparseAutoencoder

_BITS_OF_ONE, _BITS_OF_EACH = 12, 6
_ENTRIES = 1 << 23
"""Number of pre-activations that are looked at together."""


@torch.no_grad()
def calibrated_thresholds(sae: SparseAutoencoder, inputs: Iterable[Tensor]) -> Tensor:
    """Return thresholds (F,) with which k features per token are active on ``inputs``.

    There is one for all features, above which k N of the N tokens' pre-activations lie; with
    feature choice there is one per feature, above which its own share of them lies. A feature that
    is above 0 less often than its share gets a threshold of 0, and what it leaves goes to the
    others in proportion; one that never is gets an infinite one. Shares are right for tokens mixed
    as in training only: on other text, go on with ``scaled_thresholds``. A collective call.

    Args:
        sae: Autoencoder with a selection that looks across tokens.
        inputs: Batches (B, d) of this rank, in the size that the autoencoder was trained on.
    """
    selection = sae.selection
    assert isinstance(selection, Selection)
    each = selection.per_feature
    histogram = PositiveHistogram(
        sae.d_sae if each else 1, _BITS_OF_EACH if each else _BITS_OF_ONE, sae.W_enc.device
    )
    tokens = torch.zeros((), dtype=torch.int64, device=sae.W_enc.device)
    for pre_acts in _pre_activations(sae, inputs):
        row, feature = (pre_acts > 0).nonzero(as_tuple=True)
        values = pre_acts[row, feature]
        histogram.add(feature if each else torch.zeros_like(feature), values)
        tokens += len(pre_acts)
    total = selection.k * all_reduce_sum(tokens).double()
    if isinstance(selection, FeatureChoice):
        return histogram.thresholds(_filled(selection.share, histogram.totals(), total))
    return histogram.thresholds(total[None]).expand(sae.d_sae)


@torch.no_grad()
def scaled_thresholds(
    sae: SparseAutoencoder, thresholds: Tensor, inputs: Iterable[Tensor]
) -> Tensor:
    """Return ``thresholds`` times the factor with which k features are active on ``inputs``.

    A collective call.

    Args:
        sae: Autoencoder with a selection that looks across tokens.
        thresholds: Thresholds (F,).
        inputs: Batches (B, d) of this rank, in the size that the autoencoder was trained on.
    """
    selection = sae.selection
    assert isinstance(selection, Selection)
    histogram = PositiveHistogram(1, _BITS_OF_ONE, sae.W_enc.device)
    tokens = torch.zeros((), dtype=torch.int64, device=sae.W_enc.device)
    for pre_acts in _pre_activations(sae, inputs):
        # a threshold of 0 is exceeded by any factor, an infinite one by none
        factors = pre_acts.relu() / thresholds
        factors = factors[factors > 0]
        histogram.add(torch.zeros_like(factors, dtype=torch.int64), factors)
        tokens += len(pre_acts)
    total = selection.k * all_reduce_sum(tokens).double()
    factor = histogram.thresholds(total[None])
    # 0 and infinity stay, also where no factor is found and it is infinite itself
    scaled = thresholds.isfinite() & (thresholds > 0)
    return torch.where(scaled, factor * thresholds, thresholds)


def _pre_activations(sae: SparseAutoencoder, inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    rows = max(1, _ENTRIES // sae.d_sae)
    for x in inputs:
        for part in x.split(rows):
            yield sae.pre_activations(part.to(sae.W_enc))


def _filled(share: Tensor, most: Tensor, total: Tensor) -> Tensor:
    """Return what each gets of ``total`` by its share, but no more than ``most``."""
    most = most.double()
    full = torch.zeros_like(share, dtype=torch.bool)
    while True:
        rest = share.masked_fill(full, 0.0)
        level = (total - most[full].sum()) / rest.sum().clamp(min=1e-300)
        wanted = torch.where(full, most, rest * level)
        above = wanted > most
        if not above.any():
            return wanted
        full |= above
