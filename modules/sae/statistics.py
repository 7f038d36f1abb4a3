"""Statistics of the features over the global batch: firing, density and thresholds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.sparse_coding.sparse_code import SparseCode
from framework.utilities.precision import FullPrecision


class FiringStatistics(FullPrecision):
    """A clock since each feature last fired, and a running density, both in tokens.

    As both count tokens, it does not matter into how many micro-batches a batch is cut.

    Args:
        num_features: Number F of features.
        horizon: Tokens after which an observation counts 1/e in the density.

    Attributes:
        tokens_since_fired: Tokens since each feature last fired, (F,) int64.
        tokens: All tokens so far, 0-dimensional int64.

    Example:
        >>> import torch
        >>> from modules.sae.statistics import FiringStatistics
        >>> statistics = FiringStatistics(num_features=2)
        >>> statistics.update(torch.tensor([3, 0]), tokens=4)
        >>> statistics.tokens_since_fired, statistics.density()
        (tensor([0, 4]), tensor([0.7500, 0.0000]))
    """

    tokens_since_fired: Tensor
    tokens: Tensor
    fired: Tensor
    seen: Tensor

    def __init__(self, num_features: int, horizon: float = 1e6) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("tokens_since_fired", torch.zeros(num_features, dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fired", torch.zeros(num_features))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def update(self, counts: Tensor, tokens: int | Tensor) -> None:
        """Count a global batch.

        Args:
            counts: Tokens on which each feature is active, (F,).
            tokens: Tokens of the batch.
        """
        self.tokens += tokens
        since = self.tokens_since_fired + tokens
        self.tokens_since_fired.copy_(torch.where(counts > 0, 0, since))
        passed = torch.as_tensor(tokens, device=counts.device, dtype=self.seen.dtype)
        decay = torch.exp(-passed / self.horizon)
        self.fired.mul_(decay).add_(counts)
        self.seen.mul_(decay).add_(tokens)

    def density(self) -> Tensor:
        """Return the share of recent tokens on which each feature fired, (F,)."""
        return self.fired / self.seen.clamp(min=1)

    def dead(self, tokens: int) -> Tensor:
        """Return which features have not fired in the last ``tokens`` tokens, (F,) bool."""
        return self.tokens_since_fired >= tokens


class Thresholds(FullPrecision):
    """Pre-activations above which features count, where a token is encoded on its own.

    In training a threshold is a running mean of the smallest value that was kept; its horizon grows
    with the run, to about a tenth of it and at most 1,000 steps. After ``calibrate`` the given
    thresholds hold. A value is active if it is *above* the threshold; a running mean is therefore
    taken one bit lower, so that the smallest value itself stays.

    Args:
        num_features: Number F of features.
    """

    mean: Tensor
    updates: Tensor
    calibrated: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("updates", torch.zeros(num_features, dtype=torch.int64))
        # NaN would differ from itself in comparisons of checkpoints
        self.register_buffer("calibrated", torch.full((num_features,), -1.0))

    @torch.no_grad()
    def update(self, smallest: Tensor) -> None:
        """Count the smallest values above 0 of a global batch.

        Args:
            smallest: One for each feature, (F,), or one for all of them, (1,); see
                ``smallest_values``. Infinity where there is none.
        """
        smallest = smallest.to(self.mean.dtype).expand(len(self.mean))
        present = smallest < math.inf
        self.updates += present
        count = self.updates.to(self.mean.dtype)
        # the first one counts alone
        rate = (9 / (10 + count)).clamp(min=1e-3).masked_fill(self.updates == 1, 1.0)
        moved = self.mean + rate * (smallest - self.mean)
        self.mean.copy_(torch.where(present, moved, self.mean))
        self.calibrated.fill_(-1.0)

    def calibrate(self, thresholds: Tensor) -> None:
        """Use ``thresholds``, (F,) of at least 0, from now on."""
        self.calibrated.copy_(thresholds)

    def reset(self) -> None:
        """Forget everything: another rule begins."""
        self.mean.zero_()
        self.updates.zero_()
        self.calibrated.fill_(-1.0)

    def values(self) -> Tensor:
        """Return the thresholds, (F,); infinite for a feature without any value so far."""
        below = torch.nextafter(self.mean, torch.zeros_like(self.mean))
        running = torch.where(self.updates > 0, below, math.inf)
        running = torch.where(self.updates.any(), running, 0.0)
        return torch.where(self.calibrated >= 0, self.calibrated, running)


@torch.no_grad()
def smallest_values(code: SparseCode, per_feature: bool) -> Tensor:
    """Return the smallest values above 0 of a code, infinity where there is none.

    Args:
        code: Code (B, F).
        per_feature: Whether to return one for each feature, (F,), or one for all, (1,).
    """
    values, features = code.values.detach(), code.pattern.features
    smallest = values.new_full((code.pattern.shape[1] if per_feature else 1,), math.inf)
    place = features if per_feature else torch.zeros_like(features)
    return smallest.scatter_reduce_(0, place, values.where(values > 0, math.inf), "amin")
