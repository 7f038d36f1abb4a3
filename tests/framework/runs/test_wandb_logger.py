import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.callbacks import LearningRateMonitor

from framework.runs.csv_logger import RunLogger, read_metrics
from framework.runs.run_checkpoint import RunCheckpoint
from framework.runs.wandb_logger import RunWandbLogger
from tests.helpers.runs import ROOT
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.helpers.wandb_file import axes, config, first_run, history, records, summary


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


def test_metrics_have_axes_and_the_summary_the_best_over_all_parts_of_a_run(
    tmp_path: Path,
) -> None:
    class Rated(TinyModule):
        rates = iter((0.5, 0.75, 0.25, 0.625))

        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            self.log("val/rate", next(self.rates))

    def part(**kwargs: Any) -> None:
        loggers = [RunLogger(str(tmp_path)), RunWandbLogger(folder=str(tmp_path))]
        best = RunCheckpoint(monitor="val/rate", mode="max", dirpath=tmp_path, filename="best")
        last = RunCheckpoint(dirpath=tmp_path, filename="last", save_on_train_epoch_end=True)
        trainer = tiny_trainer(tmp_path, [best, last], loggers, max_epochs=kwargs.pop("epochs"))
        trainer.fit(Rated(), TinyData(), **kwargs)

    part(epochs=2)
    part(epochs=4, ckpt_path=str(tmp_path / "last.ckpt"))
    rows = history(tmp_path)
    assert [row["val/rate"] for row in rows if "val/rate" in row] == [0.5, 0.75, 0.25, 0.625]
    found = summary(tmp_path)
    assert found["best/val/rate"] == 0.75
    assert found["val/rate"] == 0.625
    assert found["best/val/loss"] == min(row["val/loss"] for row in rows if "val/loss" in row)
    drawn = axes(tmp_path)
    by_step, by_epoch = ("train/loss", "train/size"), ("val/rate", "val/loss", "train/size_epoch")
    assert {drawn[name] for name in by_step} == {"trainer/global_step"}
    assert {drawn[name] for name in by_epoch} == {"epoch"}


def test_what_a_person_says_comes_before_the_environment_and_that_before_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(place: str, **arguments: Any) -> Any:
        folder = tmp_path / place
        logger = RunWandbLogger(folder=str(folder), **arguments)
        logger.command = "fit"
        logger.log_metrics({"x": 1.0}, 0)
        logger.finalize("success")
        return first_run(folder)

    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    run = begin("job")
    assert (run.project, run.run_group, run.job_type) == ("trimtab", "slurm-12", "fit")
    numbers = {"job_id": 14, "array_job_id": 12, "array_task_id": 2, "restart_count": 3}
    assert config(tmp_path / "job")["slurm"].items() >= numbers.items()
    for key in ("PROJECT", "RUN_GROUP", "JOB_TYPE", "NOTES", "TAGS", "NAME"):
        monkeypatch.setenv(f"WANDB_{key}", f"env_{key.lower()}")
    run = begin("environment")
    found = (run.project, run.run_group, run.job_type, run.notes, list(run.tags), run.display_name)
    assert found == tuple(
        ["env_tags"] if key == "tags" else f"env_{key}"
        for key in ("project", "run_group", "job_type", "notes", "tags", "name")
    )
    run = begin(
        "said", project="p", group="g", job_type="j", notes="n", tags=["t"], name="r", entity="e"
    )
    found = (run.project, run.run_group, run.job_type, run.notes, list(run.tags), run.display_name)
    assert found == ("p", "g", "j", "n", ["t"], "r")
    assert run.entity == "e"


def test_a_run_that_goes_on_keeps_its_group_and_kind_of_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job, command in (("14", "fit"), ("15", "test")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        logger = RunWandbLogger(folder=str(tmp_path))
        logger.command = command
        logger.log_metrics({"x": 1.0}, 0)
        logger.finalize("success")
    runs = [record.run for record in records(tmp_path) if record.HasField("run")]
    assert {run.run_group for run in runs if run.run_group} == {"slurm-14"}
    assert {run.job_type for run in runs if run.job_type} == {"fit"}
    assert config(tmp_path)["slurm"]["job_id"] == 15


def test_checkpoints_are_artifacts_with_the_config(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("model: 1\n")
    (tmp_path / "other.ckpt").write_text("a secret")
    best = RunCheckpoint(
        monitor="val/accuracy", mode="max", dirpath=folder / "checkpoints", filename="best"
    )
    last = RunCheckpoint(dirpath=folder / "checkpoints", filename="last")
    logger = RunWandbLogger(folder=str(folder), log_model=True)
    trainer = tiny_trainer(folder, [best, last], logger)
    trainer.fit(TinyModule(), TinyData())
    best.best_model_path = str(tmp_path / "other.ckpt")
    logger.send_checkpoints(best)
    logger.finalize("success")
    sent = [
        record.request.log_artifact.artifact if record.HasField("request") else record.artifact
        for record in records(folder)
        if record.HasField("artifact") or record.request.HasField("log_artifact")
    ]
    files = [{entry.path for entry in artifact.manifest.contents} for artifact in sent]
    assert files == [{"best.ckpt", "config.yaml"}, {"last.ckpt", "config.yaml"}]
    assert [sorted(artifact.aliases) for artifact in sent] == [
        ["best", "latest"],
        ["last", "latest"],
    ]
    assert {artifact.name for artifact in sent} == {
        f"model-{(folder / 'wandb_run_id').read_text().strip()}"
    }


def test_a_run_goes_on_where_wandb_fails(tmp_path: Path, caplog: Any) -> None:
    loggers = [RunLogger(str(tmp_path)), RunWandbLogger(folder=str(tmp_path))]
    trainer = tiny_trainer(tmp_path, [], loggers)

    class Breaks(TinyModule):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()

            def refuse(*_: Any, **__: Any) -> None:
                raise ConnectionResetError("Connection lost.")

            loggers[1].experiment.log = refuse

    trainer.fit(Breaks(), TinyData())
    assert [line for line in caplog.messages if line.startswith("trimtab")] == [
        "trimtab: Weights & Biases failed and gets nothing more of this run, which goes on: "
        "Connection lost"
    ]
    assert trainer.global_step == 12
    _, rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(12))


def test_a_run_goes_on_where_wandb_takes_no_checkpoint(tmp_path: Path, caplog: Any) -> None:
    logger = RunWandbLogger(folder=str(tmp_path), log_model="all")
    last = RunCheckpoint(dirpath=tmp_path / "checkpoints", filename="last")
    trainer = tiny_trainer(tmp_path, [last], logger)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("Connection lost.")

    logger.experiment.log_artifact = refuse
    trainer.fit(TinyModule(), TinyData())
    assert [line for line in caplog.messages if line.startswith("trimtab")] == [
        "trimtab: Weights & Biases failed and gets nothing more of this run, which goes on: "
        "Connection lost"
    ]
    assert trainer.global_step == 12


LOSES_THE_SERVICE = """
import os, signal, sys
from pathlib import Path
from lightning.pytorch import Callback
from framework.runs.csv_logger import RunLogger
from framework.runs.wandb_logger import RunWandbLogger
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

class Kill(Callback):
    def on_validation_end(self, trainer, module):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children if trainer.current_epoch == 0 else ():
            if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)

folder = Path(sys.argv[1])
loggers = [RunLogger(str(folder)), RunWandbLogger(folder=str(folder))]
tiny_trainer(folder, [Kill()], loggers).fit(TinyModule(), TinyData())
"""


@pytest.mark.combination
def test_a_run_goes_on_where_the_process_of_wandb_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSES_THE_SERVICE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0
    assert done.stderr.count("trimtab: Weights & Biases failed") == 1
    assert "Traceback" not in done.stderr
    _, rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(12))
