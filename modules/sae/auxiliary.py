"""Auxiliary losses: features that fire too rarely learn to reconstruct what the others leave over.

The residual is reconstructed *without* the decoder's bias: the residual has none, and adding one
(as several libraries do) would make the loss push the bias away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, get_args

import torch
from torch import Tensor

from framework.sparse_coding.sparse_code import SparseCode
from framework.sparse_coding.topk import top_per_row
from framework.sparse_coding.zipf import FEWEST_TO_FIT, fit_zipf_tensors, zipf_density
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from modules.sae.network import Encoding, SparseAutoencoder
from modules.sae.statistics import FiringStatistics

Normalizer = Literal["residual", "input"]
PUBLISHED_DEAD_TOKENS = 10_000_000
"""Tokens without firing after which Gao et al. call a feature dead."""


def dead_tokens_warning(dead_tokens: int, run_tokens: int) -> str | None:
    """Return what is wrong with a window for dead features in a run of so many tokens, or None.

    Example:
        >>> dead_tokens_warning(100, 1000) is None
        True
        >>> dead_tokens_warning(50, 1000)[:46]
        'model.dead_tokens=50 is 5.0% of the 1,000 toke'
    """
    found = f"model.dead_tokens={dead_tokens:,} is"
    advice = "leave it out for a quarter of the run."
    if dead_tokens >= run_tokens:
        return (
            f"{found} no less than the {run_tokens:,} tokens of the run, so that the auxiliary "
            f"loss never acts: {advice}"
        )
    if dead_tokens < min(0.1 * run_tokens, PUBLISHED_DEAD_TOKENS):
        return (
            f"{found} {dead_tokens / run_tokens:.1%} of the {run_tokens:,} tokens of the run, so "
            f"that features count as dead that are but rare, and the auxiliary loss can make them "
            f"so: {advice}"
        )
    return None


@dataclass(frozen=True)
class AuxiliaryTerm:
    """The term that an auxiliary loss adds to a step.

    Args:
        reconstruction: Reconstruction of the residual, (B, d_out).
        weight: Weight of the term.
    """

    reconstruction: Tensor
    weight: float


class AuxiliaryOptions(TypedDict, total=False):
    """Arguments of ``AuxiliaryLoss``."""

    weight: float
    auxk: int | None
    normalizer: Normalizer
    scale_by_count: bool


class AuxiliaryLoss:
    """Base of the auxiliary losses.

    Of the features that need help, each token takes the ``auxk`` with the largest pre-activations
    (all, if they are fewer), those above 0. Their reconstruction of the detached residual, as a
    share of its variance, is the loss.

    Args:
        weight: Weight α of the term.
        auxk: Number of features per token; None is half the activation's size.
        normalizer: Variance that divides the error: ``residual`` takes that of the residual over
            the batch, ``input`` that of the activations.
        scale_by_count: Whether the term is multiplied by ``min(features / auxk, 1)``, so that two
            features are not pulled as hard as a hundred.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        weight: float = 1 / 32,
        auxk: int | None = None,
        normalizer: Normalizer = "residual",
        scale_by_count: bool = True,
    ) -> None:
        check_at_least(0, weight=weight)
        check_at_least(1, auxk=auxk)
        check_one_of(get_args(Normalizer), normalizer=normalizer)
        self.weight = weight
        self.auxk = auxk
        self.normalizer = normalizer
        self.scale_by_count = scale_by_count

    def candidates(self, statistics: FiringStatistics, k: float, dead_tokens: int) -> Tensor:
        """Return which features need help, (F,) bool.

        Args:
            statistics: Statistics of the features.
            k: Mean number of active features per token.
            dead_tokens: Number of tokens after which a feature that has not fired is dead.
        """
        raise NotImplementedError

    def term(self, sae: SparseAutoencoder, encoding: Encoding, chosen: Tensor) -> AuxiliaryTerm:
        """Return the reconstruction of the residual by the ``chosen`` features, (F,) bool."""
        features = chosen.nonzero().squeeze(1)
        limit = self.auxk or max(1, sae.d_in // 2)
        code = self._code(sae, encoding, features, min(limit, len(features)))
        share = min(1.0, len(features) / limit) if self.scale_by_count else float(len(features) > 0)
        return AuxiliaryTerm(sae.decode_without_bias(code), self.weight * share)

    def _code(
        self, sae: SparseAutoencoder, encoding: Encoding, features: Tensor, number: int
    ) -> SparseCode:
        tokens, width = encoding.pre_acts.shape
        columns = top_per_row(encoding.pre_acts[:, features], number)
        starts = torch.arange(tokens, device=features.device)[:, None] * width
        return sae.encode_again(encoding, (starts + features[columns]).flatten())


class DeadLatentAuxLoss(AuxiliaryLoss):
    """``aux_k``: helps features that have not fired for a given number of tokens.

    Paper: Gao et al., arXiv:2406.04093, appendix A.2; the factor for few features is that of
    EleutherAI/sparsify.

    Args:
        weight: Weight α of the term.
        auxk: Number of features per token; None is half the activation's size.
        normalizer: Variance that divides the error, ``residual`` or ``input``.
        scale_by_count: Whether few features count less.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.sae.auxiliary import DeadLatentAuxLoss
        >>> from modules.sae.statistics import FiringStatistics
        >>> statistics = FiringStatistics(num_features=2)
        >>> statistics.update(torch.tensor([3, 0]), tokens=4)
        >>> DeadLatentAuxLoss().candidates(statistics, k=1, dead_tokens=4)
        tensor([False,  True])
    """

    def candidates(self, statistics: FiringStatistics, k: float, dead_tokens: int) -> Tensor:
        """Return the dead features."""
        return statistics.dead(dead_tokens)


class ZipfAuxLoss(AuxiliaryLoss):
    """``aux_zipf``: helps features that fire less than a Zipf law expects of their rank.

    A feature needs help if its running density is below ``phi`` times the law's at its rank, or if
    it is dead. Where the law expects fewer than 5 firings within the horizon of the density, chance
    alone would decide, and only dead features count.

    Paper: Ayonrinde, arXiv:2411.02124, for the idea; threshold and weight are not given there.

    Args:
        phi: Share φ of the expected density, in (0, 1]; the smaller, the fewer features.
        alpha: Exponent of the law; None fits the law to the running densities in every step.
        beta: Shift of the law, for a given ``alpha``.
        **options: Arguments of ``AuxiliaryLoss``.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.sae.auxiliary import ZipfAuxLoss
        >>> from modules.sae.statistics import FiringStatistics
        >>> statistics = FiringStatistics(num_features=4)
        >>> statistics.update(torch.tensor([60, 40, 30, 5]), tokens=100)
        >>> ZipfAuxLoss(phi=0.5, alpha=1.0).candidates(statistics, k=1.35, dead_tokens=1000)
        tensor([False, False, False,  True])
    """

    MIN_EXPECTED = 5

    def __init__(
        self,
        phi: float = 0.5,
        alpha: float | None = None,
        beta: float = 0.0,
        **options: Unpack[AuxiliaryOptions],
    ) -> None:
        super().__init__(**options)
        check_interval("(0, 1]", phi=phi)
        if alpha is not None:
            zipf_density(1, 1, alpha, beta)
        self.phi = phi
        self.alpha = alpha
        self.beta = beta

    def candidates(self, statistics: FiringStatistics, k: float, dead_tokens: int) -> Tensor:
        """Return the under-used features, dead ones among them."""
        density = statistics.density()
        dead = statistics.dead(dead_tokens)
        alpha: float | Tensor | None = self.alpha
        beta: float | Tensor = self.beta
        if alpha is None:
            alpha, beta, _ = fit_zipf_tensors(density)
        law = zipf_density(len(density), min(k, len(density)), alpha, beta).to(density)
        expected = torch.empty_like(law)
        expected[density.sort(descending=True, stable=True).indices] = law
        reliable = expected * statistics.seen >= self.MIN_EXPECTED
        if self.alpha is None:  # the fit of too few features means nothing
            reliable = reliable & ((density > 0).sum() >= FEWEST_TO_FIT)
        return dead | (reliable & (density < self.phi * expected))
