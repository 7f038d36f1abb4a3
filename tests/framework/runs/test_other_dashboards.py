"""TensorBoard and MLflow get the scalars, figures and tables of metrics.csv and the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.utilities.data import AttributeDict
from torch import nn

import trimtab
from callbacks import FigureLogger
from framework.figures.score_table import Table
from framework.runs.csv_logger import RunLogger, as_number, read_metrics
from framework.runs.dashboard_logger import config_text
from framework.runs.mlflow_logger import RunMLFlowLogger
from framework.runs.run_checkpoint import RunCheckpoint
from framework.runs.tensorboard_logger import RunTensorBoardLogger
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

pytestmark = [
    pytest.mark.pictures,
    # what TensorBoard and MLflow call themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
CLASS = "<i>a|b</i>"


class Tabled(TinyModule):
    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        return {"scores": Table("Scores", ("class", "F1"), [(CLASS, 0.5)])}


def fit(folder: Path, logger: Any, epochs: int, ckpt_path: Path | None = None) -> None:
    loggers = [RunLogger(str(folder)), logger]
    best = RunCheckpoint(monitor="val/accuracy", mode="max", dirpath=folder, filename="best")
    last = RunCheckpoint(dirpath=folder, filename="last", save_on_train_epoch_end=True)
    parts = [FigureLogger(), best, last]
    trainer = tiny_trainer(folder, parts, loggers, max_epochs=epochs)
    logger.log_hyperparams({"model": {"width": epochs, "name": "x" * 400}})
    trainer.fit(Tabled(), TinyData(), ckpt_path=ckpt_path)


def csv_values(folder: Path) -> dict[str, dict[int, float]]:
    """Return every value of metrics.csv by name and step."""
    columns, rows = read_metrics(folder / "metrics.csv")
    return {
        name: {row["step"]: as_number(row[name]) for row in rows if row[name] != ""}
        for name in columns
        if name != "step"
    }


def test_tensorboard_has_every_value_of_a_resumed_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'trimtab[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    fit(tmp_path, RunTensorBoardLogger(str(tmp_path)), epochs=2)
    # what a part that was killed logged after its checkpoint
    lost = RunTensorBoardLogger(str(tmp_path))
    lost.log_metrics({"train/loss": 99.0}, step=13)
    lost.finalize("failed")
    fit(tmp_path, RunTensorBoardLogger(str(tmp_path)), 3, tmp_path / "last.ckpt")
    assert (tmp_path / "tensorboard").is_dir()
    found = EventAccumulator(
        str(tmp_path / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}
    )
    found.Reload()
    expected = csv_values(tmp_path)
    assert set(found.Tags()["scalars"]) == set(expected)
    for name, values in expected.items():
        got = {event.step: event.value for event in found.Scalars(name)}
        assert got == pytest.approx(values, rel=1e-6), name
        # Lightning logs the epoch with everything
        assert name == "epoch" or len(found.Scalars(name)) == len(values), name
    for image in ("figures/val_confusion_matrix", "figures/learning_curves"):
        assert [event.step for event in found.Images(image)] == [11, 17]
    texts = {
        name: found.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        for name in found.Tags()["tensors"]
    }
    assert texts["figures/val_confusion_matrix/caption/text_summary"].startswith("Confusion matrix")
    assert r"\<i\>a\|b\</i\>" in texts["tables/val_scores/text_summary"]
    assert "    model:\n      width: 3\n" in texts["config/text_summary"]
    assert "job_id: 14" in texts["config/text_summary"]


def test_mlflow_has_every_value_of_a_resumed_run_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="pip install 'trimtab[mlflow]'")
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    fit(tmp_path, RunMLFlowLogger(folder=str(tmp_path)), epochs=2)
    again = RunMLFlowLogger(folder=str(tmp_path))
    fit(tmp_path, again, 3, tmp_path / "last.ckpt")
    client, identity = again.experiment, again.run_id
    assert (tmp_path / "mlflow_run_id").read_text() == f"{identity}\n"
    run = client.get_run(identity)
    experiment = client.get_experiment_by_name("trimtab")
    assert [one.info.run_id for one in client.search_runs([experiment.experiment_id])] == [identity]
    assert run.info.status == "FINISHED"
    assert run.data.tags["slurm.job_id"] == "14"
    assert run.data.params["model/width"] == "2"
    expected = csv_values(tmp_path)
    for name, values in expected.items():
        got = {point.step: point.value for point in client.get_metric_history(identity, name)}
        assert got == pytest.approx(values, rel=1e-6), name
    best = max(expected["val/accuracy"].values())
    assert run.data.metrics["best/val/accuracy"] == pytest.approx(best)
    files = {
        part.path
        for folder in ("", "figures", "tables")
        for part in client.list_artifacts(identity, folder)
    }
    assert {
        "config.yaml",
        "figures/val_confusion_matrix.png",
        "figures/val_confusion_matrix.txt",
        "figures/learning_curves.png",
        "tables/val_scores.csv",
    } <= files
    text = Path(client.download_artifacts(identity, "config.yaml")).read_text()
    assert yaml.safe_load(text)["model"]["width"] == 3


def test_hyperparameters_of_any_module_become_a_text() -> None:
    nested = AttributeDict(rate=np.float64(0.5), names=("a", "b"), none=None)
    given = AttributeDict(root=Path("data"), dtype=torch.float64, net=nn.ReLU(), nested=nested)
    assert yaml.safe_load(config_text(given)) == {
        "root": "data",
        "dtype": "torch.float64",
        "net": "ReLU()",
        "nested": {"rate": "0.5", "names": ["a", "b"], "none": None},
    }


def test_the_command_logs_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'trimtab[tensorboard]'")
    args = ["--config=classifier", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    run = f"--run_folder={tmp_path}"
    trimtab.main(["fit", *args, "--trainer.logger=RunTensorBoardLogger", run])
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert (tmp_path / "metrics.csv").is_file()


def test_what_is_no_id_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow_run_id").write_text("../../other")
    logger = RunMLFlowLogger(folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"mlflow_run_id holds .* no id of an MLflow run"):
        _ = logger.run_id


def test_without_a_folder_it_says_so() -> None:
    with pytest.raises(ValueError, match="set its `folder`"):
        _ = RunMLFlowLogger().run_id
