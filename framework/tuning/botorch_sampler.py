"""Optuna's view of BoTorch: trials that are known become the settings of the next one."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from framework.tuning.encoded_space import EncodedSpace
from framework.tuning.relative_sampler import RelativeSampler
from framework.utilities.error_reason import reason_of
from framework.utilities.randomness import seeded

log = logging.getLogger(__name__)


class Observations(NamedTuple):
    """What a study knows.

    Args:
        settings: Settings of the trials that ended, those that failed last.
        values: What each of them came to; larger is better.
        pending: Settings of the trials that are running.
        failed: Number of the settings that failed.
    """

    settings: list[dict[str, Any]]
    values: list[float]
    pending: list[dict[str, Any]]
    failed: int


class BoTorchSampler(RelativeSampler):
    """Proposes the settings at which an acquisition function of BoTorch is largest.

    The values of trials are standardized, those far worse than most are brought nearer, and a
    Gaussian process is fitted to them, with the noise of a trial unless ``deterministic``. Numbers
    that have steps, and choices, are relaxed to intervals and the best point is rounded.

    A trial that was pruned counts with its last value, but as no better than the median of those
    that were not. A trial that failed counts as the worst one, so that settings like it are left
    alone. The trials that are running are taken into account by their expected results.

    | name | acquisition function |
    | --- | --- |
    | ``kg`` | ``qKnowledgeGradient`` |
    | ``noisy_ei`` | the knowledge gradient among evaluated points and the new one, exactly |
    | ``mes`` | ``qMaxValueEntropy`` |
    | ``mf_kg`` | ``qMultiFidelityKnowledgeGradient`` per cost, under a multi-fidelity process |

    The cost of a trial is taken to be proportional to its fidelity, plus 1 % of a whole trial.

    Papers: Frazier, *A Tutorial on Bayesian Optimization*, arXiv:1807.02811; Wang and Jegelka,
    *Max-value Entropy Search for Efficient Bayesian Optimization*, arXiv:1703.01968; Wu et al.,
    *Practical Multi-fidelity Bayesian Optimization for Hyperparameter Tuning*, arXiv:1903.04703.
    Library: Balandat et al., *BoTorch*, arXiv:1910.06403.

    Args:
        name: Name of the acquisition function.
        seed: Seed of everything that is drawn.
        startup_trials: Trials with a value before which settings are drawn at random.
        deterministic: Whether a setting that is tried twice gives the same value; it is then not
            proposed twice.
        fidelity: Name of the parameter that is the fidelity, for ``mf_kg``.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(sampler=BoTorchSampler("kg", seed=0))
        >>> 0 <= study.ask().suggest_float("x", 0, 1) <= 1
        True
    """

    def __init__(
        self,
        name: str,
        seed: int,
        startup_trials: int = 10,
        deterministic: bool = False,
        fidelity: str | None = None,
    ) -> None:
        super().__init__(seed)
        self._name = name
        self._seed = seed
        self._startup_trials = max(2, startup_trials)
        self._deterministic = deterministic
        self._fidelity = fidelity if name == "mf_kg" else None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposed values; none while too few trials are known."""
        if not search_space:
            return {}
        found = observations(study, search_space)
        if len(found.values) < self._startup_trials:
            return {}
        space = EncodedSpace(search_space, self._fidelity)
        with _quiet(), seeded(self._seed):
            from framework.tuning.botorch_proposal import proposals

            try:
                rows = proposals(
                    self._name,
                    space,
                    [space.encode(settings) for settings in found.settings],
                    standardized(found.values),
                    [space.encode(settings) for settings in found.pending],
                    self._deterministic,
                )
            except RuntimeError as error:
                # of linear algebra, where settings are all but the same
                log.warning(
                    "trimtab: the sampler %s found no setting for trial %d, which is drawn at "
                    "random: %s",
                    self._name,
                    trial.number,
                    reason_of(error),
                )
                return {}
        known = [*found.settings, *found.pending] if self._deterministic else found.pending
        new = (settings for row in rows if (settings := space.decode(row)) not in known)
        return next(new, {})


def recommended(
    study: Study, space: Mapping[str, BaseDistribution], fidelity: str, deterministic: bool = False
) -> dict[str, Any]:
    """Return the settings that are expected to do best at full fidelity, of those that were tried.

    The best value of a study may be that of a cheap trial, which says little of a whole one, and
    by chance the best of many noisy ones is too good. Here the mean of the Gaussian process
    decides, at the highest fidelity.

    Args:
        study: Optuna's study, with at least two trials that have values.
        space: Parameters that vary.
        fidelity: Name of the parameter that is the fidelity.
        deterministic: Whether a setting that is tried twice gives the same value.
    """
    found = observations(study, space)
    encoded = EncodedSpace(space, fidelity)
    inputs = [encoded.encode(settings) for settings in found.settings]
    with _quiet(), seeded(0):
        from framework.tuning.botorch_proposal import expected_values

        means = expected_values(encoded, inputs, standardized(found.values), deterministic)
    best = max(range(len(means) - found.failed), key=means.__getitem__)
    return {**found.settings[best], fidelity: space[fidelity].high}


def observations(study: Study, space: Mapping[str, BaseDistribution]) -> Observations:
    """Return what the trials of a study came to, larger being better.

    Args:
        study: Optuna's study.
        space: Parameters that are looked at.
    """
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    done: list[tuple[dict[str, Any], float]] = []
    cut: list[tuple[dict[str, Any], float]] = []
    failed: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    for trial in study.get_trials(deepcopy=False):
        if not space.keys() <= trial.params.keys():
            continue
        settings = {name: trial.params[name] for name in space}
        value = _value(trial)
        if trial.state == TrialState.RUNNING:
            pending.append(settings)
        elif trial.state == TrialState.FAIL:
            failed.append(settings)
        elif value is not None:
            (done if trial.state == TrialState.COMPLETE else cut).append((settings, sign * value))
    middle = statistics.median(value for _, value in done) if done else math.inf
    ended = [*done, *((settings, min(value, middle)) for settings, value in cut)]
    tried = [settings for settings, _ in ended]
    values = [value for _, value in ended]
    lost = [settings for settings in failed if settings not in tried] if ended else []
    return Observations(
        [*tried, *lost], [*values, *(min(values) for _ in lost)], pending, len(lost)
    )


def standardized(values: Sequence[float]) -> list[float]:
    """Return values with mean 0 and deviation 1, the outliers among the bad ones brought nearer.

    What lies more than three interquartile ranges below the first quartile, as the loss of a
    diverged run does, is moved there: it would make all others look alike.

    Args:
        values: At least two values; larger is better, minus infinity is allowed.

    Example:
        >>> [round(value, 3) for value in standardized([1.0, 2.0, 3.0])]
        [-1.225, 0.0, 1.225]
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if len(finite) > 1:
        first, _, third = statistics.quantiles(finite, n=4, method="inclusive")
        low = max(low, first - 3 * (third - first)) if third > first else low
    kept = [min(max(value, low), high) for value in values]
    mean, deviation = statistics.fmean(kept), statistics.pstdev(kept)
    return [(value - mean) / (deviation or 1.0) for value in kept]


def _value(trial: FrozenTrial) -> float | None:
    if trial.values is not None:
        value = trial.value
    else:
        value = trial.intermediate_values.get(trial.last_step)
    return None if value is None or math.isnan(value) else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of what BoTorch tries again by itself, and of its libraries' imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
