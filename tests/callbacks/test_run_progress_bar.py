import re
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import RunProgressBar
from framework.runs.csv_logger import RunLogger, read_metrics
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Terminal(Callback):
    """Keeps what the bar shows at the end of each batch."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.shown.append(dict(trainer.progress_bar_callback._metric_component._metrics))


class Read(TinyModule):
    """Remembers what is read of the terms."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[dict[str, torch.Tensor]] = []

    @property
    def term_values(self) -> dict[str, torch.Tensor]:
        values = super().term_values
        if values:
            self.reads.append(values)
        return values


def test_bar_shows_the_terms_at_its_own_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "400")
    # next to no time passes, however slow the machine is
    ticks = count(100.0, 1e-4)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("callbacks.run_progress_bar.time", clock)
    watch = Terminal()
    bar = RunProgressBar(refresh_rate=1)
    assert bar.is_enabled
    module = Read()
    trainer = tiny_trainer(tmp_path, [bar, watch], False, enable_progress_bar=True, max_epochs=3)
    trainer.fit(module, TinyData())
    terms, measured = {"loss", "classification", "size"}, {"val/loss", "val/accuracy"}
    assert [set(shown) >= terms for shown in watch.shown] == [True] * 18
    assert [set(shown) >= measured for shown in watch.shown] == [False] * 6 + [True] * 12
    # the first step, and the last step, validation and end of each of 3 epochs of 6 steps
    assert len(module.reads) <= 1 + 3 * 3, "values are read once per refresh, not once per step"
    first = {name: f"{float(value):.4g}" for name, value in module.reads[0].items()}
    assert watch.shown[0] == first
    out = capfd.readouterr().out
    assert "classification:" in out
    assert "it/s" in out
    assert "v_num" not in out


def test_without_a_terminal_there_is_one_line_per_epoch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer(
        tmp_path,
        [RunProgressBar()],
        RunLogger(str(tmp_path)),
        enable_progress_bar=True,
        max_epochs=3,
    )
    trainer.fit(TinyModule(), TinyData())
    lines = capfd.readouterr().out.splitlines()
    rows = [row for row in read_metrics(tmp_path / "metrics.csv")[1] if row["val/loss"]]
    assert len(lines) == len(rows) == 3
    for epoch, (line, row) in enumerate(zip(lines, rows, strict=True)):
        assert line.startswith(f"epoch {epoch}/2, ")
        left = r"" if epoch == 2 else r", \d:\d\d:\d\d left"
        assert re.search(rf" it/s{left} \| train loss ", line)
        assert f"train loss {float(row['train/loss_epoch']):.4g}," in line
        assert f"| val loss {float(row['val/loss']):.4g}," in line
        assert f"accuracy {float(row['val/accuracy']):.4g}" in line


def test_a_long_epoch_has_lines_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("callbacks.run_progress_bar.PAUSE", (0.0, 0.0))
    settings = {"enable_progress_bar": True, "max_epochs": 2}
    trainer = tiny_trainer(tmp_path, [RunProgressBar()], False, **settings)
    trainer.fit(TinyModule(), TinyData())
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2 * 6
    number = r"\d[\d.e-]*"
    for step, line in enumerate(lines[6:11], 7):
        assert re.fullmatch(
            rf"epoch 1/1, batch {step - 6}/6, step {step}, 0:00:\d\d left \| train "
            rf"loss {number}, classification {number}, size {number}",
            line,
        )


def test_nothing_is_shown_on_other_ranks_or_at_rate_zero(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bar = RunProgressBar(refresh_rate=0)
    trainer = tiny_trainer(tmp_path, [bar], False, enable_progress_bar=True, max_epochs=1)
    trainer.fit(TinyModule(), TinyData())
    other = RunProgressBar()
    other.disable()
    trainer = tiny_trainer(tmp_path, [other], False, enable_progress_bar=True, max_epochs=1)
    trainer.fit(TinyModule(), TinyData())
    assert capfd.readouterr().out == ""


def test_the_line_says_where_a_validation_is_older_than_the_epoch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"enable_progress_bar": True, "max_epochs": 2, "check_val_every_n_epoch": 1}
    trainer = tiny_trainer(tmp_path, [RunProgressBar()], False, val_check_interval=4, **settings)
    trainer.fit(TinyModule(), TinyData())
    first, second = [line for line in capfd.readouterr().out.splitlines() if "epoch" in line]
    assert "| val at step 4 loss" in first
    assert "| val at step 10 loss" in second


def test_the_bar_fits_a_terminal_of_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    keep = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max")
    bar, watch = RunProgressBar(refresh_rate=10_000), Terminal()
    trainer = tiny_trainer(
        tmp_path, [bar, watch, keep], False, enable_progress_bar=True, max_epochs=3
    )
    trainer.fit(TinyModule(), TinyData())
    assert list(watch.shown[0]) == ["loss", "classification"]
    # what the best is chosen by comes before what else was measured
    assert list(watch.shown[-1]) == ["loss", "val/accuracy"]
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capfd.readouterr().out))
    shown = [line for line in lines if line.startswith("Epoch")]
    assert shown
    assert [line for line in shown if len(line.rstrip()) > 80] == []
    assert " 0:00:00 left " in shown[-1]
    assert any("val/accuracy: " in line for line in shown)


def test_the_time_left_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("callbacks.run_progress_bar.time", clock)
    left: list[float | None] = []

    class Watch(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            now[0] += 2.0

        def on_train_batch_end(self, *args: Any) -> None:
            left.append(bar.seconds_left)

    for limit in ({"max_epochs": 2}, {"max_epochs": 9, "max_steps": 12}):
        left.clear()
        bar = RunProgressBar(refresh_rate=10)
        trainer = tiny_trainer(tmp_path, [Watch(), bar], False, enable_progress_bar=True, **limit)
        trainer.fit(TinyModule(), TinyData())
        # noted before the bar's own hook, so one batch late
        assert left[1:] == [2.0 * (11 - batch) for batch in range(11)]
