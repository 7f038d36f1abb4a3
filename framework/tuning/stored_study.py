"""A study as its journal says, which may be anybody's: what it says is checked first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from framework.tuning.journal import GO_ON, JOURNAL, empty_journal, journal_storage
from framework.tuning.settings import TuneSettings
from framework.tuning.study_record import changed, write_record
from framework.utilities.error_reason import reason_of

if TYPE_CHECKING:
    from optuna.study import Study


def open_study(
    settings: TuneSettings, base: Mapping[str, Any], journal: BinaryIO, pruner: Any
) -> Study:
    """Return the study of a folder, or begin one where it holds none, or none that taught anything.

    Args:
        settings: Settings of the study.
        base: Whole config of the fit.
        journal: Journal in the study's folder, which is locked.
        pruner: Pruner; None is one that stops nothing.

    Raises:
        ValueError: The folder holds another study, or none that can be read.
    """
    import optuna

    folder, record = settings.folder, settings.record()
    study = _load(settings, pruner or optuna.pruners.NopPruner())
    if study is not None and (what := changed(folder, record, base)):
        if any(_has_ended_well(trial) for trial in study.get_trials(deepcopy=False)):
            raise ValueError(f"{folder} holds another study: {what}; {GO_ON}.")
        # nothing was learned yet, so that a mistake can be put right
        empty_journal(journal)
        study = None
    write_record(folder, record, base)
    if study is not None:
        _check(study, settings)
        return study
    return optuna.create_study(
        storage=journal_storage(folder),
        study_name=settings.name,
        direction=_direction(settings),
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def _direction(settings: TuneSettings) -> str:
    return "maximize" if settings.mode == "max" else "minimize"


def _load(settings: TuneSettings, pruner: Any) -> Study | None:
    """Return the study of the journal, None where it holds none."""
    import optuna

    path = settings.folder / JOURNAL
    if path.stat().st_size == 0:
        return None
    try:
        storage = journal_storage(settings.folder)
        if not storage.get_all_studies():
            return None
        return optuna.load_study(study_name=settings.name, storage=storage, pruner=pruner)
    except KeyError:
        raise ValueError(f"{settings.folder} holds a study of another name; {GO_ON}.") from None
    except Exception as error:  # of many kinds, by what is wrong with the journal
        raise ValueError(
            f"{path} is no journal of a study ({reason_of(error)}); {GO_ON}."
        ) from None


def _check(study: Study, settings: TuneSettings) -> None:
    """Refuse settings and values that this study could not have.

    Raises:
        ValueError: There are such.
    """
    path = settings.folder / JOURNAL
    try:
        if study.direction.name.lower() != _direction(settings):
            raise ValueError("it searches in the other direction")
        for trial in study.get_trials(deepcopy=False):
            _check_trial(trial, settings.space.distributions())
    except Exception as error:  # of many kinds, by what is wrong with the journal
        raise ValueError(
            f"{path} is no journal of a study ({reason_of(error)}); {GO_ON}."
        ) from None


def _check_trial(trial: Any, distributions: Mapping[str, Any]) -> None:
    name = f"trial {trial.number}"
    if trial.distributions != distributions or any(
        not distribution._contains(distribution.to_internal_repr(trial.params[key]))
        for key, distribution in distributions.items()
    ):
        raise ValueError(f"{name} has other settings than tune.space allows")
    values = [*(trial.values or []), *trial.intermediate_values.values()]
    if not all(isinstance(value, float) and math.isfinite(value) for value in values):
        raise ValueError(f"{name} has a value that is no finite number")
    if trial.state.name in ("COMPLETE", "PRUNED") and len(trial.values or []) != 1:
        raise ValueError(f"{name} has ended without a value")


def _has_ended_well(trial: Any) -> bool:
    return bool(trial.state.is_finished()) and bool(trial.values)
