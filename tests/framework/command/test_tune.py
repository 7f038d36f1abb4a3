"""`trimtab tune` as a person calls it: what it writes, and what it says to a mistake."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import trimtab
from framework.command import cli, tune
from framework.tuning.settings import read_settings
from framework.tuning.trial_files import Report, TrialFiles
from tests.helpers.command import refused
from tests.helpers.configs import arguments
from tests.helpers.runs import CONFIGS, QUIET, ROOT
from tests.helpers.studies import FakeChild, FakeFits, ForkedFits
from tests.helpers.wandb_file import first_run

LR = "{type: float, low: 1e-4, high: 1.0, log: true}"
ASKED = ["--tune.metric=val/accuracy", "--tune.mode=max", "--tune.sampler=random"]
SPACE = [f"--tune.space.model.optimizer.lr={LR}"]
TINY = [*arguments("classifier"), *QUIET, "--trainer.max_epochs=2"]

pytestmark = pytest.mark.usefixtures("elsewhere")


def search(*args: str) -> ForkedFits:
    """Search with fits in forked processes."""
    trimtab.import_configurable_classes()
    fits = ForkedFits()
    with cli.error_messages():
        tune.main([*TINY, *ASKED, *SPACE, *args], fits)
    return fits


def pretended() -> FakeFits:
    """Return a launcher whose fits measure 0.5 and train nothing."""

    def before(number: int, files: TrialFiles) -> FakeChild:
        files.report(Report(0, 1, 0.5))
        return FakeChild(0)

    trimtab.import_configurable_classes()
    return FakeFits(before=before)


def read(path: str | Path):
    return yaml.safe_load(Path(path).read_text())


def test_a_search_writes_its_trials_and_a_config_that_fit_runs(capsys):
    # a learning rate that gives NaN is a failure, and the search goes on
    lr = "{type: categorical, choices: [0.01, 1e30]}"
    space = [f"--tune.space.model.optimizer.lr={lr}", "--tune.seed=7"]
    fits = search(*space, "--tune.trials=2", "--tune.retrain_best=true", "--seed_everything=4")
    folder = Path("runs/tune/classifier")
    assert len(fits.started) == 3
    shown = capsys.readouterr().out
    assert "failed: " in shown
    assert "run it: trimtab fit --config runs/tune/classifier/best.yaml" in shown
    with (folder / "trials.csv").open() as file:
        rows = {row["state"]: row for row in csv.DictReader(file)}
    best, failed = rows["complete"], rows["failed"]
    assert (best["model.optimizer.lr"], failed["model.optimizer.lr"]) == ("0.01", "1e+30")
    assert "nan" in failed["reason"].lower()
    kept = read(folder / f"trials/{int(failed['trial']):04d}/trial.yaml")
    assert kept["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e30
    # the value is the best of the validations that the fit has logged
    trial = folder / "trials" / f"{int(best['trial']):04d}"
    with (trial / "metrics.csv").open() as file:
        logged = [float(row["val/accuracy"]) for row in csv.DictReader(file) if row["val/accuracy"]]
    assert len(logged) == 2
    assert float(best["value"]) == pytest.approx(max(logged), abs=1e-12)
    # the best config is the whole of what its trial was, and training it again gives the same bits
    config, of_trial = read(folder / "best.yaml"), read(trial / "config.yaml")
    assert of_trial["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    assert config["seed_everything"] == 4 + int(best["trial"])
    for name in ("num_classes", "input_shape"):
        # what the data says is not written before there is data
        config["model"]["init_args"][name] = of_trial["model"]["init_args"][name]
    assert config == of_trial
    again = (folder / "best" / "metrics.csv").read_text()
    assert again == (trial / "metrics.csv").read_text()


@pytest.mark.combination
def test_a_metric_that_is_not_measured(capsys):
    with pytest.raises(SystemExit) as stop:
        search("--tune.metric=val/acuracy")
    assert stop.value.code == 1
    assert "val/acuracy, which no validation measures; the nearest" in capsys.readouterr().err
    assert len(list(Path("runs/tune/classifier/trials").iterdir())) == 1


@pytest.mark.combination
def test_each_trial_is_a_run_of_one_group_on_wandb():
    search("--config=with/wandb", "--tune.trials=2", "--tune.name=digits")
    for number in range(2):
        run = first_run(Path(f"runs/tune/digits/trials/{number:04d}"))
        assert run.run_group == "digits"
        assert run.display_name == f"digits/{number:04d}"
        assert list(run.tags) == [f"trial-{number}"]


def test_the_settings_may_lie_in_a_config_and_in_a_file():
    section = {"tune": {"metric": "val/loss", "mode": "min", "trials": 1, "sampler": "random"}}
    Path("own.yaml").write_text(yaml.safe_dump({**section, "trainer": {"max_epochs": 1}}))
    Path("space.yaml").write_text(f"model.optimizer.lr: {LR}\n")
    fits = pretended()
    given = ["--config=own.yaml", "--tune.space", "space.yaml", "--tune.folder=here"]
    tune.main([*TINY[:-1], *given], fits)
    assert len(fits.started) == 1
    assert read("here/base.yaml")["trainer"]["max_epochs"] == 1
    assert read("here/study.yaml")["metric"] == "val/loss"
    assert Path("here/best.yaml").is_file()
    # it goes on with the same settings only
    with pytest.raises(ValueError, match=r"data.init_args.batch_size is 32 and was"):
        tune.main([*TINY[:-1], *given, "--tune.trials=3", "--data.batch_size=32"], fits)


@pytest.mark.parametrize("config", sorted((CONFIGS / "tune").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_config_of_a_search_fits_its_system(config):
    settings = ["--tune.trials=2", "--tune.sampler=random"]
    tune.main([f"--config={CONFIGS / config.name}", f"--config={config}", *settings], pretended())
    assert Path(f"runs/tune/{config.stem}/best.yaml").is_file()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "tune.space must be given"),
        (
            ["--tune.space.model.lrr={type: float, low: 0, high: 1}"],
            "model.lrr, which is no setting",
        ),
        (
            ["--tune.space.model.optimizer.lrs={type: float, low: 0, high: 1}"],
            "the nearest are model.optimizer.lr",
        ),
        (
            ["--tune.space.data.batch_size={type: float, low: 0.5, high: 9.5}"],
            "data.batch_size: 0.5 is no",
        ),
        (
            ["--tune.space.model.criterion.class_path={type: categorical, choices: [NoLoss]}"],
            "there is no class 'NoLoss'",
        ),
        (["--tune.space=nothing.yaml"], "--tune.space nothing.yaml: there is no such file"),
        ([*SPACE, "--tune.trails=3"], "no setting 'tune.trails'; the nearest are trials"),
        ([*SPACE, "--tune.trials"], "--tune.trials needs a value"),
        ([*SPACE, "--tune.slurm={partition: x}"], "tune.slurm is for --tune.launcher slurm"),
        ([*SPACE, "--name=mine"], "--name is of one run"),
        ([*SPACE, "--ckpt_path", "runs/x"], "--ckpt_path is of one run"),
        ([*SPACE, "--trainer.max_epoch=1"], "no option '--trainer.max_epoch'"),
        ([*SPACE, "--config=nothing"], "There is no config 'nothing'"),
    ],
)
def test_a_mistake_is_said_before_the_first_trial(args, words, capsys):
    assert words in refused(["tune", *TINY, *ASKED, *args], capsys)
    assert not Path("runs").exists()


def test_without_a_section_it_says_what_to_give(capsys):
    assert "there is no section tune: give a config" in refused(["tune", *TINY], capsys)


def test_without_optuna_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda name: None)
    said = refused(["tune", *TINY, *ASKED, *SPACE], capsys)
    assert said == "trimtab tune needs the package optuna: pip install 'trimtab[tune]'."


def test_torchrun_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "call it without torchrun" in refused(["tune", *TINY, *ASKED, *SPACE], capsys)


def test_another_monitor_is_said(capsys):
    settings = read_settings(
        {"space": {"model.lr": yaml.safe_load(LR)}, "metric": "val/loss", "mode": "min"}, "digits"
    )
    tune.warn_of_monitor(settings, {"checkpoint": {"monitor": "val/loss", "mode": "min"}})
    assert capsys.readouterr().err == ""
    tune.warn_of_monitor(settings, {"checkpoint": {"monitor": "val/accuracy", "mode": "max"}})
    said = capsys.readouterr().err
    assert "trials are compared by val/loss (min)" in said
    assert "chosen by val/accuracy (max)" in said


def test_a_fidelity_that_the_sampler_does_not_know_is_said(capsys):
    space = {"trainer.max_epochs": {"type": "int", "low": 1, "high": 9, "fidelity": True}}
    given = {"space": space, "metric": "val/loss", "mode": "min"}
    tune.warn_of_fidelity(read_settings(given | {"sampler": "mf_kg"}, "digits"))
    tune.warn_of_fidelity(read_settings(given | {"space": {"model.lr": yaml.safe_load(LR)}}, "a"))
    assert capsys.readouterr().err == ""
    tune.warn_of_fidelity(read_settings(given, "digits"))
    said = capsys.readouterr().err
    assert "marks trainer.max_epochs as the fidelity, which is for --tune.sampler mf_kg; gp" in said


def test_its_help_names_every_setting(capsys):
    trimtab.main(["tune", "--help"])
    shown = capsys.readouterr().out
    for name in ("space", "trials", "sampler", "pruner", "jobs", "launcher", "trial_timeout"):
        assert f"--tune.{name}" in shown
    assert max(map(len, shown.splitlines())) <= 100


def start(*args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trimtab", "tune", *TINY, *ASKED, *SPACE, *args]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_stopped_leaves_no_fit_and_goes_on(signum):
    search("--tune.trials=2", "--tune.name=whole", "--trainer.max_epochs=20")
    args = ("--tune.trials=2", "--tune.name=stopped", "--trainer.max_epochs=20")
    process = start(*args)
    trial = Path("runs/tune/stopped/trials/0001")
    wait_until((trial / "reports.jsonl").exists)
    os.kill(process.pid, signum)
    said = process.communicate(timeout=120)[0].decode()
    if signum == signal.SIGKILL:
        assert process.returncode == -signum
    else:
        assert process.returncode == 128 + signum
        assert "the same command goes on with the study" in said
    assert len((trial / "reports.jsonl").read_text().splitlines()) < 20
    process = start(*args)
    assert process.communicate(timeout=300)[0]
    assert process.returncode == 0
    tables = [
        list(csv.reader(Path(f"runs/tune/{n}/trials.csv").read_text().splitlines()))
        for n in ("whole", "stopped")
    ]
    seconds = tables[0][0].index("seconds")
    for table in tables:
        for row in table:
            row.pop(seconds)
    assert tables[0] == tables[1]
    metrics = [Path(f"runs/tune/{name}/trials/0001/metrics.csv") for name in ("whole", "stopped")]
    assert metrics[0].read_text() == metrics[1].read_text()


@pytest.mark.slow
def test_fits_with_two_ranks_give_the_study_of_one():
    double = ["--trainer.precision=64-true", "--tune.trials=2"]
    for name, more in (
        ("one", []),
        ("two", ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]),
    ):
        process = start(*double, f"--tune.name={name}", *more)
        said = process.communicate(timeout=400)[0].decode()
        assert process.returncode == 0, said
    rows = [
        list(csv.DictReader(Path(f"runs/tune/{n}/trials.csv").read_text().splitlines()))
        for n in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1]) == 2
    for one, two in zip(*rows, strict=True):
        assert one["model.optimizer.lr"] == two["model.optimizer.lr"]
        assert float(one["value"]) == pytest.approx(float(two["value"]), abs=1e-6)
