from __future__ import annotations

import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from callbacks.figure_logger import FigureLogger
from callbacks.report_writer import ReportWriter
from framework.reports.executions import read_executions
from framework.runs.csv_logger import RunLogger
from framework.runs.panels import Panel
from framework.runs.stop_signals import Interrupted
from tests.helpers.pages import Page
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Measured(TinyModule):
    panels = (Panel("Loss", ("loss",), "nats"),)


def run(folder: Path, *callbacks: Callback, **options: object) -> None:
    logger = RunLogger(str(folder))
    own = [FigureLogger(), ReportWriter(), *callbacks]
    trainer = tiny_trainer(folder, own, logger, **options)
    trainer.fit(Measured(), TinyData())
    trainer.test(trainer.model, TinyData(), verbose=False)


def test_every_command_writes_the_page(tmp_path: Path) -> None:
    run(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "finished after step 12" in page.text
    assert "Confusion matrix, test." in page.text
    assert "Confusion matrix, validation at the end of training." in page.text
    found = read_executions(tmp_path)
    assert found["fit"].state == found["test"].state == "finished"
    assert (found["fit"].step, found["fit"].epoch, found["fit"].parameters) == (12, 2, 18)
    assert found["fit"].seconds > 0
    assert found["fit"].units == {"val/loss": "nats"}
    units = {chart["title"]: chart["unit"] for chart in page.data["charts"]}
    assert units["loss"] == "nats"
    assert units["classification"] == ""


def test_the_job_of_a_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    writer = ReportWriter()
    trainer = tiny_trainer(tmp_path, [writer], RunLogger(str(tmp_path)))
    trainer.fit(TinyModule(), TinyData())
    page = Page((tmp_path / "report.html").read_text())
    assert "SLURM job 14, restarts 2, nodes n[1-2]" in page.text


class Stop(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 8:
            raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("the data\nended"), "failed after step 8: the data ended"),
        (Interrupted(signal.SIGTERM), "stopped after step 8: SIGTERM"),
    ],
)
def test_a_run_that_did_not_finish_says_why(tmp_path: Path, error, said: str) -> None:
    with pytest.raises(type(error)):
        run(tmp_path, Stop(error))
    assert said in Page((tmp_path / "report.html").read_text()).text


def test_a_run_ends_though_the_page_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report.html").mkdir()
    run(tmp_path)
    assert "report.html could not be written" in caplog.text


def test_a_run_that_logs_nothing_has_no_page(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, [ReportWriter()], False)
    trainer.fit(TinyModule(), TinyData())
    assert not (tmp_path / "report.html").exists()
