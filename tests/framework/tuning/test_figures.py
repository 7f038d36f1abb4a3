import logging
import math
import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from framework.figures.style import caption_of, save_png
from framework.tuning.figures import importance, study_figures

SPACE = {
    "model.lr": FloatDistribution(1e-4, 1.0, log=True),
    "model.width": IntDistribution(8, 64, step=8),
    "kind": CategoricalDistribution(["[relu]", None]),
}


def study_of(trials, mode="minimize", scale=1.0):
    """A study in which the value is a function of the learning rate alone."""
    study = optuna.create_study(direction=mode)
    draw = random.Random(0)
    for _ in range(trials):
        params = {
            "model.lr": 10 ** draw.uniform(-4, 0),
            "model.width": 8 * draw.randint(1, 8),
            "kind": draw.choice(["[relu]", None]),
        }
        value = scale * (1 + (math.log10(params["model.lr"]) + 2) ** 2)
        study.add_trial(create_trial(value=value, params=params, distributions=SPACE))
    return study


def add(study, state, **options):
    params = {"model.lr": 0.1, "model.width": 16, "kind": None}
    study.add_trial(create_trial(state=state, params=params, distributions=SPACE, **options))


def line(axes, label):
    (found,) = (line for line in axes.lines if line.get_label() == label)
    return found.get_xydata().tolist()


@pytest.mark.pictures
def test_every_figure_is_drawn_and_says_what_it_shows(tmp_path):
    figures = study_figures(study_of(12), "val/loss")
    assert list(figures) == ["history", "parallel_coordinates", "slices", "importance"]
    for name, figure in figures.items():
        save_png(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert "val/loss" in caption_of(figure)


@pytest.mark.parametrize("mode", ["minimize", "maximize"])
def test_the_history_has_the_best_value_so_far_and_marks_what_was_not_completed(mode):
    study = optuna.create_study(direction=mode)
    sign = 1 if mode == "minimize" else -1
    for value in (3.0, 1.0, 2.0):
        add(study, TrialState.COMPLETE, value=sign * value)
    add(study, TrialState.PRUNED, intermediate_values={0: 9.0, 2: 4.0})
    add(study, TrialState.FAIL)
    add(study, TrialState.RUNNING)
    axes = study_figures(study)["history"].axes[0]
    best = [[0, sign * 3.0], [1, sign * 1.0], [2, sign * 1.0], [5, sign * 1.0]]
    assert line(axes, "best so far") == best
    assert line(axes, "complete") == [[0, sign * 3.0], [1, sign * 1.0], [2, sign * 2.0]]
    assert line(axes, "pruned, last value") == [[3, 4.0]]
    assert line(axes, "failed") == [[4, 0.0]]


def test_parallel_lines_go_through_the_settings_and_the_value():
    study = study_of(6)
    axes = study_figures(study)["parallel_coordinates"].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["kind", "lr", "width", "value"]
    best = study.best_trial
    found = line(axes, f"best, trial {best.number}")
    place = (math.log10(best.params["model.lr"]) + 4) / 4
    width = (best.params["model.width"] / 8 - 0.5) / 8
    kind = 0.25 if best.params["kind"] else 0.75
    assert [y for _, y in found] == pytest.approx([kind, place, width, 0.0])
    assert len([drawn for drawn in axes.lines if len(drawn.get_xdata()) == 4]) == 6


def test_slices_have_the_scales_of_the_settings():
    study = study_of(6, scale=1e4)
    study.add_trial(study.trials[0])
    figure = study_figures(study)["slices"]
    scales = {axes.get_xlabel(): axes.get_xscale() for axes in figure.axes}
    assert scales == {"kind": "linear", "lr": "log", "width": "linear"}
    points = figure.axes[1].collections[0].get_offsets()
    assert points[:, 0].tolist() == pytest.approx([t.params["model.lr"] for t in study.trials])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["[relu]", "None"]
    # the whole range is shown by three numbers that do not overlap
    lr = figure.axes[1]
    assert [text.get_text() for text in lr.get_xticklabels()] == ["0.0001", "0.01", "1"]
    assert lr.get_xlim()[0] < 1e-4 < 1.0 < lr.get_xlim()[1]
    assert not any(text.get_text() for text in lr.get_xticklabels(minor=True))
    figure.axes[2].set_xlim(8, 10)
    assert all(float(tick).is_integer() for tick in figure.axes[2].get_xticks())


def test_the_marked_trial_may_be_another_than_the_one_with_the_best_value():
    study = study_of(6)
    marked = next(trial for trial in study.trials if trial.number != study.best_trial.number)
    figures = study_figures(study, best=marked.number)
    assert line(figures["parallel_coordinates"].axes[0], f"best, trial {marked.number}")
    (star,) = line(figures["slices"].axes[1], "best")
    assert star == [marked.params["model.lr"], marked.value]


def test_values_at_several_fidelities_are_not_compared():
    study = study_of(6)
    marked = study.trials[(study.best_trial.number + 1) % 6]
    figure = study_figures(study, "val/loss", marked.number, "model.width")["history"]
    said = f"Trial {marked.number} of 6 is expected to have the best val/loss at the highest width"
    assert caption_of(figure) == said
    assert line(figure.axes[0], "best") == [[marked.number, marked.value]]
    assert "best so far" not in {drawn.get_label() for drawn in figure.axes[0].lines}


def test_losses_over_decades_are_told_apart():
    study = optuna.create_study()
    for value in (1e-3, 1.0, 500.0):
        add(study, TrialState.COMPLETE, value=value)
    add(study, TrialState.COMPLETE, value=math.inf)
    figures = study_figures(study)
    assert figures["history"].axes[0].get_yscale() == "log"
    assert figures["slices"].axes[0].get_yscale() == "log"
    assert len(line(figures["history"].axes[0], "complete")) == 3


def test_importance_is_that_of_the_parameter_that_matters():
    study = study_of(30)
    parts = importance(study, study.trials, SPACE)
    assert sum(parts.values()) == pytest.approx(1.0)
    assert parts["model.lr"] > 0.8
    assert parts == importance(study, study.trials, SPACE)


def test_too_few_trials_are_said_to_be_too_few(caplog):
    caplog.set_level(logging.INFO)
    study = study_of(3)
    assert "importance" not in study_figures(study)
    assert "needs 4 complete trials" in caplog.text
    assert study_figures(optuna.create_study()) == {}
    assert "because no trial is complete" in caplog.text
    add(study := optuna.create_study(), TrialState.FAIL)
    assert study_figures(study) == {}
