"""A search: what it starts and notes, what fails, and that it goes on as if never interrupted."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

from framework.tuning.driver import StudyError
from framework.tuning.journal import JOURNAL
from framework.tuning.study import StudyFolder, pruner_of, sampler_of
from framework.tuning.trial_files import Report, TrialFiles
from tests.helpers.runs import in_child
from tests.helpers.studies import (
    BASE,
    FakeChild,
    FakeFits,
    came_to,
    loss,
    search,
    study_settings,
)


def reopened(settings):
    study = StudyFolder(settings, BASE, sampler_of, pruner_of)
    study.release()
    return study


def test_trials_have_the_values_of_their_fits(tmp_path):
    fits = FakeFits()
    study = search(study_settings(tmp_path, trials=6), fits)
    assert fits.started == list(range(6))
    for trial in study.trials:
        config = yaml.safe_load((tmp_path / f"trials/{trial.number:04d}/trial.yaml").read_text())
        assert config["model"]["init_args"] == {
            key.rpartition(".")[2]: value for key, value in trial.params.items()
        }
        assert trial.value == pytest.approx(loss(config), abs=1e-12)
        assert list(trial.intermediate_values) == [1, 2, 3]
    assert study.best().value == min(trial.value for trial in study.trials)
    assert len({trial.params["model.lr"] for trial in study.trials}) == 6


def test_a_fit_is_told_its_configs_its_folder_and_its_group(tmp_path):
    fits = FakeFits()
    search(study_settings(tmp_path, trials=1), fits, arguments=("--allow=mine",))
    trial = tmp_path / "trials" / "0000"
    assert fits.arguments == [
        [
            "--allow=mine",
            f"--config={tmp_path / 'base.yaml'}",
            f"--config={trial / 'trial.yaml'}",
            f"--run_folder={trial}",
        ]
    ]
    assert fits.variables[0] == {
        "TRIMTAB_TRIAL": str(trial.resolve()),
        "TRIMTAB_TRIAL_METRIC": "val/loss",
        "TRIMTAB_TRIAL_WAITS": "",
        "WANDB_RUN_GROUP": "points",
        "WANDB_NAME": "points/0000",
        "WANDB_TAGS": "trial-0",
    }
    assert yaml.safe_load((tmp_path / "base.yaml").read_text()) == BASE


@pytest.mark.parametrize(("given", "first"), [(100, 100), (True, 7), (None, 7)])
def test_a_trial_has_the_seed_of_the_fit_plus_its_number(given, first, tmp_path):
    base = BASE if given is None else {**BASE, "seed_everything": given}
    search(study_settings(tmp_path, trials=3, seed=7), FakeFits(), base=base)
    seeds = [
        yaml.safe_load((tmp_path / f"trials/{number:04d}/trial.yaml").read_text())
        for number in range(3)
    ]
    assert [config["seed_everything"] for config in seeds] == [first, first + 1, first + 2]


def test_trials_that_are_deterministic_have_the_seed_of_the_fit(tmp_path):
    settings = study_settings(tmp_path, trials=2, deterministic=True)
    search(settings, FakeFits())
    for number in range(2):
        config = yaml.safe_load((tmp_path / f"trials/{number:04d}/trial.yaml").read_text())
        assert "seed_everything" not in config
    assert sampler_of(study_settings(tmp_path, sampler="gp", deterministic=True), 0)._deterministic
    assert not sampler_of(study_settings(tmp_path, sampler="gp"), 0)._deterministic


# ---- resume -------------------------------------------------------------------------------------


def killed(settings, at, **fits):
    """Search in a process that kills itself when it starts a trial."""

    def before(number: int, files: TrialFiles) -> None:
        if number == at:
            files.report(Report(0, 10, 123.0))
            os.kill(os.getpid(), signal.SIGKILL)

    code = in_child(lambda: search(settings, FakeFits(before=before, **fits)))
    assert code == -signal.SIGKILL


@pytest.mark.parametrize(
    "method",
    [
        {"sampler": "tpe", "pruner": "median"},
        pytest.param({"sampler": "random"}, marks=pytest.mark.combination),
        pytest.param({"sampler": "qmc"}, marks=pytest.mark.combination),
        pytest.param({"sampler": "random", "pruner": "hyperband"}, marks=pytest.mark.combination),
        pytest.param({"sampler": "gp"}, marks=pytest.mark.slow),
    ],
    ids=lambda method: "-".join(method.values()),
)
def test_a_killed_study_ends_as_the_uninterrupted_one(method, tmp_path):
    whole = search(study_settings(tmp_path / "whole", **method), FakeFits(reports=4))
    assert len(whole.trials) == 25
    settings = study_settings(tmp_path / "killed", **method)
    killed(settings, at=10, reports=4)
    assert [trial.number for trial in reopened(settings).unfinished()] == [10]
    fits = FakeFits(reports=4)
    assert came_to(search(settings, fits)) == came_to(whole)
    assert fits.started == list(range(10, 25))
    # what the killed fit had written is not taken for that of the next one
    left = TrialFiles(tmp_path / "killed" / "interrupted" / "0010")
    assert [report.value for report in left.reports()] == [123.0]


def test_it_may_be_killed_in_the_middle_of_a_line(tmp_path):
    whole = search(study_settings(tmp_path / "whole", trials=8), FakeFits())
    settings = study_settings(tmp_path / "torn", trials=8)
    search(study_settings(tmp_path / "torn", trials=5), FakeFits())
    journal = tmp_path / "torn" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines) - 9, len(lines)):
        journal.write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
        assert came_to(search(settings, FakeFits())) == came_to(whole)


def test_trials_can_be_added(tmp_path):
    search(study_settings(tmp_path / "one", trials=4), FakeFits())
    fits = FakeFits()
    more = search(study_settings(tmp_path / "one", trials=9), fits)
    assert fits.started == [4, 5, 6, 7, 8]
    whole = search(study_settings(tmp_path / "whole", trials=9), FakeFits())
    assert came_to(more) == came_to(whole)


def test_a_search_that_is_stopped_ends_its_fits(tmp_path):
    children = []

    def before(number: int, files: TrialFiles) -> FakeChild | None:
        if number == 3:
            raise KeyboardInterrupt
        if number == 2:
            children.append(FakeChild(None))
            return children[0]
        return None

    settings = study_settings(tmp_path, trials=5, jobs=2)
    with pytest.raises(KeyboardInterrupt):
        search(settings, FakeFits(before=before))
    assert children[0].stopped
    fits = FakeFits()
    study = search(settings, fits)
    assert fits.started == [2, 3, 4]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5


def test_jobs_run_at_the_same_time(tmp_path):
    running: set[int] = set()
    most: list[int] = []

    def before(number: int, files: TrialFiles) -> FakeChild:
        running.add(number)
        looks = iter(range(3))

        def work() -> int | None:
            most.append(len(running))
            if next(looks, None) is not None:
                return None
            running.discard(number)
            files.report(Report(0, 1, float(number)))
            return 0

        return FakeChild(None, work)

    study = search(study_settings(tmp_path, trials=7, jobs=3), FakeFits(before=before))
    assert max(most) == 3
    assert [trial.value for trial in study.trials] == [float(n) for n in range(7)]


# ---- failures -----------------------------------------------------------------------------------


def failing(code: int, output: str = "", value: float | None = None):
    def before(number: int, files: TrialFiles) -> FakeChild | None:
        if number != 1:
            return None
        files.output.write_text(output)
        if value is not None:
            files.report(Report(0, 1, value))
        return FakeChild(code)

    return before


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        (failing(-9), "ended by SIGKILL, as by the system where memory runs out"),
        (failing(137), "ended by SIGKILL, as by the system where memory runs out"),
        (failing(-6, "terminate called\n"), "ended by SIGABRT: terminate called"),
        (
            failing(
                1, "epoch 1\ntrimtab: The loss is nan.\ntrimtab: continue with trimtab fit x\n"
            ),
            "The loss is nan.",
        ),
        (failing(1, "Traceback:\nMemoryError\n"), "MemoryError"),
        (failing(3), "ended with exit code 3"),
        (failing(0, value=float("nan")), "val/loss is nan"),
    ],
)
def test_a_trial_that_fails_keeps_its_config_and_the_study_goes_on(fit, reason, tmp_path):
    study = search(study_settings(tmp_path, trials=4), FakeFits(before=fit))
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE",
        "FAIL",
        "COMPLETE",
        "COMPLETE",
    ]
    failed = study.trials[1]
    assert failed.user_attrs["reason"] == reason
    config = yaml.safe_load((tmp_path / "trials/0001/trial.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == failed.params["model.lr"]


def test_a_trial_that_takes_too_long_fails(tmp_path):
    late = FakeChild(None)
    fits = FakeFits(before=lambda number, files: late if number == 1 else None)
    study = search(study_settings(tmp_path, trials=3, trial_timeout=0.05), fits)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "took longer than 0.05 seconds"
    assert late.stopped


@pytest.mark.parametrize(
    ("said", "count"), [("There is no folder data", 3), ("The term 'a' became NaN", 10)]
)
def test_a_search_ends_where_the_first_trials_fail_alike(said, count, tmp_path):
    def before(number: int, files: TrialFiles) -> FakeChild:
        files.output.write_text(f"trimtab: {said}.\n")
        return FakeChild(1)

    fits = FakeFits(before=before)
    with pytest.raises(
        StudyError, match=f"the first {count} trials failed, all by the same error: {said}; see"
    ):
        search(study_settings(tmp_path), fits)
    assert fits.started == list(range(count))


def test_failures_that_differ_do_not_end_it(tmp_path):
    def before(number: int, files: TrialFiles) -> FakeChild | None:
        return FakeChild(number + 1) if number < 5 else None

    study = search(study_settings(tmp_path, trials=6), FakeFits(before=before))
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 5 + ["COMPLETE"]


def test_a_metric_that_nothing_measures_ends_it_at_once(tmp_path):
    def before(number: int, files: TrialFiles) -> FakeChild:
        files.refuse("tune.metric is val/los, which no validation measures.")
        return FakeChild(1)

    settings = study_settings(tmp_path, metric="val/los")
    with pytest.raises(StudyError, match="val/los, which no validation measures"):
        search(settings, FakeFits(before=before))
    # as nothing was learned, the right name may be given in the same folder
    study = search(study_settings(tmp_path, trials=2), FakeFits())
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


def test_a_fit_without_a_validation_ends_it(tmp_path):
    with pytest.raises(StudyError, match="no validation of the fit measured val/loss"):
        search(study_settings(tmp_path), FakeFits(reports=0))


# ---- pruning ------------------------------------------------------------------------------------


def test_a_trial_that_promises_little_is_told_to_stop(tmp_path):
    told: list[tuple[int, int]] = []

    def before(number: int, files: TrialFiles) -> FakeChild | None:
        if number < 5:
            return None
        reports = iter(range(1, 4))

        def work() -> int | None:
            step = next(reports, None)
            if step is None:
                return 0
            files.report(Report(step - 1, step, 100.0 if number == 5 else -1.0))
            return None

        def waiting() -> int | None:
            done = len(files.reports())
            if done and files.answered(done) is None:
                return None
            if files.answered(done):
                told.append((number, done))
                return 0
            return work()

        return FakeChild(None, waiting)

    settings = study_settings(tmp_path, trials=7, pruner="median")
    fits = FakeFits(before=before)
    study = search(settings, fits)
    assert told == [(5, 1)]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert study.trials[5].value == 100.0
    assert fits.variables[0]["TRIMTAB_TRIAL_WAITS"] == "1"


# ---- the folder ---------------------------------------------------------------------------------


def test_a_second_search_in_the_same_folder_is_refused(tmp_path):
    settings = study_settings(tmp_path)
    first = StudyFolder(settings, BASE, sampler_of)
    with pytest.raises(FileExistsError, match="is searched in by another process"):
        StudyFolder(settings, BASE, sampler_of)
    first.release()
    StudyFolder(settings, BASE, sampler_of).release()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "val/error"}, "metric is val/error and was val/loss"),
        ({"seed": 3}, "seed is 3 and was 0"),
        (
            {"space": {"model.lr": {"type": "float", "low": 0.1, "high": 0.2}}},
            r"space.model.lr.low is 0.1 and was 0.0001",
        ),
    ],
)
def test_another_study_in_the_folder_is_refused(changes, words, tmp_path):
    search(study_settings(tmp_path, trials=2), FakeFits())
    with pytest.raises(ValueError, match=f"holds another study: {words}"):
        search(study_settings(tmp_path, trials=3, **changes), FakeFits())


def test_another_config_of_the_fit_is_refused(tmp_path):
    search(study_settings(tmp_path, trials=2), FakeFits())
    other = {**BASE, "data": {"class_path": "Points", "init_args": {"batch_size": 8}}}
    with pytest.raises(ValueError, match=r"data.init_args.batch_size is 8 and was 4"):
        StudyFolder(study_settings(tmp_path), other, sampler_of)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"model.width":', '"trainer.default_root_dir":', "other settings than tune.space allows"),
        (r"\"high\": 1.0", r"\"high\": 9.0", "other settings than tune.space allows"),
        ('"model.lr":-', '"model.lr":-1', "other settings than tune.space allows"),
        ('{"op_code":4', '{"op_code":99', "is no journal of a study"),
        ('{"op_code":4', '["op_code",4', "is no journal of a study"),
    ],
)
def test_a_journal_of_a_stranger_chooses_nothing_but_the_space(old, new, words, tmp_path):
    space = {
        "model.lr": {"type": "float", "low": -1.0, "high": 1.0},
        "model.width": {"type": "int", "low": 4, "high": 64},
    }
    settings = study_settings(tmp_path, trials=8, space=space)
    search(settings, FakeFits())
    journal = tmp_path / JOURNAL
    text = journal.read_text()
    assert old in text
    journal.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words):
        search(settings, FakeFits())


@pytest.mark.parametrize("name", ["trials/0002", "figures", JOURNAL])
def test_a_link_is_refused(name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("text")
    folder = tmp_path / "study"
    search(study_settings(folder, trials=2), FakeFits())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "kept" if name == JOURNAL else outside)
    with pytest.raises(ValueError, match="is a link: put what it leads to in its place"):
        search(study_settings(folder, trials=3), FakeFits())
    assert (outside / "kept").read_text() == "text"


def test_the_search_starts_neither_a_gpu_nor_ranks(tmp_path):
    def work() -> None:
        search(study_settings(tmp_path, trials=3), FakeFits())
        assert not torch.cuda.is_initialized()
        assert not torch.distributed.is_initialized()
        sys.exit(7)

    assert in_child(work) == 7
    assert Path(tmp_path / JOURNAL).exists()
