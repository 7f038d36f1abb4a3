"""Where the settings of a search stand in a config."""

from __future__ import annotations

import pytest

from framework.tuning.config_places import laid_over
from tests.helpers.studies import BASE


def test_an_overlay_finds_its_place():
    base = {
        **BASE,
        "trainer": {"callbacks": [{"class_path": "A"}, {"class_path": "B", "init_args": {"w": 1}}]},
    }
    assert laid_over(base, {"model.init_args.lr": 2, "model.class_path": "Other"}) == {
        "model": {"class_path": "Other", "init_args": {"lr": 2}}
    }
    laid = laid_over(base, {"model.width": 3, "trainer.callbacks.1.w": 5})
    assert laid == {
        "model": {"init_args": {"width": 3}},
        "trainer": {"callbacks": [{"class_path": "A"}, {"class_path": "B", "init_args": {"w": 5}}]},
    }
    assert base["trainer"]["callbacks"][1]["init_args"] == {"w": 1}
    # a class comes first, as its arguments follow it
    both = laid_over(base, {"model.lr": 1, "model.class_path": "Other"})
    assert list(both["model"]) == ["class_path", "init_args"]


def test_a_class_may_be_searched_beside_its_arguments():
    expected = {"model": {"class_path": "Other", "init_args": {"lr": 1}}}
    assert laid_over(BASE, {"model": "Other", "model.lr": 1}) == expected
    assert laid_over(BASE, {"model.lr": 1, "model": "Other"}) == expected
    # null is no class, but takes the place of the object
    assert laid_over(BASE, {"model": None}) == {"model": None}


@pytest.mark.parametrize(
    "values",
    [
        {"model": "Other", "model.class_path": "Third"},
        {"model.lr": 1, "model.init_args.lr": 2},
        {"model.lr": 1, "model": None},
    ],
)
def test_two_settings_that_set_the_same_are_refused(values):
    with pytest.raises(ValueError, match="which set the same: leave out one of them"):
        laid_over(BASE, values)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("model.widht", "model.width"),
        ("model.init_args.learning_rate", ""),
        ("data.batchsize", "data.batch_size"),
        ("trainer.max_epochs", ""),
        ("model.lr.value", ""),
    ],
)
def test_a_setting_that_the_fit_does_not_have(key, near):
    with pytest.raises(ValueError, match=f"names {key}, which is no setting of this fit") as error:
        laid_over(BASE, {key: 1})
    said = str(error.value).rpartition("fit")[2]
    assert said == (f"; the nearest are {near}." if near else ".")
