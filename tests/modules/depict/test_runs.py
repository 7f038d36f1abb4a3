"""Whole runs from the command: on two ranks, killed between phases, without labels, on W&B."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score

import trimtab
from framework.clustering.cluster_accuracy import cluster_accuracy
from framework.clustering.contingency_table import ContingencyTable
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import CONFIGS, QUIET, fit
from tests.helpers.wandb_file import history
from tests.test_resume import assert_same_bits, kill_and_resume

FLOAT64 = ["--trainer.precision=64-true", "--trainer.logger=false"]


class Tables(Callback):
    """Keeps what is remembered of every sample at each epoch's end."""

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer, pl_module):
        every = torch.arange(pl_module.assignments.num_samples)
        names = ("assignments", "targets", "first_label")
        self.kept.append({name: getattr(pl_module, name).read(every) for name in names})


def tables(args: list[str], *ranks: str) -> list[dict[str, torch.Tensor]]:
    watch = Tables()
    fit([*args, *FLOAT64, *ranks], extra=[watch])
    return watch.kept


DDP = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu")


@pytest.mark.parametrize("refresh", ["running", one_of_many("full", quick=False)])
def test_two_ranks_have_the_targets_of_one_process(refresh, tmp_path, two_ranks) -> None:
    # the config itself, with nothing held out, is in the parity harness
    args = [*arguments("depict"), f"--model.refresh={refresh}", "--model.held_out=0.1"]
    one = tables([*args, f"--run_folder={tmp_path / 'one'}"])
    both = two_ranks(tables, [*args, f"--run_folder={tmp_path / 'two'}"], *DDP)
    assert len(one) == 4
    for ours, *others in zip(one, *both, strict=True):
        for theirs in others:
            assert torch.equal(ours["first_label"], theirs["first_label"])
            for name in ("assignments", "targets"):
                torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    assert float((one[-1]["targets"].sum(1) - 1).abs().max()) < 1e-6


# steps 3, 6 and 9 are the first of a phase: the last checkpoint is of the end of the one before
@pytest.mark.parametrize(
    "kill_at", [6, *(one_of_many(step, quick=False) for step in (3, 4, 9, 10))]
)
def test_a_kill_between_two_phases_loses_nothing(kill_at, tmp_path: Path) -> None:
    args = [*arguments("depict"), "--model.held_out=0.1"]
    assert_same_bits(*kill_and_resume(args, tmp_path, kill_at))
    whole, killed = (tmp_path / name / "metrics.csv" for name in ("whole", "killed"))
    assert rows(whole) == rows(killed)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_kill_inside_a_running_refresh_loses_nothing(tmp_path: Path) -> None:
    args = [*arguments("depict"), "--model.refresh=running"]
    assert_same_bits(*kill_and_resume(args, tmp_path, kill_at=11))


def predictions(folder: Path) -> dict[str, np.ndarray]:
    found = rows(folder / "predictions.csv")
    numbers = [name for name in found[0] if name != "file"]
    return {name: np.array([float(row[name]) for row in found]) for name in numbers}


def last(folder: Path, file: str, column: str) -> float:
    return [float(row[column]) for row in rows(folder / file) if row[column]][-1]


def test_the_metrics_are_those_of_the_predictions(tmp_path: Path) -> None:
    args = [*arguments("depict"), *QUIET, f"--run_folder={tmp_path}"]
    trimtab.main(["fit", *args])
    best = f"--ckpt_path={tmp_path / 'checkpoints' / 'best.ckpt'}"
    trimtab.main(["predict", *args, best])
    trimtab.main(["test", *args, best])
    found = predictions(tmp_path)
    assert list(found) == ["index", "cluster", "probability"]
    assert found["index"].tolist() == list(range(250))
    cluster = found["cluster"].astype(int)
    label = labels_of_the_pool()
    table = ContingencyTable(10, 10)
    table.update(torch.from_numpy(cluster), label)
    nmi = normalized_mutual_info_score(label, cluster, average_method="geometric")
    for file, stage in (("metrics.csv", "val"), ("metrics_test.csv", "test")):
        expected = cluster_accuracy(table.compute())
        assert last(tmp_path, file, f"{stage}/accuracy") == pytest.approx(expected, abs=1e-6)
        assert last(tmp_path, file, f"{stage}/nmi_geometric") == pytest.approx(nmi, abs=1e-6)
        smallest = np.bincount(cluster, minlength=10).min() / 250
        assert last(tmp_path, file, f"{stage}/smallest_cluster") == pytest.approx(smallest)
        mean = found["probability"].mean()
        assert last(tmp_path, file, f"{stage}/max_probability") == pytest.approx(mean, abs=1e-5)
    # the report of the run holds the baselines too
    names = {"kmeans_pixels", "kmeans_code", "head", "dec"}
    for name in names:
        assert 0 < last(tmp_path, "metrics.csv", f"val/accuracy/{name}") <= 1


def labels_of_the_pool() -> torch.Tensor:
    from datamodules import Digits

    data = Digits(test_size=250)
    data.setup("test")
    label = data.test_set.fields["label"]
    assert len(label) == 250
    return label


@pytest.mark.pictures
def test_images_without_labels_are_clustered(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(load_digits().images[:60]):
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number:02d}.png")
    args = [
        f"--config={CONFIGS / 'depict.yaml'}",
        f"--config={Path(__file__).parents[2] / 'shrink' / 'depict.yaml'}",
        "--data.parts=null",
        "--data.data=ImageList",
        f"--data.data.root={folder}",
        "--data.data.image_size=8",
        "--data.data.channels=1",
        "--data.data.mean=[0.5]",
        "--data.data.std=[0.5]",
        "--model.num_clusters=4",
        *QUIET,
        f"--run_folder={tmp_path / 'run'}",
    ]
    trimtab.main(["fit", *args])
    columns = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "val/smallest_cluster" in columns
    assert not [name for name in columns if "accuracy" in name or "nmi" in name]
    # three phases: DEC's baseline would have nothing to be measured by
    assert last(tmp_path / "run", "metrics.csv", "train/phase") == 2
    figures = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert figures == {"learning_curves", "val_clusters", "val_codes"}
    trimtab.main(["predict", *args, f"--ckpt_path={tmp_path / 'run' / 'checkpoints/last.ckpt'}"])
    assert len(predictions(tmp_path / "run")["cluster"]) == 60


def test_predictions_before_there_are_clusters_say_so(tmp_path: Path, caplog: Any) -> None:
    args = [*arguments("depict"), *QUIET, f"--run_folder={tmp_path}"]
    trimtab.main(["fit", *args, "--trainer.max_epochs=1"])
    best = f"--ckpt_path={tmp_path / 'checkpoints' / 'best.ckpt'}"
    for command in ("predict", "test", "validate"):
        trimtab.main([command, *args, best, "--data.eval_batch_size=100"])
    said = [record.getMessage() for record in caplog.records]
    assert sum("ended in the phase 'autoencoder'" in text for text in said) == 1
    assert sum("its assignments mean nothing" in text for text in said) == 3


@pytest.mark.parametrize("std", [0.5, 0.3])
def test_images_that_tanh_cannot_reach_are_named_once(std: float, tmp_path: Path, caplog) -> None:
    args = [*arguments("depict"), *QUIET, f"--run_folder={tmp_path}"]
    few = ["--trainer.max_epochs=2", "--trainer.logger=false", "--trainer.limit_val_batches=0"]
    trimtab.main(["fit", *args, *few, "--checkpoint.monitor=null", f"--data.data.std=[{std}]"])
    said = [r.getMessage() for r in caplog.records if "tanh" in r.getMessage()]
    assert len(said) == (std < 0.5)
    assert all(text.startswith("The images lie in [-1.67, 1.67], and DEPICT's") for text in said)


def test_the_best_checkpoint_is_of_a_phase_that_has_scores(tmp_path: Path) -> None:
    for monitor, mode in (("val/accuracy", "max"), ("val/loss", "min")):
        args = [*arguments("depict"), *QUIET, f"--run_folder={tmp_path / mode}"]
        trimtab.main(["fit", *args, f"--checkpoint.monitor={monitor}", f"--checkpoint.mode={mode}"])
        best = torch.load(tmp_path / mode / "checkpoints" / "best.ckpt", weights_only=True)
        assert best["depict"]["part"]["name"] in ("head", "joint")


def test_other_data_is_not_compared_with_the_baselines(tmp_path: Path) -> None:
    args = [*arguments("depict"), *QUIET, f"--run_folder={tmp_path}"]
    trimtab.main(["fit", *args])
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(load_digits().images[:20]):
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number:02d}.png")
    other = [
        "--data.parts=null",
        "--data.data=ImageList",
        f"--data.data.root={folder}",
        "--data.data.image_size=8",
        "--data.data.channels=1",
        "--data.data.mean=[0.5]",
        "--data.data.std=[0.5]",
    ]
    best = f"--ckpt_path={tmp_path / 'checkpoints' / 'best.ckpt'}"
    trimtab.main(["validate", *args, *other, best])
    names = (tmp_path / "metrics_validate.csv").read_text().splitlines()[0].split(",")
    assert "val/smallest_frequency" in names
    assert not [name for name in names if "accuracy" in name]


@pytest.mark.pictures
def test_wandb_has_scores_baselines_and_figures(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    args = arguments("depict", "with/wandb")
    trimtab.main(["fit", *args, *QUIET, f"--run_folder={tmp_path}"])
    logged = {name for row in history(tmp_path) for name in row}
    balance = {"smallest_frequency", "smallest_cluster", "max_probability"}
    scores = {"accuracy", "nmi_geometric", "adjusted_rand"} | balance
    assert {f"val/{name}" for name in scores} <= logged
    assert {f"val/accuracy/{name}" for name in ("kmeans_pixels", "kmeans_code", "dec")} <= logged
    assert {"train/reconstruction", "train/clustering", "train/target_change_epoch"} <= logged
    images = {path.read_bytes() for path in tmp_path.glob("wandb/*/files/media/**/*.png")}
    figures = list((tmp_path / "figures").glob("*.png"))
    assert {path.stem for path in figures} == {
        "learning_curves",
        "val_clusters",
        "val_codes",
        "val_confusion_matrix",
        "val_stages",
    }
    for path in figures:
        assert path.read_bytes() in images


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_targets_improve_on_their_start(seed, tmp_path: Path) -> None:
    base = [f"--config={CONFIGS / 'depict.yaml'}", f"--seed_everything={seed}"]
    for target in ("sqrt", "square"):
        folder = f"--run_folder={tmp_path / target}"
        found = fit([*base, f"--model.target={target}", folder]).metrics
        assert found["val/accuracy"] >= found["val/accuracy/kmeans_code"] + 0.01
        if target == "sqrt":
            assert found["val/smallest_frequency"] >= 0.07
        else:
            assert found["val/max_probability"] >= 0.95
