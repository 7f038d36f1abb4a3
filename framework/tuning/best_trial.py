"""The trial that a study recommends, and the settings with which it is run again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.tuning.settings import TuneSettings
from framework.tuning.study import StudyFolder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class BestTrial:
    """A trial, and what it is to be run again with.

    Args:
        trial: Trial.
        params: Its settings; those of a search over fidelities with the highest one.
        fidelity: Name of the fidelity at which it is expected to be the best; None where it has
            measured the best value.
    """

    trial: FrozenTrial
    params: dict[str, Any]
    fidelity: str | None = None

    @property
    def number(self) -> int:
        """Number of the trial."""
        return int(self.trial.number)

    @property
    def value(self) -> float:
        """What the trial came to."""
        return float(self.trial.value)


def best_trial(study: StudyFolder) -> BestTrial | None:
    """Return the trial that a study recommends; None before one has a value.

    It is the one with the best value, and where ``mf_kg`` compares trials of several fidelities the
    one that is expected to do best at the highest.

    Args:
        study: Study.
    """
    best = study.best()
    if best is None:
        return None
    tried = [trial for trial in study.trials if trial.values is not None]
    fidelity = study.settings.space.fidelity()
    if study.settings.sampler != "mf_kg" or fidelity is None or len(tried) < 2:
        return BestTrial(best, dict(best.params))
    from framework.tuning.botorch_sampler import recommended

    params = recommended(study.study, study.distributions, fidelity, study.settings.deterministic)
    same = [trial for trial in tried if {**trial.params, fidelity: params[fidelity]} == params]
    # of the same settings at several fidelities, the one that came nearest to the whole
    trial = max(same, key=lambda trial: float(trial.params[fidelity]))
    return BestTrial(trial, params, fidelity)


def in_best_config(best: BestTrial, settings: TuneSettings, trials: int) -> str:
    """Return the first line of ``best.yaml``.

    Args:
        best: Trial that the study recommends.
        settings: Settings of the study.
        trials: Trials of the study.
    """
    of = f"# Trial {best.number} of the study {settings.name}: "
    if best.fidelity is None:
        return f"{of}{settings.metric} {best.value:.6g}, the best of {trials}.\n"
    return (
        f"{of}of {trials} the one that is expected to have the best {settings.metric} at "
        f"{best.fidelity} {best.params[best.fidelity]}.\n"
    )
