"""A study on the disk: which trials there are, and which settings the next one has."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from framework.tuning.journal import hold_journal
from framework.tuning.settings import TuneSettings
from framework.tuning.stored_study import open_study

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

SamplerMaker = Callable[[TuneSettings, int], "BaseSampler"]


class StudyFolder:
    """A study in its folder, which one process at a time searches in.

    The journal has one line for each trial that begins, with its settings, and one for its end.
    A trial that a killed search has left unfinished is done again under its number, and the sampler
    is made anew for each trial, seeded by the study's seed and the trial's number, so that a study
    goes on as if it had not been interrupted.

    Args:
        settings: Settings of the study.
        base: Whole config of the fit, without the settings that are searched over.
        make_sampler: Function that makes the sampler of a trial, by its number.
        make_pruner: Function that makes the pruner; None is a pruner that stops nothing.

    Raises:
        FileExistsError: Another process searches in it.
        ValueError: It holds another study, no study that can be read, or a link.
    """

    def __init__(
        self,
        settings: TuneSettings,
        base: Mapping[str, Any],
        make_sampler: SamplerMaker,
        make_pruner: Callable[[TuneSettings], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.base = base
        self.folder = settings.folder
        self.distributions = settings.space.distributions()
        self._make_sampler = make_sampler
        self._pruner = None if make_pruner is None else make_pruner(settings)
        self._lock = hold_journal(self.folder)
        try:
            self._study = open_study(settings, base, self._lock, self._pruner)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other processes search in the folder."""
        self._lock.close()

    @property
    def study(self) -> Study:
        """The study in Optuna's terms."""
        return self._study

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by their numbers."""
        return self._study.get_trials(deepcopy=False)

    def unfinished(self) -> list[FrozenTrial]:
        """Return the trials that have begun and not ended."""
        return [trial for trial in self.trials if not trial.state.is_finished()]

    def best(self) -> FrozenTrial | None:
        """Return the best complete trial, the first of equals; None before there is one."""
        from optuna.trial import TrialState

        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return max(done, key=lambda trial: self.settings.sign * float(trial.value), default=None)

    def ask(self) -> FrozenTrial:
        """Choose the settings of the next trial, and note it in the journal by one line."""
        import optuna
        from optuna.trial import TrialState, create_trial

        trials = self.trials
        number = len(trials)
        # what a sampler writes while it chooses is not in the journal: it would be half there
        # where the search is killed, and chosen differently the next time
        copied = optuna.create_study(
            study_name=self.settings.name,
            direction=self._study.direction,
            sampler=self._make_sampler(self.settings, number),
            pruner=self._study.pruner,
        )
        copied.add_trials(trials)
        copied.ask(self.distributions)
        asked = copied.get_trials(deepcopy=False)[-1]
        template = create_trial(
            state=TrialState.RUNNING,
            params=asked.params,
            distributions=self.distributions,
            system_attrs=asked.system_attrs,
        )
        template.datetime_start = datetime.now()
        storage = self._study._storage
        trial_id = storage.create_new_trial(self._study._study_id, template)
        return storage.get_trial(trial_id)

    def should_prune(self, trial: FrozenTrial, values: Mapping[int, float]) -> bool:
        """Return whether a trial promises too little to go on.

        Args:
            trial: Trial that is running.
            values: Its metric after each validation so far, numbered from 1.
        """
        if self._pruner is None or not values:
            return False
        seen = copy.copy(self._study._storage.get_trial(trial._trial_id))
        seen.intermediate_values = dict(values)
        return bool(self._pruner.prune(self._study, seen))

    def tell(
        self,
        trial: FrozenTrial,
        value: float | None,
        values: Mapping[int, float],
        pruned: bool = False,
        reason: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Note the end of a trial.

        Args:
            trial: Trial that was running.
            value: What it came to; None where it failed.
            values: Its metric after each validation, numbered from 1.
            pruned: Whether it was stopped as it promised little.
            reason: Why it failed.
            seconds: Time that it took.
        """
        from optuna.trial import TrialState

        storage, key = self._study._storage, trial._trial_id
        for step, found in values.items():
            if math.isfinite(found):
                storage.set_trial_intermediate_value(key, step, found)
        storage.set_trial_user_attr(key, "seconds", round(seconds, 3))
        if reason:
            storage.set_trial_user_attr(key, "reason", reason)
        if value is None:
            storage.set_trial_state_values(key, TrialState.FAIL)
        else:
            state = TrialState.PRUNED if pruned else TrialState.COMPLETE
            storage.set_trial_state_values(key, state, [value])


def sampler_of(settings: TuneSettings, number: int) -> BaseSampler:
    """Return the sampler of a trial, whose draws depend on the study's seed and the number alone.

    Args:
        settings: Settings of the study.
        number: Number of the trial.
    """
    from framework.tuning.samplers import make_sampler

    return make_sampler(
        settings.sampler,
        settings.seed,
        number,
        deterministic=settings.deterministic,
        jobs=settings.jobs,
        fidelity=settings.space.fidelity(),
    )


def pruner_of(settings: TuneSettings) -> Any:
    """Return the pruner of a study, None where nothing is pruned."""
    if settings.pruner == "none":
        return None
    from framework.tuning.samplers import make_pruner

    return make_pruner(settings.pruner)
