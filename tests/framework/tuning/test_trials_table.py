import csv
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from framework.tuning.trials_table import trials_table, write_trials
from framework.utilities.console import PlainConsole

SPACE = {
    "model.init_args.lr": FloatDistribution(1e-4, 1.0, log=True),
    "model.init_args.kind": CategoricalDistribution(["[relu]", "gelu"]),
}


@pytest.fixture
def study():
    study = optuna.create_study(direction="maximize")
    values = {"model.init_args.lr": 0.123456789, "model.init_args.kind": "[relu]"}
    for value, seconds in ((0.5, 3.21), (0.75, 75), (0.25, 9000)):
        trial = create_trial(value=value, params=values, distributions=SPACE)
        if value == 0.25:
            # its driver was killed, and it was done again later
            trial.set_user_attr("seconds", 4000.0)
        trial.datetime_start = datetime(2026, 1, 1)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds)
        study.add_trial(trial)
    failed = create_trial(state=TrialState.FAIL, params=values, distributions=SPACE)
    failed.set_user_attr("reason", "ended by SIGKILL")
    study.add_trial(failed)
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            value=0.9,
            params=values,
            distributions=SPACE,
            intermediate_values={0: 0.9},
        )
    )
    return study


def test_the_table_marks_the_best_trial_and_keeps_brackets(study, capsys):
    PlainConsole().print(trials_table(study, "val/accuracy"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["trial", "state", "val/accuracy", "lr", "kind", "time"]
    assert lines[3].split() == ["0", "complete", "0.5", "0.1235", "[relu]", "3.2", "s"]
    assert lines[4].split() == ["1", "*", "complete", "0.75", "0.1235", "[relu]", "0:01:15"]
    assert lines[5].split()[-1] == "1:06:40"
    assert lines[6].split()[:2] == ["3", "failed"]
    assert lines[7].split()[:3] == ["4", "pruned", "0.9"]


def test_the_file_has_every_trial_in_full(study, tmp_path):
    write_trials(study, tmp_path / "out" / "trials.csv")
    with (tmp_path / "out" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["trial", "state", "value", "best", "seconds", "reason", *SPACE]
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["failed", "pruned"]
    assert [row["best"] for row in rows] == ["0", "1", "0", "0", "0"]
    assert [row["seconds"] for row in rows[:3]] == ["3.21", "75.0", "4000.0"]
    assert rows[0]["model.init_args.lr"] == "0.123456789"
    assert rows[3]["value"] == ""
    assert [row["reason"] for row in rows] == ["", "", "", "ended by SIGKILL", ""]


def test_names_are_told_apart_and_an_empty_study_is_an_empty_table(tmp_path):
    study = optuna.create_study()
    assert trials_table(study, "loss").row_count == 0
    write_trials(study, tmp_path / "trials.csv")
    assert (tmp_path / "trials.csv").read_text() == "trial,state,value,best,seconds,reason\n"
    kinds = {name: FloatDistribution(0.0, 1.0) for name in ("a.lr", "b.lr", "lr")}
    params = dict.fromkeys(kinds, 0.5)
    study.add_trial(create_trial(value=1.0, params=params, distributions=kinds))
    headers = [column.header for column in trials_table(study, "loss").columns]
    assert headers == ["trial", "state", "loss", "a.lr", "b.lr", "lr", "time"]
