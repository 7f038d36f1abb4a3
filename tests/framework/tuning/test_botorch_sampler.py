import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from framework.tuning.botorch_sampler import observations, recommended, standardized
from framework.tuning.samplers import make_sampler


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("framework.tuning.botorch_proposal.FANTASIES", 4)
    monkeypatch.setattr("framework.tuning.botorch_proposal.FANTASY_STEPS", 3)
    monkeypatch.setattr("framework.tuning.botorch_proposal.STEPS", 20)


MORE = pytest.mark.combination
PLANE = {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(-1.0, 1.0)}
MIXED = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "epochs": IntDistribution(2, 20, step=2),
    "kind": CategoricalDistribution(["relu", "gelu"]),
}


def parabola(params):
    return (params["x"] - 0.3) ** 2 + (params["y"] + 0.2) ** 2


def mixed(params):
    score = (math.log10(params["lr"]) + 2) ** 2 + 5 / params["epochs"]
    return score + (params["kind"] == "relu")


def study_of(space, value_of, trials, mode="minimize"):
    """A study of random trials."""
    study = optuna.create_study(direction=mode)
    sign = 1 if mode == "minimize" else -1
    for number in range(trials):
        study.sampler = make_sampler("random", 0, number)
        trial = study.ask(space)
        study.tell(trial, sign * value_of(trial.params))
    return study


def next_of(study, name, space, seed=0, **options):
    study.sampler = make_sampler(name, seed, len(study.trials), startup_trials=6, **options)
    return study.ask(space)


@pytest.mark.parametrize(
    "name", ["noisy_ei", *(pytest.param(n, marks=MORE) for n in ("kg", "mes", "mf_kg"))]
)
def test_settings_lie_in_a_mixed_space_and_depend_on_the_seed_alone(name):
    fidelity = "epochs" if name == "mf_kg" else None
    found = []
    for seed in (0, 0, 1)[: 3 if name == "noisy_ei" else 2]:
        params = next_of(study_of(MIXED, mixed, 8), name, MIXED, seed, fidelity=fidelity).params
        for key, kind in MIXED.items():
            assert kind._contains(kind.to_internal_repr(params[key])), key
        assert params["epochs"] % 2 == 0
        found.append(params)
    assert found[0] == found[1]
    assert found[0] not in found[2:]


@pytest.mark.parametrize(
    ("name", "mode", "near"), [("noisy_ei", "minimize", 0.01), ("mes", "maximize", 0.1)]
)
def test_proposals_come_near_the_optimum_whichever_way_it_lies(name, mode, near):
    study = study_of(PLANE, parabola, 12, mode)
    before = abs(study.best_value)
    sign = 1 if mode == "minimize" else -1
    for _ in range(3):
        trial = next_of(study, name, PLANE, deterministic=True)
        study.tell(trial, sign * parabola(trial.params))
    assert abs(study.best_value) < near < before


def test_cheap_trials_are_proposed_where_cost_counts():
    space = {"x": FloatDistribution(-1.0, 1.0), "epochs": IntDistribution(1, 50)}
    study = study_of(space, lambda params: (params["x"] - 0.3) ** 2 + 0.1 / params["epochs"], 10)
    trial = next_of(study, "mf_kg", space, fidelity="epochs", deterministic=True)
    assert trial.params["epochs"] < 25


@pytest.mark.parametrize("mode", ["minimize", "maximize"])
def test_settings_are_recommended_at_the_highest_fidelity(mode):
    space = {"x": FloatDistribution(0.0, 1.0), "epochs": IntDistribution(1, 9)}
    study = optuna.create_study(direction=mode)
    sign = 1 if mode == "minimize" else -1
    for i in range(13):
        # cheap trials look better than they are, so that the best value is that of one
        params = {"x": i / 12, "epochs": [9, 1][i % 2]}
        value = sign * (4 * (i / 12 - 0.52) ** 2 + 0.02 * params["epochs"])
        study.add_trial(create_trial(value=value, params=params, distributions=space))
    assert study.best_params == {"x": 7 / 12, "epochs": 1}
    found = recommended(study, space, "epochs", deterministic=True)
    assert found == {"x": 0.5, "epochs": 9}


def test_settings_that_failed_are_not_recommended(monkeypatch):
    space = {"x": FloatDistribution(0.0, 1.0), "epochs": IntDistribution(1, 9)}
    study = optuna.create_study()
    for x, state in (
        (0.2, TrialState.FAIL),
        (0.4, TrialState.COMPLETE),
        (0.6, TrialState.COMPLETE),
    ):
        value = 1.0 if state == TrialState.COMPLETE else None
        params = {"x": x, "epochs": 9}
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=space))
    # all values are equal, so that digits that say nothing may decide
    expected = "framework.tuning.botorch_proposal.expected_values"
    monkeypatch.setattr(expected, lambda space, inputs, *_: [1e-17 * i for i in range(len(inputs))])
    assert recommended(study, space, "epochs") == {"x": 0.6, "epochs": 9}


def test_what_is_running_is_not_proposed_again():
    study = study_of(PLANE, parabola, 10)
    first, second = (next_of(study, "noisy_ei", PLANE) for _ in range(2))
    distance = math.dist(first.params.values(), second.params.values())
    assert distance > 0.02


def test_startup_trials_are_random_and_differ():
    study = optuna.create_study()
    trials = [next_of(study, "kg", PLANE) for _ in range(4)]
    assert len({trial.params["x"] for trial in trials}) == 4


def test_values_of_all_that_ended_count():
    study = optuna.create_study()
    kinds = {"x": FloatDistribution(0.0, 1.0)}

    def add(x, state=TrialState.COMPLETE, **options):
        study.add_trial(create_trial(state=state, params={"x": x}, distributions=kinds, **options))

    for x, loss in ((0.1, 1.0), (0.2, 2.0), (0.3, 4.0)):
        add(x, value=loss)
    # pruned although its last value is good, pruned with a bad value, and before any value
    add(0.4, TrialState.PRUNED, intermediate_values={0: 3.0, 5: 0.5})
    add(0.5, TrialState.PRUNED, value=9.0, intermediate_values={0: 9.0})
    add(0.6, TrialState.PRUNED)
    add(0.7, TrialState.FAIL)
    # a failure that was repeated with success
    add(0.1, TrialState.FAIL)
    add(0.8, TrialState.RUNNING)
    found = observations(study, kinds)
    assert [settings["x"] for settings in found.settings] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.7]
    assert found.values == [-1.0, -2.0, -4.0, -2.0, -9.0, -9.0]
    assert found.pending == [{"x": 0.8}]
    assert found.failed == 1


def test_failed_trials_are_left_alone():
    space = {"x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study()
    for x in (0.0, 0.1, 0.2, 0.4, 0.5, 0.6):
        # better and better, up to where runs fail
        study.add_trial(create_trial(value=1 - x, params={"x": x}, distributions=space))
    open_end = next_of(study, "noisy_ei", space, deterministic=True).params["x"]
    assert open_end > 0.6
    for x in (0.7, 0.8, 0.9, 1.0):
        trial = create_trial(state=TrialState.FAIL, params={"x": x}, distributions=space)
        study.add_trial(trial)
    assert next_of(study, "noisy_ei", space, deterministic=True).params["x"] < 0.7


def test_outliers_and_equal_values_are_standardized():
    usual = [float(i) for i in range(10)]
    # quartiles 2 and 7 of eleven values, with the outlier among them: the fence is at -14
    far = standardized([*usual, -1e6])
    assert (far[-1] - far[0]) / (far[1] - far[0]) == pytest.approx(1.5 - 3 * 5, abs=1e-9)
    assert sum(far) == pytest.approx(0.0, abs=1e-9)
    assert sum(value**2 for value in far) / 11 == pytest.approx(1.0, abs=1e-9)
    assert standardized([2.0, 2.0, 2.0]) == [0.0, 0.0, 0.0]
    assert standardized([1.0, 2.0, -math.inf])[0] == standardized([1.0, 2.0, -math.inf])[2]


def test_settings_are_random_where_linear_algebra_fails(monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("Matrix not positive definite.")

    monkeypatch.setattr("framework.tuning.botorch_proposal.proposals", fails)
    study = study_of(PLANE, parabola, 6)
    params = next_of(study, "kg", PLANE).params
    assert params == next_of(study_of(PLANE, parabola, 6), "kg", PLANE).params
    assert "kg found no setting for trial 6" in caplog.text


@pytest.mark.parametrize(
    "name", ["kg", *(pytest.param(n, marks=MORE) for n in ("noisy_ei", "mes"))]
)
def test_all_values_equal_is_no_fault(name):
    study = study_of(PLANE, lambda params: 1.0, 7)
    assert next_of(study, name, PLANE).params.keys() == PLANE.keys()
