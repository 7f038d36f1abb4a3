import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from framework.tuning.samplers import OPTUNA, default_sampler, make_pruner, make_sampler

SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "width": IntDistribution(4, 32, step=4),
    "depth": IntDistribution(1, 64, log=True),
    "drop": FloatDistribution(0.0, 0.5, step=0.1),
    "kind": CategoricalDistribution(["relu", "gelu", "tanh"]),
}


def value_of(params):
    score = (math.log10(params["lr"]) + 2) ** 2 + (params["width"] - 16) ** 2 / 100
    score += math.log(params["depth"] / 4) ** 2 + params["drop"]
    return score + {"relu": 0.0, "gelu": 0.3, "tanh": 1.0}[params["kind"]]


def run(name, trials, seed=0, study=None, space=SPACE, **options):
    """Continue a study with a new sampler for every trial, as the command does."""
    study = study or optuna.create_study(pruner=make_pruner("none"))
    while (number := len(study.trials)) < trials:
        study.sampler = make_sampler(name, seed, number, **options)
        trial = study.ask(space)
        study.tell(trial, value_of(trial.params))
    return study


@pytest.mark.parametrize("name", OPTUNA)
def test_settings_lie_in_the_space_and_depend_on_the_seed_alone(name):
    study = run(name, trials=7, startup_trials=5)
    params = [trial.params for trial in study.trials]
    for trial in study.trials:
        for key, kind in SPACE.items():
            assert kind._contains(kind.to_internal_repr(trial.params[key])), key
        assert trial.params["width"] % 4 == 0
        assert abs(trial.params["drop"] * 10 - round(trial.params["drop"] * 10)) < 1e-9
    assert params == [t.params for t in run(name, trials=7, startup_trials=5).trials]
    assert params != [t.params for t in run(name, trials=7, seed=1, startup_trials=5).trials]
    assert len({str(p) for p in params}) == len(params)


@pytest.mark.parametrize("name", [pytest.param("gp", marks=pytest.mark.combination), *OPTUNA[1:]])
def test_an_interrupted_study_goes_on_as_a_whole_one(name):
    whole = run(name, trials=7, startup_trials=5)
    part = optuna.create_study(pruner=make_pruner("none"))
    for trial in whole.trials[:5]:
        part.add_trial(trial)
    resumed = run(name, trials=7, startup_trials=5, study=part)
    assert [t.params for t in resumed.trials] == [t.params for t in whole.trials]


def test_sobol_points_are_spread_over_all_octants():
    space = {name: FloatDistribution(0.0, 1.0) for name in "abc"}
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(params=dict.fromkeys("abc", 0.5), distributions=space, value=0.0)
    )
    points = []
    for number in range(8):
        study.sampler = make_sampler("qmc", seed=3, number=number)
        points.append(study.ask(space).params)
    octants = {tuple(int(2 * point[name]) for name in "abc") for point in points}
    assert len(octants) == 8


def test_tpe_does_not_repeat_a_running_trial():
    study = run("tpe", trials=12, startup_trials=4)
    study.sampler = make_sampler("tpe", 0, 12, startup_trials=4, jobs=2)
    first = study.ask(SPACE)
    study.sampler = make_sampler("tpe", 0, 13, startup_trials=4, jobs=2)
    assert study.ask(SPACE).params != first.params


def test_gp_finds_the_minimum_of_a_parabola():
    def last_values(name):
        study = optuna.create_study()
        space = {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(-1.0, 1.0)}
        for number in range(12):
            study.sampler = make_sampler(name, 0, number, deterministic=True, startup_trials=5)
            trial = study.ask(space)
            study.tell(trial, (trial.params["x"] - 0.3) ** 2 + (trial.params["y"] + 0.2) ** 2)
        return study.best_value

    assert last_values("gp") < 5e-3 < last_values("random")


def test_a_gaussian_process_is_the_default_in_small_studies():
    assert default_sampler(20, trials=200) == "gp"
    assert default_sampler(20, trials=201) == "tpe"
    assert default_sampler(21, trials=25) == "tpe"


@pytest.mark.parametrize("mode", ["minimize", "maximize"])
def test_the_median_pruner_ends_what_is_worse_than_the_median(mode):
    sign = 1 if mode == "minimize" else -1
    study = optuna.create_study(
        direction=mode, pruner=make_pruner("median", startup_trials=3, warmup_steps=1)
    )
    for loss in (1.0, 2.0, 3.0):
        study.add_trial(
            optuna.create_trial(
                value=sign * loss, intermediate_values={0: sign * loss, 1: sign * loss}
            )
        )
    decisions = []
    for loss in (1.9, 2.1):
        trial = study.ask()
        for step in (0, 1):
            trial.report(sign * loss, step)
            decisions.append(trial.should_prune())
    assert decisions == [False, False, False, True]


def test_hyperband_ends_the_worst_trials_at_its_steps():
    # the name decides which trial is in which bracket
    study = optuna.create_study(study_name="test", pruner=make_pruner("hyperband", max_steps=9))
    states = []
    for number in range(30):
        trial = study.ask()
        pruned, step = False, 0
        while step < 9 and not pruned:
            step += 1
            trial.report(float(number), step)
            pruned = trial.should_prune()
        study.tell(trial, None if pruned else 0.0, TrialState.PRUNED if pruned else None)
        states.append(study.trials[-1].state)
    assert TrialState.PRUNED in states
    assert states[0] == TrialState.COMPLETE


def test_faults_are_named():
    with pytest.raises(ValueError, match=r"No sampler is called 'noisy'.* nearest are noisy_ei"):
        make_sampler("noisy", seed=0)
    with pytest.raises(ValueError, match="mf_kg needs a fidelity"):
        make_sampler("mf_kg", seed=0)
    with pytest.raises(ValueError, match="pruner must be one of none, median, hyperband"):
        make_pruner("asha")
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        make_sampler("gp", seed=0, jobs=0)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"^The sampler gp needs .*'trimtab\[tune\]'\.$"):
        make_sampler("gp", seed=0)
    with pytest.raises(ModuleNotFoundError, match=r"'trimtab\[botorch\]'\.$"):
        make_sampler("kg", seed=0)
    with pytest.raises(ModuleNotFoundError, match=r"'trimtab\[tune\]'\.$"):
        make_pruner("median")
