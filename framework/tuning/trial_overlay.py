"""What a trial lays over the config of the fit: its settings, and a seed of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.tuning.config_places import laid_over
from framework.tuning.settings import TuneSettings

SEED = "seed_everything"
_SEEDS = 2**32


def trial_overlay(
    settings: TuneSettings, base: Mapping[str, Any], number: int, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config that is laid over that of the fit.

    Args:
        settings: Settings of the study.
        base: Whole config of the fit.
        number: Number of the trial.
        values: Value of each setting that is searched over.

    Raises:
        ValueError: The config has no such setting; the message names the nearest.
    """
    overlay = laid_over(base, values)
    if settings.deterministic or SEED in overlay:
        return overlay
    return {SEED: seed_of_trial(settings.seed, base, number), **overlay}


def seed_of_trial(seed: int, base: Mapping[str, Any], number: int) -> int:
    """Return the seed of a trial: that of the fit, or else of the study, plus its number.

    Args:
        seed: Seed of the study.
        base: Whole config of the fit.
        number: Number of the trial.

    Example:
        >>> seed_of_trial(7, {"seed_everything": 100}, 3), seed_of_trial(7, {}, 3)
        (103, 10)
    """
    given = base.get(SEED)
    # true asks for any seed, and is no number
    first = given if type(given) is int else seed
    return (first + number) % _SEEDS
