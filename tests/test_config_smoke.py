"""Every config runs two steps of fit, validate, test and predict.

Those of published settings are shrunk in size and read other data, see ``tests/shrink/paper``.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg

import trimtab
from tests.conftest import write_blank
from tests.helpers.configs import DOMAINS, PAPERS, SYSTEMS, arguments, one_of_many, systems
from tests.helpers.runs import CONFIGS, QUIET

TWO_STEPS = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
]


def run(command: str, args: list[str], folder: Path, *rest: str) -> None:
    trimtab.main([command, *args, *QUIET, f"--run_folder={folder}", *rest])


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in DOMAINS])
def test_it_trains(system, tmp_path, data_folder):
    run("fit", arguments(system, data=data_folder), tmp_path, *TWO_STEPS)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    "system", [*systems(), *(one_of_many(name, quick=False) for name in PAPERS)]
)
@pytest.mark.pictures
def test_every_command_runs(system, tmp_path, data_folder, monkeypatch):
    args = arguments(system, data=data_folder)
    run("fit", args, tmp_path, *TWO_STEPS)
    # what the others draw is drawn likewise
    monkeypatch.setattr(FigureCanvasAgg, "print_png", write_blank)
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert best.is_file()
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert list((tmp_path / "figures").glob("*.png"))
    with (tmp_path / "metrics.csv").open() as file:
        assert "train/loss" in next(csv.reader(file))
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model"]["class_path"]
    run("validate", args, tmp_path, f"--ckpt_path={best}", "--trainer.limit_val_batches=2")
    run("test", args, tmp_path, f"--ckpt_path={best}", "--trainer.limit_test_batches=2")
    run("predict", args, tmp_path, f"--ckpt_path={best}", "--trainer.limit_predict_batches=2")
    folder = tmp_path / "detections"
    detections = [*folder.glob("Task1_*.txt"), *folder.glob("detections.json")]
    table = (tmp_path / "predictions.csv").is_file()
    # a table may have embeddings beside it
    assert table or detections or (tmp_path / "embeddings.npy").is_file()
    assert not (table and detections)
    names = {path.name for path in tmp_path.glob("config*.yaml")}
    commands = ("", "_validate", "_test", "_predict")
    assert names == {f"config{command}.yaml" for command in commands}


@pytest.mark.parametrize("system", [*SYSTEMS, *PAPERS])
def test_the_header_says_what_a_reader_needs(system):
    lines = (CONFIGS / f"{system}.yaml").read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    for word in ("Shows:", "Expect:", "tier:"):
        assert word in header


@pytest.mark.parametrize("system", systems("classifier", "sae"))
def test_the_saved_config_runs_again(system, tmp_path, data_folder):
    run("fit", arguments(system, data=data_folder), tmp_path / "first", *TWO_STEPS)
    saved = [f"--config={tmp_path / 'first' / 'config.yaml'}"]
    run("fit", saved, tmp_path / "second")
    assert (tmp_path / "second" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "second" / "metrics.csv").read_bytes() == (
        tmp_path / "first" / "metrics.csv"
    ).read_bytes()


def test_a_config_may_monitor_nothing(tmp_path):
    run("fit", arguments("classifier"), tmp_path, *TWO_STEPS, "--checkpoint.monitor=null")
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"}
