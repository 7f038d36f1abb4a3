"""The W&B overlay, offline: what a dashboard needs of each domain was really logged."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import trimtab
from docs import dashboards
from tests.helpers.configs import DOMAINS, arguments, one_of_many
from tests.helpers.wandb_file import axes, config, first_run, history, summary

pytestmark = pytest.mark.pictures


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    # without this name Lightning would start as many processes as the job has tasks
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")


@pytest.mark.parametrize(
    "system", [one_of_many(name, quick=name == "classifier", system=name) for name in DOMAINS]
)
def test_the_record_of_a_run_is_what_the_page_lists(
    system: str, tmp_path: Path, data_folder: Path
) -> None:
    args = arguments(system, "with/wandb", data=data_folder)
    trimtab.main(["fit", *args, f"--run_folder={tmp_path}"])
    section = dashboards.section(system, tmp_path)
    assert section in dashboards.PAGE.read_text(), "run `python -m docs.dashboards`"
    rows, drawn, best = history(tmp_path), axes(tmp_path), summary(tmp_path)
    # nothing that metrics.csv has is missing, and the values agree
    with (tmp_path / "metrics.csv").open() as file:
        kept = list(csv.DictReader(file))
    for name in kept[0].keys() - {"step", "epoch"}:
        ours = {int(row["step"]): float(row[name]) for row in kept if row[name]}
        # a learning rate is logged at the end of an epoch, too
        logged = {row["trainer/global_step"]: row[name] for row in rows if name in row}
        assert logged == pytest.approx(ours, nan_ok=True), name
        assert drawn[name] in ("epoch", "trainer/global_step")
    # the config, whole, and the job
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    found = config(tmp_path)
    assert found["model"] == saved["model"]
    assert found["trainer"]["callbacks"] == saved["trainer"]["callbacks"]
    assert found["slurm"].items() >= {"job_id": 14, "array_job_id": 12, "restart_count": 0}.items()
    run = first_run(tmp_path)
    assert (run.run_group, run.job_type) == ("slurm-12", "fit")
    # the best value of what the checkpoint monitors
    monitor, mode = saved["checkpoint"]["monitor"], saved["checkpoint"]["mode"]
    if monitor is not None:
        values = [float(row[monitor]) for row in kept if row[monitor]]
        expected = max(values) if mode == "max" else min(values)
        assert best[f"best/{monitor}"] == pytest.approx(expected)
    # the figures: the very bytes of those in the run folder, each with a caption
    images = {path.read_bytes() for path in tmp_path.glob("wandb/*/files/media/**/*.png")}
    for path in (tmp_path / "figures").glob("*.png"):
        assert path.read_bytes() in images
        (caption,) = best[f"figures/{path.stem}/captions"]
        assert caption
    # the tables, with the names of classes or targets
    for path in (tmp_path / "tables").glob("*.csv"):
        with path.open() as file:
            ours = list(csv.reader(file))
        assert [ours[0], *_cells(tmp_path, path.stem)] == ours


def _cells(folder: Path, name: str) -> Any:
    files = sorted(folder.glob(f"wandb/*/files/media/table/tables/{name}_*.json"))
    return [[str(cell) for cell in row] for row in json.loads(files[-1].read_text())["data"]]


def test_flags_say_what_a_run_is_called_and_where_it_belongs(tmp_path: Path) -> None:
    flags = {"group": "g", "job_type": "j", "notes": "n", "tags": "[a,b]", "log_model": "true"}
    args = [f"--trainer.logger.{name}={value}" for name, value in flags.items()]
    trimtab.main(["fit", *arguments("classifier", "with/wandb"), *args, f"--run_folder={tmp_path}"])
    run = first_run(tmp_path)
    assert (run.run_group, run.job_type, run.notes, list(run.tags)) == ("g", "j", "n", ["a", "b"])
    trained = {name for row in history(tmp_path) for name in row}
    assert {"val/accuracy", "lr-AdamW/pg1"} <= trained
