"""Short runs on real data beat their baselines by the margins that the configs and papers state."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

import trimtab
from tests.helpers.data import shared_data
from tests.helpers.runs import CONFIGS, QUIET, fit


def test_the_demo_reaches_what_its_header_says(tmp_path: Path) -> None:
    args = [f"--config={CONFIGS / 'classifier.yaml'}", f"--run_folder={tmp_path}"]
    assert fit(args).metrics["val/accuracy"] >= 0.96


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mnist_reaches_985_within_five_epochs(tmp_path: Path) -> None:
    data = shared_data("mnist")
    args = [f"--config={CONFIGS / 'classifier_mnist.yaml'}", f"--data.root={data}", *QUIET]
    args = [*args, f"--run_folder={tmp_path}"]
    trimtab.main(["fit", *args])
    best = tmp_path / "checkpoints" / "best.ckpt"
    trimtab.main(["test", *args, f"--ckpt_path={best}"])
    names, *rows = (tmp_path / "metrics_test.csv").read_text().split()
    accuracy = dict(zip(names.split(","), rows[-1].split(","), strict=True))["test/accuracy"]
    assert float(accuracy) >= 0.985


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_oriented_boxes_are_found_on_rendered_scenes(tmp_path: Path) -> None:
    """Half of the config's steps: above 0.75, and far above boxes that cannot turn."""
    args = [f"--config={CONFIGS / 'gghl.yaml'}", "--trainer.max_epochs=10"]
    args = [*args, "--trainer.check_val_every_n_epoch=10"]
    precision = {}
    for name, change in (("oriented", []), ("horizontal", ["--model.loss.oriented=false"])):
        folder = f"--run_folder={tmp_path / name}"
        precision[name] = fit([*args, *change, folder]).metrics["val/map_50"]
    assert precision["oriented"] >= 0.75
    assert precision["oriented"] - precision["horizontal"] >= 0.3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_weighed_gradients_adapt_better_than_alignment_alone(tmp_path: Path) -> None:
    """Pareto domain adaptation against DANN: turned digits, three seeds, after the last step."""
    args = [f"--config={CONFIGS / 'paretoda.yaml'}", "--trainer.check_val_every_n_epoch=27"]
    args = [*args, "--trainer.logger=false", "--trainer.num_sanity_val_steps=0"]
    accuracy: dict[str, list[float]] = {"descent": [], "dann": []}
    for seed in range(3):
        for name, change in (
            ("descent", []),
            ("dann", ["--model.mimicking=0", "--trainer.callbacks=null"]),
        ):
            folder = tmp_path / f"{name}{seed}"
            more = [f"--seed_everything={seed}", f"--run_folder={folder}"]
            record = fit([*args, *change, *more])
            accuracy[name].append(record.metrics["val/accuracy"])
    means = {name: statistics.mean(values) for name, values in accuracy.items()}
    assert means["descent"] >= means["dann"] + 0.10, accuracy


NOISY = [
    f"--config={CONFIGS / 'noisy_mnist.yaml'}",
    "--trainer.check_val_every_n_epoch=30",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.logger=false",
]
LOSSES = {
    "cross-entropy": ["--model.criterion=CrossEntropyLoss"],
    "comp-sum 1.7": ["--model.criterion=CompSumLoss", "--model.criterion.tau=1.7"],
    "LDR 10": [
        "--model.criterion=LDRLoss",
        "--model.criterion.lam=10",
        "--model.criterion.normalize=l1",
    ],
    "ALDR 10": ["--model.criterion=ALDRLoss", "--model.criterion.lam0=10"],
}


@pytest.mark.slow
def test_robust_losses_beat_cross_entropy_under_label_noise(tmp_path: Path) -> None:
    root = f"--data.root={shared_data('mnist')}"
    accuracy = {}
    for name, loss in LOSSES.items():
        runs = []
        for seed in (0, 1):
            folder = f"--run_folder={tmp_path / name / str(seed)}"
            record = fit([*NOISY, root, *loss, f"--seed_everything={seed}", folder])
            runs.append(record.metrics["val/accuracy"])
        accuracy[name] = statistics.mean(runs)
    print({name: round(value, 4) for name, value in accuracy.items()})  # noqa: T201
    for name in ("comp-sum 1.7", "LDR 10", "ALDR 10"):
        assert accuracy[name] >= accuracy["cross-entropy"] + 0.05, accuracy
