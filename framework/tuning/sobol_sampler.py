"""Settings from a scrambled Sobol sequence, whose points are spread evenly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from framework.tuning.relative_sampler import RelativeSampler
from framework.tuning.unit_cube import from_unit
from framework.utilities.randomness import stable_seed


class SobolSampler(RelativeSampler):
    """Proposes a certain point of a scrambled Sobol sequence, one coordinate for each parameter.

    Optuna's own counts its calls in the study, so that a call that was interrupted moves all
    points after it; here the number of the trial is the place in the sequence. The parameters of
    the first trial are drawn at random, because the space is known from other trials.

    Args:
        seed: Seed of the scrambling, the same for all trials of a study.
        number: Number of the trial, from 0.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(sampler=SobolSampler(seed=0, number=0))
        >>> 0 <= study.ask().suggest_float("x", 0, 1) <= 1
        True
    """

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(stable_seed(seed, number))
        self._seed = seed
        self._number = number

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of the point."""
        if not search_space:
            return {}
        from scipy.stats.qmc import Sobol

        engine = Sobol(len(search_space), scramble=True, rng=self._seed)
        if self._number:
            engine.fast_forward(self._number)
        with warnings.catch_warnings():
            # one point at a time is no power of 2
            warnings.simplefilter("ignore", UserWarning)
            point = engine.random(1)[0]
        pairs = zip(search_space.items(), point.tolist(), strict=True)
        return {name: from_unit(kind, place) for (name, kind), place in pairs}
