"""Pictures of a study: how the search went, and which settings did well."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from framework.figures.style import COLORS, STYLE, titled
from framework.tuning.parameter_figures import (
    Findings,
    parallel_coordinates_figure,
    scale_values,
    slices_figure,
)
from framework.tuning.short_names import short_names
from framework.tuning.unit_cube import known_space

log = logging.getLogger(__name__)

FEWEST_TRIALS = 4
"""Complete trials without which nothing is said of the parameters' importance."""
MOST_PARAMETERS = 12
"""Parameters that are drawn; of more, the most important ones."""


def study_figures(
    study: Study, metric: str = "value", best: int | None = None, fidelity: str | None = None
) -> dict[str, Figure]:
    """Draw what a study found, by name: ``history`` and three figures of its parameters.

    ``parallel_coordinates`` has a line for each complete trial, ``slices`` a panel for each
    parameter, ``importance`` a bar. A figure for which there are too few trials is left out, and
    the log says why.

    Args:
        study: Optuna's study.
        metric: Name of the metric that is tuned.
        best: Number of the trial to mark; default the one with the best value.
        fidelity: Name of the parameter at whose highest value that trial is expected to be the
            best; None where it has the best value.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.add_trial(optuna.create_trial(value=0.5))
        >>> list(study_figures(study, "val/loss"))
        ['history']
    """
    complete = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if math.isfinite(trial.value)
    ]
    left_out = "trimtab: figures of the study are left out, because no %s"
    if not complete:
        log.info(left_out, "trial is complete")
        return {}
    space = known_space(study)
    labels = dict(zip(space, short_names(list(space)), strict=True))
    best = study.best_trial.number if best is None else best
    of_fidelity = None if fidelity is None else labels.get(fidelity, fidelity)
    figures = {"history": history_figure(study, metric, best, of_fidelity)}
    if not space:
        log.info(left_out, "parameter varies")
        return figures
    parts = importance(study, complete, space)
    names = sorted(space, key=lambda name: -parts.get(name, 0.0))[:MOST_PARAMETERS]
    shown = {name: space[name] for name in space if name in names}
    found = Findings(complete, shown, labels, metric, best)
    figures["parallel_coordinates"] = parallel_coordinates_figure(found, _is_maximized(study))
    figures["slices"] = slices_figure(found)
    if parts:
        figures["importance"] = importance_figure(parts, found)
    return figures


@rc_context(STYLE)
def history_figure(study: Study, metric: str, best: int, fidelity: str | None = None) -> Figure:
    """Draw the value of each trial and the best one so far; mark pruned and failed ones.

    Values at several fidelities are not compared: then the best trial has a star.

    Args:
        study: Optuna's study, with a complete trial.
        metric: Name of the metric that is tuned.
        best: Number of the best trial.
        fidelity: Short name of the parameter at whose highest value it is expected to be the best;
            None where it has the best value.
    """
    trials = study.get_trials(deepcopy=False)
    value = trials[best].value
    title = f"{metric} is {value:.4g} in trial {best}, the best of {len(trials)}"
    if fidelity is not None:
        title = (
            f"Trial {best} of {len(trials)} is expected to have the best {metric} at the highest "
            f"{fidelity}"
        )
    figure = titled(title, 3.4)
    axes = figure.add_subplot()
    done = _points(trials, TrialState.COMPLETE)
    cut = _points(trials, TrialState.PRUNED)
    last = len(trials) - 1
    if fidelity is None:
        path = list(accumulate((v for _, v in done), max if _is_maximized(study) else min))
        axes.step(
            [*(number for number, _ in done), last],
            [*path, path[-1]],
            where="post",
            color=COLORS[1],
            label="best so far",
        )
    else:
        axes.plot(best, value, "*", color=COLORS[1], markersize=11, zorder=3, label="best")
    axes.plot(*zip(*done, strict=True), "o", color=COLORS[0], markersize=4.5, label="complete")
    if cut:
        axes.plot(
            *zip(*cut, strict=True),
            "o",
            color=COLORS[0],
            markerfacecolor="none",
            markersize=4.5,
            label="pruned, last value",
        )
    failed = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    if failed:
        # a failure has no value: it stands on the axis
        axes.plot(
            failed,
            [0.0] * len(failed),
            "x",
            color=COLORS[6],
            markersize=5,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            label="failed",
        )
    scale_values(axes, [value for _, value in [*done, *cut]])
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.set_xlim(-0.5, max(last, 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@rc_context(STYLE)
def importance_figure(parts: Mapping[str, float], found: Findings) -> Figure:
    """Draw how much of the spread of the values each parameter accounts for.

    Args:
        parts: Parts of the whole by the names of the parameters.
        found: What is known of the parameters.
    """
    shown = sorted(parts.items(), key=lambda item: item[1])[-MOST_PARAMETERS:]
    title = f"What {found.metric} depends on, by {len(found.trials)} trials"
    figure = titled(title, 1.0 + 0.32 * len(shown))
    axes = figure.add_subplot()
    places = range(len(shown))
    bars = axes.barh(places, [part for _, part in shown], color=COLORS[0], height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4)
    axes.set_yticks(places, [found.labels[name] for name, _ in shown])
    axes.set_xlim(0, 1.08 * max(max(part for _, part in shown), 0.01))
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("share of the variance, by functional ANOVA")
    return figure


def importance(
    study: Study, complete: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]
) -> dict[str, float]:
    """Return each parameter's share of the variance; nothing where there are too few trials.

    Paper: Hutter, Hoos and Leyton-Brown, *An Efficient Approach for Assessing Hyperparameter
    Importance*, ICML 2014, by Optuna's functional ANOVA.

    Args:
        study: Optuna's study.
        complete: Its complete trials.
        space: Parameters that vary.
    """
    if len(complete) < FEWEST_TRIALS or len({trial.value for trial in complete}) == 1:
        log.info(
            "trimtab: importance is left out: it needs %d complete trials that differ in their "
            "values, and there are %d complete ones",
            FEWEST_TRIALS,
            len(complete),
        )
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), params=list(space)
        )
    return {name: float(part) for name, part in found.items()}


def _is_maximized(study: Study) -> bool:
    return study.direction == StudyDirection.MAXIMIZE


def _points(trials: Sequence[FrozenTrial], state: TrialState) -> list[tuple[int, float]]:
    found: list[tuple[int, Any]] = []
    for trial in trials:
        if trial.state == state:
            value = trial.value if trial.values is not None else None
            if value is None and trial.intermediate_values:
                value = trial.intermediate_values[trial.last_step]
            found.append((trial.number, value))
    return [
        (number, value) for number, value in found if value is not None and math.isfinite(value)
    ]
