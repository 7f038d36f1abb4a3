"""A newcomer's journeys with data of their own, by the commands that the README gives."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import trimtab
from framework.data.facts import KEY

NAMES = ("cat", "dog", "fox")
QUICK = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
# of tables and folders that are smaller than a person's
pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.* have no image for validation"),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def picture(path: Path, brightness: int, seed: int, size: tuple[int, int] = (14, 12)) -> None:
    """Write a noisy picture in color, on whose brightness its class can be told."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((brightness + noise).clip(0, 255).astype(np.uint8)).save(path)


def folders(root: Path, names: tuple[str, ...] = NAMES, each: int = 20) -> None:
    for name in names:
        for number in range(each):
            brightness = 40 + 85 * NAMES.index(name) if name in NAMES else 0
            picture(root / name / f"{number}.png", brightness, number)


def run(*args: str) -> None:
    trimtab.main([*args, *QUICK])


def run_folder(config: str) -> Path:
    (found,) = Path("runs", config).iterdir()
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    size, weight = generator.normal(100, 20, 120), generator.normal(3, 1, 120)
    price = 5 * size - 40 * weight + generator.normal(0, 1, 120)
    lines = [f"h{k},{s},{w},{p}" for k, (s, w, p) in enumerate(zip(size, weight, price))]  # noqa: B905
    Path("my.csv").write_text("\n".join(["house,size,weight,price", *lines]))
    run("fit", "--config", "regressor", "--data.source", "my.csv", "--data.target", "price",
        "--data.row_names", "house", "--model.optimizer.lr", ".01")  # fmt: skip
    folder = run_folder("regressor")
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    assert (model["num_inputs"], model["num_targets"]) == (2, 1)
    facts = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)[KEY]
    assert facts["feature_names"] == ["size", "weight"]
    run("fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "41")
    run("test", "--ckpt_path", str(folder))
    assert float(rows(folder / "metrics_test.csv")[0]["test/r2"]) > 0.9

    # rows of the training table, in a table of their own: no target, other columns, another order
    lines = [f"{weight[k]},h{k},{size[k]}" for k in (3, 50, 99)]
    Path("NEW.csv").write_text("\n".join(["weight,house,size", *lines]))
    capfd.readouterr()
    run("predict", "--ckpt_path", str(folder), "--data.source", "NEW.csv")
    written = rows(folder / "predictions.csv")
    assert f"3 rows in {folder / 'predictions.csv'}" in capfd.readouterr().out
    assert [row["house"] for row in written] == ["h3", "h50", "h99"]
    found = [float(row["prediction"]) for row in written]
    assert np.abs(found - price[[3, 50, 99]]).max() < 0.5 * price.std()
    table = np.stack([size, weight], 1)[[3, 50, 99]]
    predicted = trimtab.load(folder).predict(table)["prediction"]
    assert predicted.tolist() == pytest.approx(found, rel=1e-5)


def test_images_in_folders_of_classes(capfd: pytest.CaptureFixture[str]) -> None:
    folders(Path("images"))
    run("fit", "--config", "classifier", "--data", "ImageFolder", "--data.root", "images",
        "--trainer.max_epochs", "60")  # fmt: skip
    folder = run_folder("classifier")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    model = config["model"]["init_args"]
    assert (model["num_classes"], model["input_shape"]) == (3, [3, 12, 12])
    facts = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)[KEY]
    assert facts["class_names"] == list(NAMES)
    assert facts["input_shape"] == [3, 12, 12]

    run("fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "61")
    folders(Path("others/test"), each=3)
    folders(Path("others/train"), each=3)
    last = str(folder / "checkpoints" / "last.ckpt")  # the best may be one of the first
    run("test", "--ckpt_path", last, "--data.root", "others")
    assert rows(folder / "metrics_test.csv")[0]["test/accuracy"] == "1.0"

    # further files: some in a folder of their own, of another size, none with a label
    for number, (name, brightness) in enumerate((("a", 40), ("b", 210), ("sub/c", 125))):
        picture(Path("new") / f"{name}.png", brightness, number, (16, 12))
    capfd.readouterr()
    run("predict", "--ckpt_path", last, "--data.root", "new")
    written = rows(folder / "predictions.csv")
    assert list(written[0]) == [
        "index", "file", "prediction", "probability_cat", "probability_dog", "probability_fox"
    ]  # fmt: skip
    assert [(row["file"], row["prediction"]) for row in written] == [
        ("a.png", "cat"),
        ("b.png", "fox"),
        (str(Path("sub", "c.png")), "dog"),
    ]
    assert f"3 rows in {folder / 'predictions.csv'}" in capfd.readouterr().out

    model = trimtab.load(last)
    found = model.predict(["new/a.png", "new/b.png", "new/sub/c.png"])
    assert [model.class_names[k] for k in found["prediction"]] == [
        "cat",
        "fox",
        "dog",
    ]
