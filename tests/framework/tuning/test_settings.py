"""What a section `tune` may say."""

from __future__ import annotations

import pytest

from framework.tuning.search_space import SearchSpace
from framework.tuning.settings import read_settings

FLOAT = {"type": "float", "low": 0.1, "high": 1.0}


def read(**changes):
    return read_settings(
        {"space": {"model.lr": FLOAT}, "metric": "val/loss", "mode": "min", **changes}, "digits"
    )


def test_defaults():
    settings = read()
    assert settings.folder.as_posix() == "runs/tune/digits"
    assert (settings.trials, settings.sampler, settings.pruner, settings.jobs) == (
        25,
        "gp",
        "none",
        1,
    )
    assert (settings.seed, settings.launcher, settings.retrain_best) == (0, "subprocess", False)
    assert read(trials=201).sampler == "tpe"
    assert read(trials=201, sampler="gp").sampler == "gp"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "there is no section tune"),
        ({}, "there is no section tune"),
        ({"metric": "a"}, "tune.space must be given"),
        ({"space": {"a": FLOAT}, "mode": "min"}, "tune.metric must be given"),
    ],
)
def test_a_section_that_says_too_little(given, words):
    with pytest.raises(ValueError, match=words):
        read_settings(given, "digits")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trails": 5}, "no setting 'tune.trails'; the nearest are trials"),
        ({"mode": "maximum"}, "tune.mode is 'maximum': it must be one of min, max"),
        ({"sampler": "tp"}, "tune.sampler is 'tp': it must be one of gp, tpe.+the nearest are tpe"),
        ({"pruner": "medians"}, "tune.pruner is 'medians'.+median"),
        ({"launcher": "slrum"}, "tune.launcher is 'slrum'.+slurm"),
        ({"trials": 0}, "tune.trials is 0: it must be a whole number of 1 or more"),
        ({"trials": 2.5}, "tune.trials is 2.5"),
        ({"jobs": True}, "tune.jobs is True"),
        ({"seed": -1}, "tune.seed is -1: it must be a whole number of 0 or more"),
        ({"metric": 3}, "tune.metric is 3: it must be a name"),
        ({"name": "a/b"}, "A study is called 'a/b'"),
        ({"name": ".."}, "A study is called '..'"),
        ({"retrain_best": "maybe"}, "tune.retrain_best is 'maybe': it must be true or false"),
        ({"trial_timeout": 0}, "tune.trial_timeout is 0"),
        ({"slurm": {"prolog": "x"}}, "tune.slurm.prolog is no option of srun that may be given"),
        ({"slurm": {"ntasks": 2}}, "the ranks come from trainer.devices"),
        ({"space": []}, "tune.space must map settings"),
        ({"space": {"a": 3}}, "tune.space.a is 3"),
        ({"space": {"a": {"low": 0}}}, "tune.space.a.type is missing"),
        ({"space": {"a": {**FLOAT, "type": "flot"}}}, "tune.space.a.type is 'flot'.+one of float"),
        (
            {"space": {"a": {**FLOAT, "hihg": 2}}},
            "tune.space.a has no 'hihg'; the nearest are high",
        ),
        (
            {"space": {"a": {**FLOAT, "low": 2}}},
            "tune.space.a.low is 2.0 and must be less than high",
        ),
        ({"space": {"a": {**FLOAT, "low": 1.0}}}, "must be less than high"),
        ({"space": {"a": {**FLOAT, "low": 0, "log": True}}}, "with log it must be greater than 0"),
        ({"space": {"a": {**FLOAT, "low": "x"}}}, "tune.space.a.low is 'x': it must be a number"),
        ({"space": {"a": {"type": "int", "low": 1}}}, "tune.space.a.high is missing"),
        ({"space": {"a": {"type": "int", "low": 1.5, "high": 3}}}, "it must be a whole number"),
        ({"space": {"a": {**FLOAT, "step": 2}}}, "tune.space.a.step is 2.0: it must lie in"),
        ({"space": {"a": {**FLOAT, "step": 0.1, "log": True}}}, "has a step and log"),
        ({"space": {"a": {**FLOAT, "high": float("inf")}}}, "tune.space.a.high is inf"),
        ({"space": {"a": {**FLOAT, "choices": [1]}}}, "choices is for type categorical"),
        ({"space": {"a": {"type": "categorical"}}}, "tune.space.a.choices must be a list"),
        ({"space": {"a": {"type": "categorical", "choices": "ab"}}}, "choices must be a list"),
        ({"space": {"a": {"type": "categorical", "choices": [1, 1]}}}, "names a value twice"),
        (
            {"space": {"a": {"type": "categorical", "choices": [{"a": 1}]}}},
            "a choice is a number, a text",
        ),
        (
            {"space": {"a": {**FLOAT, "fidelity": True}, "b": {**FLOAT, "fidelity": True}}},
            "one fid",
        ),
        (
            {"space": {"a": {**FLOAT, "low": 0, "fidelity": True}}},
            "tune.space.a.low is 0.0: a fidelity must be greater than 0",
        ),
    ],
)
def test_a_setting_that_is_wrong(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        read(**changes)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_numbers_that_yaml_takes_for_texts():
    space = SearchSpace.read(
        {
            "a": {"type": "float", "low": "1e-5", "high": "1e-1", "log": True},
            "b": {"type": "categorical", "choices": ["1e-3", "relu", "1e-2"]},
        }
    )
    assert space.entries["a"].ends == (1e-5, 0.1)
    assert space.entries["b"].choices == (1e-3, "relu", 1e-2)


def test_distributions_are_those_of_optuna():
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    space = SearchSpace.read(
        {
            "a": {"type": "float", "low": 1, "high": 2, "step": 0.5},
            "b": {"type": "int", "low": 8, "high": 64, "log": True},
            "c": {"type": "int", "low": 8, "high": 64, "step": 8},
            "d": {"type": "categorical", "choices": [True, None, "x"]},
        }
    )
    assert space.distributions() == {
        "a": FloatDistribution(1, 2, step=0.5),
        "b": IntDistribution(8, 64, log=True),
        "c": IntDistribution(8, 64, step=8),
        "d": CategoricalDistribution([True, None, "x"]),
    }


def test_every_end_and_choice_is_in_a_corner():
    space = SearchSpace.read({"a": FLOAT, "b": {"type": "categorical", "choices": ["x", "y", "z"]}})
    assert list(space.corners()) == [
        {"a": 0.1, "b": "x"},
        {"a": 1.0, "b": "y"},
        {"a": 1.0, "b": "z"},
    ]


def test_a_choice_may_be_a_list():
    entry = {"type": "categorical", "choices": [[16], ["1e-2", [8]]]}
    assert SearchSpace.read({"model.widths": entry}).entries["model.widths"].choices == (
        "[16]",
        "[0.01, [8]]",
    )
