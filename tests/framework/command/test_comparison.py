from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import trimtab
from framework.command.comparison import comparison_table
from framework.command.report import main
from framework.figures.panels import curves_of
from framework.reports.comparison import Comparison
from framework.reports.run_result import RunResult, find_runs
from framework.reports.settings import differences
from framework.runs.csv_logger import RunLogger


def make_run(folder: Path, lr: float, accuracy: list[float], **more: float) -> Path:
    logger = RunLogger(str(folder))
    for step, value in enumerate(accuracy):
        logger.log_metrics({"val/accuracy": value, **more}, step)
    logger.finalize("success")
    config = {
        "checkpoint": {"monitor": "val/accuracy", "mode": "max", "dirpath": str(folder)},
        "model": {"class_path": "modules.Classifier", "init_args": {"optimizer": {"lr": lr}}},
        "trainer": {"default_root_dir": str(folder), "callbacks": None},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").touch()
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/digits/a"), 0.1, [0.5, 0.75, 0.625])
    make_run(Path("runs/digits/b"), 0.2, [0.875, 0.25], **{"test/accuracy": 0.5})
    make_run(Path("runs/other/c"), 0.2, [float("nan")])
    return [Path("runs/digits/a"), Path("runs/digits/b"), Path("runs/other/c")]


def test_runs_are_found_by_folder_pattern_and_checkpoint(runs: list[Path]) -> None:
    a, b, c = runs
    for place, found in (
        ("runs", runs),
        ("runs/digits", [a, b]),
        ("runs/*/a", [a]),
        (a, [a]),
        (a / "checkpoints", [a]),
        (a / "checkpoints" / "best.ckpt", [a]),
        (a / "metrics.csv", [a]),
        (Path("runs/digits/*").resolve(), [a.resolve(), b.resolve()]),
    ):
        assert find_runs([place]) == found
    assert find_runs([c, a, c]) == [c, a]
    with pytest.raises(FileNotFoundError, match=r"nix\* is not a run folder: it holds no metrics"):
        find_runs([a, "nix*"])


def test_several_runs_are_one_table_the_best_first(
    runs: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    trimtab.main(["report", "runs"])
    lines = [line.split() for line in capfd.readouterr().out.splitlines() if line.strip()]
    assert " ".join(lines[0]).startswith("run best val/accuracy last test/accuracy settings")
    rows = [line for line in lines if line[0] in "abc"]
    assert rows == [
        ["b", "0.875", "0.25", "0.5", "lr=0.2"],
        ["a", "0.75", "0.625", "lr=0.1"],
        ["c", "lr=0.2"],
    ]


def test_a_loss_is_best_where_it_is_least(tmp_path: Path) -> None:
    results = []
    for name, texts in (("a", ("3", "2")), ("b", ("1", "4"))):
        curves = curves_of({"step": k, "val/loss": text} for k, text in enumerate(texts))
        results.append(RunResult(tmp_path / name, curves={"fit": curves}))
    table = comparison_table(Comparison(results))
    assert list(table.columns[0].cells) == ["b", "a"]
    assert list(table.columns[1].cells) == ["1", "2"]
    assert list(table.columns[2].cells) == ["4", "2"]


def test_settings_are_named_as_shortly_as_they_can_be(tmp_path: Path) -> None:
    configs = []
    for number, criterion in enumerate(("LDRLoss", "CrossEntropyLoss")):
        config = {
            "model": {"criterion": {"class_path": f"losses.{criterion}", "init_args": {}}},
            "data": {"lr": number, "root": f"b.{number}"},
            "optimizer": {"lr": number},
            "trainer": {"callbacks": [{"class_path": "callbacks.SAF", "init_args": {}}] * number},
        }
        if not number:
            config["model"]["criterion"]["init_args"] = {"lam": 2}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        configs.append(RunResult.read(tmp_path).settings)
    found = [", ".join(f"{k}={v}" for k, v in each.items()) for each in differences(configs)]
    assert found == [
        "data.lr=0, root=b.0, criterion=LDRLoss, lam=2, optimizer.lr=0, callbacks=[]",
        "data.lr=1, root=b.1, criterion=CrossEntropyLoss, optimizer.lr=1, callbacks=SAF",
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["report"], "trimtab: the following arguments are required: run; see trimtab report --h"),
        (["report", "a", "--wide"], "trimtab: unrecognized arguments: --wide; see trimtab report"),
        (["new", "loss"], "trimtab: the following arguments are required: name; see trimtab new"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        trimtab.main(args)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(words)
    assert said.count("\n") == 1


def test_a_checkpoint_stands_for_its_run(
    runs: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    main([str(runs[0] / "checkpoints" / "best.ckpt")])
    assert "figure: runs/digits/a/figures/learning_curves.png" in capfd.readouterr().out
