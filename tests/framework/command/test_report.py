import os
from pathlib import Path

import pytest
import yaml

from framework.command.report import main, relative
from framework.reports.summary import by_stage
from framework.runs.csv_logger import RunLogger


def log(folder: Path, file_name: str, rows: list[dict[str, float]]) -> None:
    logger = RunLogger(str(folder))
    logger.file_name = file_name
    for step, row in enumerate(rows):
        logger.log_metrics(row, step)
    logger.finalize("success")


def test_a_finished_run_is_shown_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    steps = [{"train/loss": 3.0}, {"train/loss_epoch": 2.5, "val/accuracy": 0.5}]
    log(run, "metrics.csv", [*steps, {"train/loss": 1.0}, {"val/accuracy": 0.75}])
    log(run, "metrics_test.csv", [{"test/accuracy": 0.625}])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").touch()
    main(["run"])
    lines = [line.split() for line in capfd.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["metric", "train", "val", "test"]
    assert lines[2:] == [
        ["loss", "2.5"],
        ["accuracy", "0.75", "0.625"],
        ["checkpoint:", "run/checkpoints/best.ckpt"],
        ["figure:", "run/figures/learning_curves.png"],
        ["report:", "run/report.html"],
    ]
    assert (run / "figures" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        main([str(tmp_path)])


def test_steps_are_no_epoch_values() -> None:
    metrics = {"train/loss": 1.0, "train/loss_epoch": 2.0, "val/a_epoch_b": 3.0, "lr-SGD": 0.1}
    assert by_stage(metrics) == {"loss": {"train": 2.0}, "a_epoch_b": {"val": 3.0}}


def test_a_term_that_is_the_loss_is_left_out() -> None:
    metrics = {"val/only": 1.0, "val/loss": 1.0, "val/accuracy": 0.5}
    assert by_stage(metrics) == {"loss": {"val": 1.0}, "accuracy": {"val": 0.5}}


def test_paths_are_shown_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    assert relative(tmp_path / "a" / "b") == "b"
    assert relative(os.sep) == os.sep


def test_names_in_a_run_folder_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        run = tmp_path / name
        run.mkdir()
        config = {"model": {"activation": ["relu", "\x1b[2J", name]}, "x": f"[/{name}]"}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "metrics.csv").write_text("epoch,step,val/[red]x\x1b[2J\n0,1,0.5\n")
    main([str(tmp_path / "one")])
    main([str(tmp_path)])
    printed = "".join(capsys.readouterr().out.split())
    assert "\x1b" not in printed
    assert r"[red]x\x1b[2J" in printed
    assert "x=[/one]" in printed
