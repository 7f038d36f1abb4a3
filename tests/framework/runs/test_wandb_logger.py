import os
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.callbacks import LearningRateMonitor

from framework.runs.wandb_logger import RunWandbLogger
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.helpers.wandb_file import config, history, records


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_offline_run_holds_terms_metrics_rates_and_config(tmp_path: Path) -> None:
    logger = RunWandbLogger(folder=str(tmp_path))
    given = {"model": {"init_args": {"widths": [1, 2]}}, "trainer": {"max_epochs": 2, "x": None}}
    logger.log_hyperparams(given)
    trainer = tiny_trainer(tmp_path, [LearningRateMonitor()], logger)
    trainer.fit(TinyModule(), TinyData())
    rows = history(tmp_path)
    for name in ("train/loss", "train/classification", "train/size", "lr-AdamW/pg1"):
        steps = {row["trainer/global_step"] for row in rows if name in row}
        assert steps == set(range(12)), name
    for name in ("val/loss", "val/accuracy", "train/loss_epoch", "train/size_epoch"):
        values = [row[name] for row in rows if name in row]
        assert len(values) == 2, name
        assert values[-1] == pytest.approx(trainer.callback_metrics[name].item())
    found = config(tmp_path)
    assert {name: found[name] for name in given} == given


def test_a_resumed_run_keeps_its_id_and_marks_failure(tmp_path: Path) -> None:
    for status in ("failed", "success"):
        logger = RunWandbLogger(folder=str(tmp_path))
        logger.log_metrics({"x": 1.0}, 0)
        logger.finalize(status)
    runs = [record.run for record in records(tmp_path) if record.HasField("run")]
    identity = (tmp_path / "wandb_run_id").read_text().strip()
    assert {run.run_id for run in runs} == {identity}
    assert len({path.parent for path in tmp_path.glob("wandb/offline-run-*/*.wandb")}) == 2
    assert {run.display_name for run in runs} == {"/".join(tmp_path.parts[-2:])}
    exits = [record.exit.exit_code for record in records(tmp_path) if record.HasField("exit")]
    assert exits == [1, 0]


def test_offline_argument_leaves_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    logger = RunWandbLogger(folder=str(tmp_path), offline=True)
    assert logger.experiment.settings.mode == "offline"
    logger.finalize("success")
    assert list(tmp_path.glob("wandb/offline-run-*"))
    assert "WANDB_MODE" not in os.environ


def test_a_failed_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**kwargs: Any) -> None:
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConnectionError) as caught:
        RunWandbLogger(folder=str(tmp_path)).experiment
    assert "\n" not in str(caught.value)
    assert "No API key configured." in str(caught.value)
    assert "WANDB_MODE=offline" in str(caught.value)


def test_without_a_folder_it_says_so() -> None:
    with pytest.raises(ValueError, match="set its `folder`"):
        RunWandbLogger().experiment


@pytest.mark.parametrize("identity", ["../../other", "", "a b", "x" * 129, "é"])
def test_an_id_that_is_none_is_refused(tmp_path: Path, identity: str) -> None:
    (tmp_path / "wandb_run_id").write_text(identity)
    with pytest.raises(ValueError, match=r"wandb_run_id holds .*, which is no id of a W&B run"):
        _ = RunWandbLogger(folder=str(tmp_path)).experiment
    assert [path.name for path in tmp_path.iterdir()] == ["wandb_run_id"]


def test_settings_in_a_run_folder_do_not_say_where_the_key_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://a.invalid\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"settings would tell W&B where to send the run and your"):
        _ = RunWandbLogger(folder=".").experiment
    # those that a person has in a folder of work are W&B's own matter
    logger = RunWandbLogger(folder=str(tmp_path / "runs"), offline=True)
    assert logger.experiment.settings.base_url
    logger.finalize("success")
