"""What a person chooses takes the place of what the command adds by itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import trimtab
from framework.command import cli
from framework.data.datamodule import DataModule
from framework.runs.csv_logger import read_metrics
from framework.runs.preemption import PreemptionCheckpoint
from tests.helpers.configs import arguments

RUN = Path("run")
BASE = [*arguments("classifier"), "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
FIT = ["fit", *BASE, "--run_folder=run"]

pytestmark = pytest.mark.usefixtures("elsewhere")


class NoParts(DataModule):
    """Data without any part."""

    num_classes = 10
    input_shape = (1, 8, 8)


@pytest.fixture
def said() -> list[str]:
    """What Lightning's loggers let through."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep = Keep()
    logging.getLogger("lightning.pytorch").addHandler(keep)
    yield lines
    logging.getLogger("lightning.pytorch").removeHandler(keep)


@pytest.mark.parametrize("option", ["--trainer.logger", "--trainer.logger+"])
def test_a_logger_is_added_to_the_record(option, capsys):
    trimtab.main([*FIT, f"{option}=CSVLogger", "--trainer.logger.save_dir=csv"])
    columns, rows = read_metrics(RUN / "metrics.csv")
    assert "val/accuracy" in columns
    assert rows
    assert (RUN / "figures" / "learning_curves.png").is_file()
    assert list(Path("csv").rglob("metrics.csv"))
    trimtab.main(["report", "run"])
    assert "accuracy" in capsys.readouterr().out


def test_a_run_without_logging_has_no_record():
    trimtab.main([*FIT, "--trainer.logger=false"])
    assert not list(RUN.glob("metrics*.csv"))
    assert (RUN / "checkpoints" / "last.ckpt").is_file()


def test_another_progress_bar_takes_the_place_of_ours(capfd):
    trimtab.main([*FIT, "--trainer.callbacks+=TQDMProgressBar"])
    shown = capfd.readouterr()
    assert "it/s | train" not in shown.out
    assert "it/s" in shown.err + shown.out


def test_a_run_may_keep_no_checkpoints():
    trimtab.main([*FIT, "--trainer.enable_checkpointing=false"])
    assert not (RUN / "checkpoints").exists()
    assert (RUN / "metrics.csv").is_file()


@pytest.mark.parametrize("saves", [True, False])
def test_ctrl_c_saves_last_where_there_are_checkpoints(saves):
    trimtab.import_configurable_classes()
    callbacks = cli.run([*FIT, f"--trainer.enable_checkpointing={saves}"]).trainer.callbacks
    found = [callback for callback in callbacks if isinstance(callback, PreemptionCheckpoint)]
    assert found == (callbacks[-1:] if saves else [])
    assert all(one.interrupts for one in found)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
def test_a_bare_run_runs():
    trimtab.main([*FIT, "--trainer.barebones=true"])
    assert {path.name for path in RUN.iterdir()} == {"config.yaml", ".run.json"}


def test_what_was_asked_for_is_shown(said):
    trimtab.main(
        [
            *FIT,
            "--trainer.max_epochs=3",
            "--trainer.callbacks+=EarlyStopping",
            "--trainer.callbacks.monitor=val/loss",
            "--trainer.callbacks.verbose=true",
            "--trainer.callbacks+=ModelSummary",
            "--trainer.profiler=simple",
        ]
    )
    text = "\n".join(said)
    assert "Metric val/loss improved" in text
    assert "Trainable params" in text
    assert "FIT Profiler Report" in text
    for noise in ("GPU available", "stopped: `max_epochs", "Tip:"):
        assert noise not in text


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_weights_that_were_not_trained_are_named(command, capsys):
    trimtab.main([command, *arguments("classifier"), "--run_folder=run"])
    assert capsys.readouterr().err == (
        "trimtab: without --ckpt_path the weights are those at the start of training.\n"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("validate", "NoParts has no validation part; use `test`, or give it one."),
        ("test", "NoParts has no test part; use `validate`, or give it one."),
        ("predict", "NoParts has no samples to predict."),
    ],
)
def test_data_without_a_part_is_refused(command, words, capsys):
    data = ["--allow=tests", "--data=tests.framework.command.test_choices.NoParts"]
    data += ["--model.num_classes=10", "--model.input_shape=[1,8,8]"]
    with pytest.raises(SystemExit) as stop:
        trimtab.main([command, *arguments("classifier"), *data])
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"trimtab: {words}"
    assert not Path("runs").exists()
