"""Configs and run folders of version 0.1 load, test, predict and resume with the same numbers."""

from __future__ import annotations

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab
from framework.command.class_paths import set_up_parsing
from framework.command.cli import Parser
from framework.command.jsonargparse_internals import accepted_arguments
from framework.runs.checkpoint_io import AtomicCheckpointIO
from framework.runs.version_0_1 import ARGUMENTS, CLASSES, current_class_path, current_config
from tests.helpers.configs import one_of_many
from tests.helpers.runs import QUIET, ROOT

FOLDERS = Path(__file__).parent / "version_0_1"
# every class that a config of version 0.1 could name, by each of its paths, with its arguments
CLASSES_THEN: dict[str, list[str]] = json.loads((FOLDERS / "classes.json").read_text())
# no place in a config takes these classes, so that an argument may go
NEVER_IN_A_CONFIG = {
    "TrimtabCLI": {"folder"},
    "DomainAugmentation": {"shape"},
    "ImageFiles": {"image_size", "channels"},
}
NAMES = sorted(path.parent.name for path in FOLDERS.glob("*/expected.json"))
QUICK = ("classifier_saf_lion", "depict", "gghl", "sae")
RUNS = [one_of_many(name, quick=name in QUICK) for name in NAMES]


def test_there_are_run_folders():
    assert len(NAMES) == 11


def of_today(path: str) -> Any:
    module, _, name = current_class_path(path).rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("package", ["framework", "modules", "datamodules", "callbacks"])
def test_every_class_is_found_under_its_old_path(package):
    paths = [path for path in CLASSES_THEN if path.split(".")[0] == package]
    assert len(paths) > 20
    for path in paths:
        name = path.rpartition(".")[2]
        found = of_today(path)
        assert isinstance(found, type), path
        assert found.__name__ == CLASSES.get(name, name)
        arguments = accepted_arguments(found)
        renamed = ARGUMENTS.get(found.__name__, {})
        for argument in set(CLASSES_THEN[path]) - NEVER_IN_A_CONFIG.get(found.__name__, set()):
            assert renamed.get(argument, argument) in arguments, f"{path} took {argument}"


def test_no_old_name_is_that_of_another_class_today():
    trimtab.import_configurable_classes()
    today = {cls.__name__ for path in CLASSES_THEN for cls in [of_today(path)]}
    assert not set(CLASSES) & today


def test_class_paths_of_others_and_plain_text_stay():
    for text in ("torch.optim.SGD", "Adam", "mylibrary.figures.Figures", "val/accuracy", "a.b", ""):
        assert current_class_path(text) == text
    config = {"name": "Summary", "monitor": "val/loss", "value": [1, None, "0.5"]}
    assert current_config(config) == config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("callbacks.Predictions", "callbacks.PredictionWriter"),
        ("Predictions", "PredictionWriter"),
        ("callbacks.predictions.Predictions", "callbacks.prediction_writer.PredictionWriter"),
        ("framework.run_logger.RunLogger", "framework.runs.csv_logger.RunLogger"),
        ("framework.ops.selection.TokenChoice", "framework.sparse_coding.selection.TokenChoice"),
        ("modules.gghl.module.GGHL", "modules.gghl.module.GGHL"),
    ],
)
def test_nested_class_paths_and_arguments_of_a_config(given, expected):
    aux = {"class_path": "modules.sae.auxiliary.DeadLatentAuxLoss"}
    config = {"a": [{"class_path": given, "init_args": {"aux": {**aux, "init_args": {}}}}]}
    found = current_config(config)["a"][0]
    assert found["class_path"] == expected
    aux["init_args"] = {"normaliser": "error"}  # type: ignore[assignment]
    assert current_config([aux])[0]["init_args"] == {"normalizer": "error"}


def test_old_class_paths_on_the_command_line(tmp_path, capsys):
    args = ["fit", "--config", "configs/sae.yaml", "--print_config"]
    old = "framework.ops.selection.BatchTopK"
    trainer = "--trainer.callbacks+=callbacks.predictions.Predictions"
    with pytest.raises(SystemExit):
        trimtab.main([*args, "--model.selection", old, trainer])
    shown = capsys.readouterr().out
    assert "class_path: framework.sparse_coding.selection.BatchTopK" in shown
    assert "class_path: callbacks.prediction_writer.PredictionWriter" in shown


def test_a_parser_of_ones_own_understands_old_names():
    from lightning.pytorch import Callback

    set_up_parsing()
    parser = Parser()
    parser.add_argument("--callback", type=Callback)
    text = "callback: {class_path: callbacks.Figures, init_args: {every_n_minutes: 2}}"
    parsed = parser.parse_string(text)
    assert parsed.callback.class_path == "callbacks.FigureLogger"
    assert parsed.callback.init_args.every_n_minutes == 2


def test_states_of_renamed_callbacks(tmp_path):
    key = "Predictions{'path': None}"
    states = {key: {"a": 1}, "SpliceEvaluation": {}, "EarlyStopping{'mode': 'min'}": {"b": 2}}
    torch.save({"state_dict": {}, "callbacks": states}, tmp_path / "a.ckpt")
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["callbacks"]
    assert loaded == {
        "PredictionWriter{'path': None}": {"a": 1},
        "LossRecoveredEvaluation": {},
        "EarlyStopping{'mode': 'min'}": {"b": 2},
    }


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the relative paths of data lie."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("TRIMTAB_RUN_FOLDER", raising=False)
    torch.set_num_threads(1)


def copy_of(name: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a copy of a run folder, which is written to, and what is expected of it."""
    run = tmp_path / name
    shutil.copytree(FOLDERS / name, run)
    return run, json.loads((run / "expected.json").read_text())


def command(name: str, run: Path, *more: str) -> None:
    """Run a command from the last checkpoint, with the config beside it, and write beside it too.

    The configs name the folders of their time, ``runs/...``, which do not count.
    """
    trimtab.main([name, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", *QUIET, *more])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def last_values(found: list[dict[str, str]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for row in found:
        values |= {k: float(v) for k, v in row.items() if v and k not in ("epoch", "step")}
    return values


def assert_equal(found: Any, expected: Any) -> None:
    """Compare numbers by a tolerance, and whole numbers and texts exactly."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
    else:
        assert found == expected


def number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def detections(lines: list[str]) -> list[list[int | float | str]]:
    """Return what stands in the lines of a result file, whose first word is the image's name."""
    parts = [line.split() for line in lines]
    return [[name, *map(float, numbers)] for name, *numbers in parts]


@pytest.mark.parametrize("name", RUNS)
def test_metrics(name, tmp_path):
    run, expected = copy_of(name, tmp_path)
    command("test", run)
    assert expected["test"]
    assert_equal(last_values(rows(run / "metrics_test.csv")), expected["test"])


@pytest.mark.parametrize("name", RUNS)
def test_predictions(name, tmp_path):
    run, expected = copy_of(name, tmp_path)
    command("predict", run)
    files = sorted((run / "detections").glob("Task1_*.txt"))
    found = {path.name: detections(path.read_text().splitlines()) for path in files}
    known = {file: detections(lines) for file, lines in expected.get("detections", {}).items()}
    assert_equal(found, known)
    if "predictions" in expected:
        table = rows(run / "predictions.csv")
        assert len(table) == expected["rows"]
        columns = {name: [number(row[name]) for row in table[:20]] for name in table[0]}
        assert_equal(columns, expected["predictions"])
    else:
        assert any(found.values())


def test_training_goes_on(tmp_path):
    run, expected = copy_of("classifier_saf_lion", tmp_path)
    before = rows(run / "metrics.csv")
    old = (run / "checkpoints" / "last.ckpt").read_bytes()
    command("fit", run, "--trainer.max_epochs=3")
    assert (run / "checkpoints" / "last.ckpt").read_bytes() != old
    found = rows(run / "metrics.csv")
    assert [row["step"] for row in found[: len(before)]] == [row["step"] for row in before]
    closing = [row for row in found if row["epoch"] == "2"][-1]
    values = last_values([closing])
    assert "train/saf_epoch" in expected["resumed"]
    assert_equal({key: values.get(key) for key in expected["resumed"]}, expected["resumed"])


def test_a_report(tmp_path, capsys):
    run, _ = copy_of("classifier_saf_lion", tmp_path)
    trimtab.main(["report", str(run)])
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "last.ckpt" in shown
