"""A trial says what it measured, and all of its ranks stop at the same validation."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from callbacks import TrialReporter, for_every_run
from framework.tuning.trial_files import Report, TrialFiles, best_value
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

# the last batch of the validation has one row, and none for the other rank
DDP = {"devices": 2, "strategy": "ddp", "limit_val_batches": 2}


def fit(folder: Path, metric: str = "val/accuracy", waits: bool = False, **options):
    reporter = TrialReporter(str(folder), metric, waits)
    trainer = tiny_trainer(folder, [reporter], False, **options)
    trainer.fit(TinyModule(), TinyData())
    return trainer


def answers(files: TrialFiles, stop_at: int) -> threading.Thread:
    """Answer each report as a search does, from another thread."""

    def work() -> None:
        deadline = time.monotonic() + 60
        answered = 0
        while answered < stop_at and time.monotonic() < deadline:
            if len(files.reports()) > answered:
                answered += 1
                files.answer(answered, stop=answered == stop_at)
            time.sleep(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_each_validation_is_a_report(tmp_path):
    trainer = fit(tmp_path, max_epochs=3)
    reports = TrialFiles(tmp_path).reports()
    assert [(one.epoch, one.step) for one in reports] == [(0, 6), (1, 12), (2, 18)]
    assert reports[-1].value == float(trainer.callback_metrics["val/accuracy"])


def test_it_waits_for_the_answer_and_stops(tmp_path):
    thread = answers(TrialFiles(tmp_path), stop_at=2)
    trainer = fit(tmp_path, waits=True, max_epochs=5)
    thread.join()
    assert (trainer.current_epoch, trainer.global_step) == (2, 12)
    assert len(TrialFiles(tmp_path).reports()) == 2


def test_it_goes_on_where_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.trial_reporter.ANSWER", 0.01)
    assert fit(tmp_path, waits=True, max_epochs=2).current_epoch == 2


def test_a_sanity_check_and_a_validation_alone_are_no_reports(tmp_path):
    trainer = fit(tmp_path, max_epochs=1, num_sanity_val_steps=2)
    trainer.validate(trainer.lightning_module, TinyData(), verbose=False)
    assert len(TrialFiles(tmp_path).reports()) == 1


def test_a_metric_that_is_not_measured(tmp_path):
    with pytest.raises(ValueError, match=r"val/acuracy, which no validation measures; the nearest"):
        fit(tmp_path, "val/acuracy")
    assert "the nearest are val/accuracy" in (TrialFiles(tmp_path).refusal() or "")


def fit_two(folder: Path, stop: bool) -> tuple[int, int]:
    """Fit on this rank, which is told to stop after its second validation."""
    thread = answers(TrialFiles(folder), stop_at=2) if torch.distributed.get_rank() == 0 else None
    trainer = fit(folder, waits=stop, max_epochs=4, **DDP)
    if thread is not None:
        thread.join()
    return trainer.current_epoch, trainer.global_step


def test_two_ranks_stop_together(tmp_path, two_ranks):
    assert two_ranks(fit_two, tmp_path, True) == [(2, 12), (2, 12)]
    assert len(TrialFiles(tmp_path).reports()) == 2


class Unsynced(TinyModule):
    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/own", float(self.global_rank))


def fit_unsynced(folder: Path) -> str:
    reporter = TrialReporter(str(folder), "val/own")
    trainer = tiny_trainer(folder, [reporter], False, max_epochs=1, **DDP)
    try:
        trainer.fit(Unsynced(), TinyData())
    except ValueError as error:
        return str(error)
    return ""


def test_a_metric_of_one_rank_is_refused(tmp_path, two_ranks):
    said = "tune.metric val/own differs between ranks: log it with sync_dist=True."
    assert two_ranks(fit_unsynced, tmp_path) == [said, said]
    assert TrialFiles(tmp_path).refusal() == said


def test_only_a_trial_has_it(monkeypatch, tmp_path):
    assert not any(isinstance(one, TrialReporter) for one in for_every_run())
    for name, value in TrialFiles(tmp_path).environment("val/loss", waits=True).items():
        monkeypatch.setenv(name, value)
    (found,) = (one for one in for_every_run() if isinstance(one, TrialReporter))
    assert (found.folder, found.metric, found.waits) == (str(tmp_path), "val/loss", True)


def test_reports_that_a_kill_or_a_stranger_left(tmp_path):
    files = TrialFiles(tmp_path)
    files.report(Report(0, 1, 0.5))
    path = tmp_path / "reports.jsonl"
    path.write_text(
        path.read_text() + '[1]\n{"epoch": "x", "step": 1, "value": 2}\n{"epoch": 1, "st'
    )
    assert files.reports() == [Report(0, 1, 0.5)]
    assert files.answered(1) is None
    assert best_value([Report(0, 1, float("nan"))], "min") is None
