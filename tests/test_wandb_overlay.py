"""The W&B overlay, offline: everything a dashboard needs was really logged."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

import trimtab
from tests.helpers.configs import arguments
from tests.helpers.wandb_file import config, history

pytestmark = pytest.mark.pictures


def test_the_run_holds_terms_metrics_rates_config_and_figures(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    args = arguments("classifier", "with/saf", "with/wandb")
    trimtab.main(["fit", *args, f"--run_folder={tmp_path}"])
    rows = history(tmp_path)
    logged = {name for row in rows for name in row}
    # every loss term of each step and epoch, every metric, the learning rate
    terms = {"loss", "classification", "saf", "saf_valid"}
    assert {f"train/{term}" for term in terms} <= logged
    assert {f"train/{term}_epoch" for term in terms} <= logged
    metrics = {"loss", "accuracy", "accuracy_top5", "calibration_error"}
    assert {f"val/{metric}" for metric in metrics} <= logged
    assert any(name.startswith("lr-") for name in logged)
    # nothing that metrics.csv has is missing, and the values agree
    with (tmp_path / "metrics.csv").open() as file:
        kept = list(csv.DictReader(file))
    assert set(kept[0]) - {"step"} <= logged
    for name in ("train/saf", "val/accuracy"):
        ours = [float(row[name]) for row in kept if row[name]]
        assert ours == [row[name] for row in rows if name in row]
    # the config, whole
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    found = config(tmp_path)
    assert found["model"] == saved["model"]
    assert found["trainer"]["callbacks"] == saved["trainer"]["callbacks"]
    # the figures: the very bytes of those in the run folder
    images = {path.read_bytes() for path in tmp_path.glob("wandb/*/files/media/**/*.png")}
    figures = list((tmp_path / "figures").glob("*.png"))
    assert {path.stem for path in figures} == {
        "learning_curves",
        "val_class_scores",
        "val_confusion_matrix",
    }
    for path in figures:
        assert path.read_bytes() in images


def test_detections_are_seen_on_the_dashboard(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    args = arguments("gghl", "with/wandb")
    args = [*args, "--trainer.max_epochs=1", f"--run_folder={tmp_path}"]
    trimtab.main(["fit", *args])
    logged = {name for row in history(tmp_path) for name in row}
    assert {"train/class_positive", "train/vertices", "val/map_50", "val/map_50_voc07"} <= logged
    images = {path.read_bytes() for path in tmp_path.glob("wandb/*/files/media/**/*.png")}
    for name in ("val_detections", "val_precision_recall"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes() in images


def test_weights_of_terms_and_features_are_seen_on_the_dashboard(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    args = arguments("paretoda", "with/wandb")
    trimtab.main(["fit", *args, f"--run_folder={tmp_path}"])
    rows = history(tmp_path)
    logged = {name for row in rows for name in row}
    terms = ("alignment", "classification", "mimicking")
    wanted = {f"train/preference/{kind}/{t}" for kind in ("weight", "guide") for t in terms}
    wanted |= {f"train/preference/{name}" for name in ("mode", "feasible", "fallback")}
    wanted |= {"train/preference/guide_loss", "train/preference/cosine/alignment/mimicking"}
    wanted |= {"val/accuracy", "val/accuracy_per_class", "val/discriminator_accuracy"}
    assert wanted | {"val/guide_loss"} <= logged
    weights = [[row.get(f"train/preference/weight/{t}", 0.0) for t in terms] for row in rows]
    assert all(abs(sum(w) - 1) < 1e-9 for w in weights if any(w))
    images = {path.read_bytes() for path in tmp_path.glob("wandb/*/files/media/**/*.png")}
    for name in ("preference_weights", "preference_cosines", "val_features"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes() in images
