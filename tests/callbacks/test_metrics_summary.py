from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from callbacks import MetricsSummary
from framework.reports.summary import by_stage
from framework.runs.run_checkpoint import RunCheckpoint
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def cells(line: str) -> list[str]:
    return line.split()


def test_fit_prints_one_table_and_where_things_lie(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep = ModelCheckpoint("checkpoints", "best", monitor="val/accuracy", mode="max")
    trainer = tiny_trainer(tmp_path, [MetricsSummary(), keep], False)
    trainer.fit(TinyModule(), TinyData())
    lines = [line for line in capfd.readouterr().out.splitlines() if line.strip()]
    values = by_stage(trainer.callback_metrics)
    assert cells(lines[0]) == ["metric", "train", "val"]
    table = {cells(line)[0]: cells(line)[1:] for line in lines[2:6]}
    assert list(table) == ["loss", "classification", "size", "accuracy"]
    assert table["loss"] == [f"{values['loss'][stage]:.4g}" for stage in ("train", "val")]
    assert table["accuracy"] == [f"{values['accuracy']['val']:.4g}"]
    assert lines[6].startswith("best checkpoint (val/accuracy 0.")
    assert lines[6].endswith(": checkpoints/best.ckpt")
    assert lines[7:] == [f"finished at step {trainer.global_step}; results: ."]


@pytest.mark.parametrize(("command", "stage"), [("test", "test"), ("validate", "val")])
def test_evaluation_prints_one_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, stage: str
) -> None:
    trainer = tiny_trainer(tmp_path, [MetricsSummary()], False)
    getattr(trainer, command)(TinyModule(), TinyData(), verbose=False)
    out = capfd.readouterr().out
    assert out.count("accuracy") == 1
    assert cells(out.split("\n", 2)[1]) == ["metric", stage]


def test_values_of_older_weights_are_said_to_be_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keep = RunCheckpoint(tmp_path, "best", monitor="val/accuracy", mode="max")
    settings = {"max_epochs": 1, "max_steps": 5}
    trainer = tiny_trainer(
        tmp_path, [MetricsSummary(), keep], False, val_check_interval=2, **settings
    )
    trainer.fit(TinyModule(), TinyData())
    assert "val is of step 4; training went on to step 5\n" in capfd.readouterr().out
    keep = RunCheckpoint(tmp_path, "best", monitor="val/accuracy", mode="max")
    trainer = tiny_trainer(tmp_path, [MetricsSummary(), keep], False, **settings)
    trainer.fit(TinyModule(), TinyData())
    out = capfd.readouterr().out
    assert "no best checkpoint: no validation measured val/accuracy\n" in out
    assert "training went on" not in out


def test_a_trial_of_one_batch_says_what_it_keeps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keep = RunCheckpoint(tmp_path, "best", monitor="val/accuracy", mode="max")
    trainer = tiny_trainer(tmp_path, [MetricsSummary(), keep], False, fast_dev_run=True)
    trainer.fit(TinyModule(), TinyData())
    out = capfd.readouterr().out
    assert "\nfast_dev_run keeps no checkpoint and no metrics\n" in out
    assert "no validation" not in out


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """Return the last line but that of the results."""
    return [line for line in capfd.readouterr().out.splitlines() if line.strip()][-2]


def test_a_fit_says_why_it_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    timed = tiny_trainer(tmp_path, [MetricsSummary()], False, max_time={"seconds": 0})
    timed.fit(TinyModule(), TinyData())
    assert said(capfd) == f"stopped by max_time at step {timed.global_step}"
    stop = EarlyStopping("val/accuracy", mode="max", stopping_threshold=0.0, patience=9)
    trainer = tiny_trainer(tmp_path, [MetricsSummary(), stop], False)
    trainer.fit(TinyModule(), TinyData())
    assert said(capfd).startswith("stopped early at step 6: Stopping threshold reached")


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_epochs": 1}, "1 epochs were done before; go on by a larger --trainer.max_epochs"),
        ({"max_steps": 6}, "6 steps were done before; go on by a larger --trainer.max_steps"),
    ],
)
def test_a_fit_says_where_there_was_nothing_to_train(
    limit: dict[str, int], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keep = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True)
    trainer = tiny_trainer(tmp_path, [MetricsSummary(), keep], False, **limit)
    trainer.fit(TinyModule(), TinyData())
    assert "checkpoint" in said(capfd)
    keep = ModelCheckpoint(tmp_path / "other", "last", save_on_train_epoch_end=True)
    trainer = tiny_trainer(tmp_path, [MetricsSummary(), keep], False, **limit)
    trainer.fit(TinyModule(), TinyData(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert said(capfd) == f"nothing was trained: {words}"
