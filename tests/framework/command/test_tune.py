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
    fits = search("--tune.trials=2", "--tune.retrain_best=true")
    folder = Path("runs/tune/classifier")
    assert len(fits.started) == 3
    shown = capsys.readouterr().out
    assert "run it: trimtab fit --config runs/tune/classifier/best.yaml" in shown
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * 2
    best = max(rows, key=lambda row: float(row["value"]))
    # the value is the best of the validations that the fit has logged
    for row in rows:
        trial = folder / "trials" / f"{int(row['trial']):04d}"
        with (trial / "metrics.csv").open() as file:
            logged = [
                float(one["val/accuracy"]) for one in csv.DictReader(file) if one["val/accuracy"]
            ]
        assert len(logged) == 2
        assert float(row["value"]) == pytest.approx(max(logged), abs=1e-12)
        lr = read(trial / "config.yaml")["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        assert lr == float(row["model.optimizer.lr"])
    # the best config is the whole of what its trial was, and training it again gives the same bits
    config, of_trial = (
        read(path)
        for path in (folder / "best.yaml", folder / f"trials/{int(best['trial']):04d}/config.yaml")
    )
    for name in ("num_classes", "input_shape"):
        # what the data says is not written before there is data
        config["model"]["init_args"][name] = of_trial["model"]["init_args"][name]
    assert config == of_trial
    again = (folder / "best" / "metrics.csv").read_text()
    assert again == (folder / f"trials/{int(best['trial']):04d}/metrics.csv").read_text()


def test_a_metric_that_is_not_measured(capsys):
    with pytest.raises(SystemExit) as stop:
        search("--tune.metric=val/acuracy")
    assert stop.value.code == 1
    assert "val/acuracy, which no validation measures; the nearest" in capsys.readouterr().err
    assert len(list(Path("runs/tune/classifier/trials").iterdir())) == 1


def test_nan_is_a_failure_and_the_search_goes_on(capsys):
    lr = "{type: categorical, choices: [0.001, 1e30]}"
    fits = search(f"--tune.space.model.optimizer.lr={lr}", "--tune.trials=2", "--tune.seed=7")
    assert len(fits.started) == 2
    with Path("runs/tune/classifier/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    states = {row["model.optimizer.lr"]: row["state"] for row in rows}
    assert states == {"0.001": "complete", "1e+30": "failed"}
    assert "failed: " in capsys.readouterr().out
    (failed, *_) = (row for row in rows if row["state"] == "failed")
    kept = read(f"runs/tune/classifier/trials/{int(failed['trial']):04d}/trial.yaml")
    assert kept["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e30


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
    tune.main([*TINY[:-1], *given, "--tune.trials=2"], fits)
    assert len(fits.started) == 2
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
    other = ["--tune.metric=val/loss", "--tune.mode=min"]
    tune.main([*TINY, *ASKED, *SPACE, "--tune.trials=1", *other], pretended())
    said = capsys.readouterr().err
    assert "trials are compared by val/loss (min)" in said
    assert "chosen by val/accuracy (max)" in said


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
