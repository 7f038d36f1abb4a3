"""Values of parameters as places in [0, 1], and back."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.study import Study


def from_unit(kind: BaseDistribution, place: float) -> Any:
    """Return the value at a place of [0, 1].

    Logarithmic parameters have equal ratios on equal lengths. What has steps or choices divides
    the interval among its values, in equal parts unless it is logarithmic.

    Args:
        kind: Optuna's distribution of the parameter.
        place: Place; what lies outside counts as the nearest bound.

    Example:
        >>> from optuna.distributions import FloatDistribution, IntDistribution
        >>> round(from_unit(FloatDistribution(1e-4, 1.0, log=True), 0.5), 6)
        0.01
        >>> [from_unit(IntDistribution(1, 3), place) for place in (0.0, 0.5, 1.0)]
        [1, 2, 3]
    """
    place = min(max(place, 0.0), 1.0)
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[_part(place, len(kind.choices))]
    if kind.step is not None and not kind.log:
        value = kind.low + _part(place, _count(kind)) * kind.step
    else:
        low, high = _bounds(kind)
        value = low + place * (high - low)
        value = math.exp(value) if kind.log else value
    value = round(value) if isinstance(kind, IntDistribution) else value
    return min(max(value, kind.low), kind.high)


def to_unit(kind: BaseDistribution, value: Any) -> float:
    """Return the place of a value: the middle of its part of the interval, where it has one.

    Args:
        kind: Optuna's distribution of the parameter.
        value: One of its values.

    Example:
        >>> from optuna.distributions import CategoricalDistribution
        >>> to_unit(CategoricalDistribution(["adam", "sgd"]), "sgd")
        0.75
    """
    if isinstance(kind, CategoricalDistribution):
        return (kind.to_internal_repr(value) + 0.5) / len(kind.choices)
    if kind.step is not None and not kind.log:
        return (round((value - kind.low) / kind.step) + 0.5) / _count(kind)
    low, high = _bounds(kind)
    return ((math.log(value) if kind.log else value) - low) / (high - low)


def known_space(study: Study) -> dict[str, BaseDistribution]:
    """Return the parameters that all trials of a study have and that can vary, by name.

    Trials that failed or are running count, too: what they had to choose is known.
    """
    space: dict[str, BaseDistribution] | None = None
    for trial in study.get_trials(deepcopy=False):
        kinds = trial.distributions
        if not kinds:
            continue
        if space is None:
            space = dict(kinds)
        space = {name: kind for name, kind in space.items() if kinds.get(name) == kind}
    return {name: kind for name, kind in sorted((space or {}).items()) if not kind.single()}


def _count(kind: Any) -> int:
    return round((kind.high - kind.low) / kind.step) + 1


def _part(place: float, parts: int) -> int:
    return min(int(place * parts), parts - 1)


def _bounds(kind: Any) -> tuple[float, float]:
    # the first and the last integer get as much room as those between them
    margin = 0.5 if isinstance(kind, IntDistribution) else 0.0
    low, high = kind.low - margin, kind.high + margin
    return (math.log(low), math.log(high)) if kind.log else (low, high)
