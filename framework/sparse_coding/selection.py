"""Which entries of a (tokens, features) matrix of affinities stay: token, mutual, feature choice.

A budget of K = k B non-zeros is spent on B tokens and F features. The rules differ in what is fixed
beside the total: k per token, nothing, or a budget per feature. All of them keep the largest
entries, those that reduce the error most, over the *global* batch.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
from torch import Tensor

from framework.distributed.collectives import rows_per_rank, world_size
from framework.sparse_coding.sparse_code import SparseCode, SparsePattern, positive_part
from framework.sparse_coding.topk import top_overall, top_per_column, top_per_row
from framework.sparse_coding.zipf import FEWEST_TO_FIT, fit_zipf, integer_budgets, zipf_density
from framework.utilities.checks import check_at_least
from framework.utilities.precision import FullPrecision

logger = logging.getLogger("lightning.pytorch")
_GOLDEN = (5**0.5 - 1) / 2


class Selection(FullPrecision):
    """Base of the rules; has no parameters, and budgets keep their type in half precision.

    Class attributes:
        across_tokens: whether a token's entries depend on the other tokens of the batch, so that a
            single token can only be encoded by a threshold.
        per_feature: whether each feature has a threshold of its own.

    Args:
        k: Mean number of entries per token.

    Raises:
        ValueError: ``k`` is below 1.
    """

    across_tokens: ClassVar[bool] = True
    per_feature: ClassVar[bool] = False

    def __init__(self, k: int = 32) -> None:
        super().__init__()
        check_at_least(1, k=k)
        self.k = k

    def setup(self, num_features: int) -> None:
        """Allocate what depends on F; called once, before anything is selected.

        Raises:
            ValueError: there are fewer than ``k`` features.
        """
        if self.k > num_features:
            raise ValueError(
                f"{type(self).__name__}: k={self.k} of {num_features} features cannot be chosen."
            )

    def positions(self, pre_acts: Tensor) -> Tensor:
        """Return the chosen entries as (n,) positions in the flattened matrix, grouped by token.

        Collective where the rule looks across the tokens of several ranks.

        Args:
            pre_acts: (B_r, F) affinities of this rank's tokens.
        """
        raise NotImplementedError

    def select(self, pre_acts: Tensor) -> Tensor:
        """Return the chosen entries as a (B_r, F) bool mask."""
        mask = torch.zeros_like(pre_acts, dtype=torch.bool)
        mask.view(-1)[self.positions(pre_acts)] = True
        return mask

    def select_sparse(self, pre_acts: Tensor) -> SparseCode:
        """Return the values, tokens and features of the chosen entries, after the ReLU.

        An entry at or below 0 has the value 0 and no gradient, and is not active. Differentiable
        with respect to ``pre_acts``.
        """
        positions = self.positions(pre_acts)
        values = positive_part(pre_acts.flatten()[positions])
        shape = (pre_acts.shape[0], pre_acts.shape[1])
        return SparseCode(values, SparsePattern.at(positions, shape))

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"k={self.k}"


class TokenChoice(Selection):
    """Every token takes its ``k`` largest features (TopK).

    Paper: Gao et al., *Scaling and evaluating sparse autoencoders*, 2024, arXiv:2406.04093. Of
    equal entries the one of the lowest feature is taken.

    Args:
        k: Number of entries per token.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.selection import TokenChoice
        >>> TokenChoice(k=1).select(torch.tensor([[0.9, 1.1], [0.8, 0.3]]))
        tensor([[False,  True],
                [ True, False]])
    """

    across_tokens = False

    def positions(self, pre_acts: Tensor) -> Tensor:
        """Return k positions per token."""
        columns = top_per_row(pre_acts, self.k)
        starts = torch.arange(len(pre_acts), device=pre_acts.device)[:, None] * pre_acts.shape[1]
        return (starts + columns).flatten()


class MutualChoice(Selection):
    """The ``k`` B largest entries of the whole batch stay, wherever they are.

    Hard tokens use more features than easy ones. On several ranks the batch is the global one, and
    the mask is the one of a single process: see ``top_overall``.

    Paper: Ayonrinde, *Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse
    Autoencoders*, 2024, arXiv:2411.02124.

    Args:
        k: Mean number of entries per token.
        sync: Whether to choose over all ranks. Otherwise each rank chooses among its own tokens,
            and results depend on how many ranks there are.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.selection import MutualChoice
        >>> MutualChoice(k=1).select(torch.tensor([[0.9, 1.1], [0.8, 0.3]]))
        tensor([[ True,  True],
                [False, False]])
    """

    def __init__(self, k: int = 32, sync: bool = True) -> None:
        super().__init__(k)
        self.sync = sync

    def positions(self, pre_acts: Tensor) -> Tensor:
        """Return k B positions, over all ranks."""
        return top_overall(pre_acts, self.k, per_row=True, sync=self.sync)


class BatchTopK(MutualChoice):
    """Mutual choice after the ReLU: entries at or below 0 never stay, so there may be fewer.

    The code is that of ``MutualChoice``, whose entries at or below 0 have no value.

    Paper: Bussmann, Leask, Nanda, *BatchTopK Sparse Autoencoders*, 2024, arXiv:2412.06410.

    Args:
        k: Mean number of entries per token.
        sync: Whether to choose over all ranks, as in ``MutualChoice``.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.selection import BatchTopK
        >>> BatchTopK(k=1).select(torch.tensor([[0.9, -1.1], [-0.8, -0.3]]))
        tensor([[ True, False],
                [False, False]])
    """

    def select(self, pre_acts: Tensor) -> Tensor:
        """Return the chosen entries that are above 0 as a (B_r, F) bool mask."""
        return super().select(pre_acts) & (pre_acts > 0)


class FeatureChoice(Selection):
    """Every feature takes its own number of tokens: no feature with an affinity above 0 can die.

    Budgets are uniform at first. ``assign`` then gives the feature with the r-th highest
    measured density the budget that a Zipf law expects of rank r. They are whole and add up to
    K = k B; where K is below F they cannot all be 1, and what a feature is due is carried from step
    to step, so that a feature due m tokens per batch takes one every 1 / m steps.

    The rule needs batches of shuffled tokens. On consecutive text it forces features onto tokens
    that they do not fit: evaluate with thresholds.

    Paper: Ayonrinde, arXiv:2411.02124, who gives neither the constants of the law nor what to do
    with budgets below 1.

    Args:
        k: Mean number of entries per token.
        alpha: Exponent of the law; None fits exponent and shift to the measured densities, 0 keeps
            the budgets uniform.
        beta: Shift of the law, for a given ``alpha``.
        sync: Whether to choose over all ranks, as in ``MutualChoice``.

    Attributes:
        share: (F,) float64, each feature's part of the budget.
        carry: (F,) float64, what each feature is due.
        law: (3,) float64, exponent, shift and R2 of the law in use; 0 where nothing was fitted.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.selection import FeatureChoice
        >>> choice = FeatureChoice(k=1)
        >>> choice.setup(num_features=2)
        >>> choice.select(torch.tensor([[0.9, 1.1], [0.8, 0.3]]))
        tensor([[ True,  True],
                [False, False]])
    """

    per_feature = True
    share: Tensor
    carry: Tensor
    law: Tensor

    def __init__(
        self, k: int = 32, alpha: float | None = None, beta: float = 0.0, sync: bool = True
    ) -> None:
        super().__init__(k)
        if alpha is not None:
            zipf_density(1, 1, alpha, beta)
        self.alpha = alpha
        self.beta = beta
        self.sync = sync
        self._whole: tuple[int, Tensor] | None = None
        self._on_cpu: tuple[Tensor, Tensor] | None = None

    def setup(self, num_features: int) -> None:
        """Allocate the budgets."""
        super().setup(num_features)
        share = torch.full((num_features,), 1 / num_features, dtype=torch.float64)
        self.register_buffer("share", share)
        # spread evenly, so that features that are due alike are not all served in one step
        due = torch.arange(num_features, dtype=torch.float64) * _GOLDEN % 1
        self.register_buffer("carry", due)
        self.register_buffer("law", torch.zeros(3, dtype=torch.float64))

    def assign(self, density: Tensor) -> None:
        """Give each feature the budget of its rank by ``density``, (F,).

        Budgets stay as they are, with a warning, where fewer than three features are active and a
        law is to be fitted.
        """
        if self.alpha is None:
            active = int((density > 0).sum())
            if active < FEWEST_TO_FIT:
                logger.warning(
                    f"Only {active} of {len(density):,} features were active so far, too few to "
                    "fit a Zipf law: FeatureChoice keeps its budgets."
                )
                return
            fit = fit_zipf(density)
            law = (fit.alpha, fit.beta, fit.r2)
        else:
            law = (self.alpha, self.beta, 0.0)
        ranked = density.sort(descending=True, stable=True).indices
        expected = zipf_density(len(density), self.k, law[0], law[1])
        self.share[ranked] = (expected / self.k).to(self.share)
        self.law.copy_(torch.tensor(law, dtype=torch.float64))
        self._forget()

    def budgets(self, tokens: int) -> Tensor:
        """Return every feature's budget in a batch of ``tokens`` tokens, (F,) int64 on the CPU.

        In training mode this counts as a step of the carry.
        """
        total = self.k * tokens
        if self._on_cpu is None:
            # those of a first validation also serve training, which changes none of inference mode
            with torch.inference_mode(False):
                self._on_cpu = (self.share.cpu(), self.carry.cpu())
        share, carry = self._on_cpu
        if total < len(share):
            due = carry + share * total
            budgets = _whole_part(due, tokens)
            if self.training:
                carry.copy_(due - budgets)
            if self.training and carry is not self.carry:
                # the buffer takes the same step on a GPU, which would be waited for
                due = self.carry + self.share * total
                self.carry.copy_(due - _whole_part(due, tokens))
            return budgets.long()
        if self._whole is None or self._whole[0] != tokens:
            self._whole = (tokens, integer_budgets(share * total, total, tokens))
        return self._whole[1]

    def _forget(self) -> None:
        """Forget what was made of the buffers, which have changed."""
        self._whole = self._on_cpu = None

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def positions(self, pre_acts: Tensor) -> Tensor:
        """Return the positions of every feature's budget, over all ranks."""
        budgets = self.budgets(_tokens(pre_acts, self.sync))
        return top_per_column(pre_acts, budgets, sync=self.sync)


def _whole_part(due: Tensor, most: int) -> Tensor:
    # a third and a third and a third are not quite 1
    return (due + 1e-9).floor().clamp(max=most)


def _tokens(pre_acts: Tensor, sync: bool) -> int:
    if not sync or world_size() == 1:
        return len(pre_acts)
    return sum(rows_per_rank(len(pre_acts), pre_acts.device))
