"""Which trial a study recommends, and that all that is written and printed says the same."""

from __future__ import annotations

import csv

import pytest
import yaml
from PIL import Image

from framework.command import tune_results
from framework.command.report import relative
from framework.tuning.best_trial import best_trial
from tests.helpers.studies import SPACE, FakeChild, FakeFits, search, study_settings


def test_it_is_the_one_with_the_best_value(tmp_path):
    study = search(study_settings(tmp_path, trials=3), FakeFits())
    best = best_trial(study)
    assert best.value == min(trial.value for trial in study.trials)
    assert best.params == study.trials[best.number].params
    assert best.fidelity is None


def test_a_study_without_a_value_has_none(tmp_path):
    assert best_trial(search(study_settings(tmp_path, trials=1), failing())) is None


@pytest.mark.pictures
def test_cheap_trials_recommend_settings_at_the_highest_fidelity(tmp_path, monkeypatch, capsys):
    tmp_path = tmp_path / "my study"
    space = {**SPACE, "model.width": SPACE["model.width"] | {"fidelity": True}}
    settings = study_settings(tmp_path, space=space, sampler="mf_kg", trials=4, seed=9)
    study = search(settings, FakeFits())
    best = best_trial(study)
    assert best.params == best.trial.params | {"model.width": 64}
    # the file, the table and what is printed say the same
    monkeypatch.setattr(tune_results, "trial_config", lambda base, overlay, arguments: overlay)
    assert tune_results.write_results(study) == best
    written = (tmp_path / "best.yaml").read_text()
    assert f"# Trial {best.number} of the study points: of 4 the one that is expected" in written
    config = yaml.safe_load(written)
    assert config["model"]["init_args"]["width"] == 64
    assert config["seed_everything"] == 9 + best.number
    with (tmp_path / "trials.csv").open() as file:
        marks = [row["best"] for row in csv.DictReader(file)]
    assert marks == ["1" if number == best.number else "0" for number in range(4)]
    with Image.open(tmp_path / "figures" / "history.png") as picture:
        said = picture.text["Description"]
    assert said.startswith(f"Trial {best.number} of 4 is expected to have the best val/loss")
    tune_results.show_results(study, best, ("--allow=mine",))
    shown = capsys.readouterr().out
    assert f"{best.number} *" in shown
    assert f"best: trial {best.number}, val/loss {best.value:.6g} at width " in shown
    assert "expected to be the best at width 64, " in shown
    # what is printed can be run as it stands
    command = f"run it: trimtab fit --allow=mine --config '{relative(tmp_path / 'best.yaml')}'"
    assert command in shown


def failing() -> FakeFits:
    return FakeFits(before=lambda number, files: FakeChild(1))
