"""What our samplers have in common: settings that are chosen together, the first ones at random."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from framework.tuning.unit_cube import known_space


class RelativeSampler(BaseSampler):
    """Chooses all parameters of a trial together, in ``sample_relative`` of a class that derives.

    What that leaves out, as it does before the space is known from other trials, is random.

    Args:
        seed: Seed of what is random.
    """

    def __init__(self, seed: int) -> None:
        # NumPy's generators take 32 bits
        self._random = RandomSampler(seed=seed % 2**32)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what all trials had to choose."""
        return known_space(study)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
