"""A newcomer's journeys with data of their own, by the commands that the README gives."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import trimtab
from framework.data.facts import KEY
from tests.helpers.runs import ROOT

NAMES = ("cat", "dog", "fox")
QUICK = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
# of tables and folders that are smaller than a person's
pytestmark = [
    pytest.mark.usefixtures("elsewhere"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.* have no image for validation"),
]


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


def commands(config: str) -> list[list[str]]:
    """Return the README's commands for a config of one's own data: fit, fit on, test, predict."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Your own data") :]
    (block,) = (
        b for b in re.findall(r"```bash\n(.*?)```", section, re.S) if f"--config {config} " in b
    )
    found = [line.split()[1:] for line in block.splitlines()]
    assert [args[0] for args in found] == ["fit", "fit", "test", "predict"]
    return found


def run(args: list[str], *further: str) -> None:
    trimtab.main([*args, *further, *QUICK])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    size, weight = generator.normal(100, 20, 120), generator.normal(3, 1, 120)
    price = 5 * size - 40 * weight + generator.normal(0, 1, 120)
    table = zip(size, weight, price, strict=True)
    lines = [f"h{k},{s},{w},{p}" for k, (s, w, p) in enumerate(table)]
    Path("my.csv").write_text("\n".join(["house,size,weight,price", *lines]))
    fit, fit_on, test, predict = commands("regressor")
    run(fit, "--data.row_names", "house", "--model.optimizer.lr", ".01")
    folder = Path("runs/regressor/houses")
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    assert (model["num_inputs"], model["num_targets"]) == (2, 1)
    facts = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)[KEY]
    assert facts["feature_names"] == ["size", "weight"]
    run(fit_on)
    run(test)
    assert float(rows(folder / "metrics_test.csv")[0]["test/r2"]) > 0.9

    # rows of the training table, in a table of their own: no target, another order of columns
    lines = [f"{weight[k]},h{k},{size[k]}" for k in (3, 50, 99)]
    Path("new.csv").write_text("\n".join(["weight,house,size", *lines]))
    capfd.readouterr()
    run(predict)
    written = rows(folder / "predictions.csv")
    assert f"3 rows in {folder / 'predictions.csv'}" in capfd.readouterr().out
    assert [row["house"] for row in written] == ["h3", "h50", "h99"]
    found = [float(row["prediction"]) for row in written]
    assert np.abs(found - price[[3, 50, 99]]).max() < 0.5 * price.std()
    predicted = trimtab.load(folder).predict(np.stack([size, weight], 1)[[3, 50, 99]])["prediction"]
    assert predicted.tolist() == pytest.approx(found, rel=1e-5)


def test_images_in_folders_of_classes(capfd: pytest.CaptureFixture[str]) -> None:
    folders(Path("images"))
    fit, fit_on, test, predict = commands("classifier")
    run(fit, "--data.batch_size", "8")
    folder = Path("runs/classifier/pets")
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    assert (model["num_classes"], model["input_shape"]) == (3, [3, 12, 12])
    facts = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)[KEY]
    assert facts["class_names"] == list(NAMES)
    assert facts["input_shape"] == [3, 12, 12]
    run(fit_on)
    # without the first class
    folders(Path("others/test"), names=NAMES[1:], each=3)
    folders(Path("others/train"), names=NAMES[1:], each=3)
    run(test)
    assert float(rows(folder / "metrics_test.csv")[0]["test/accuracy"]) > 0.6

    # further files: one in a folder of its own, of another size, none with a label
    files = ("a.png", "b.png", str(Path("sub", "c.png")))
    for number, (name, brightness) in enumerate(zip(files, (40, 210, 125), strict=True)):
        picture(Path("new") / name, brightness, number, (16, 12))
    capfd.readouterr()
    run(predict)
    written = rows(folder / "predictions.csv")
    assert f"3 rows in {folder / 'predictions.csv'}" in capfd.readouterr().out
    columns = [f"probability_{name}" for name in NAMES]
    assert list(written[0]) == ["index", "file", "prediction", *columns]
    assert [row["file"] for row in written] == list(files)
    module = trimtab.load(folder)
    found = module.predict([f"new/{name}" for name in files])
    assert module.class_names == list(NAMES)
    assert [row["prediction"] for row in written] == [NAMES[k] for k in found["prediction"]]
    probability = [[float(row[column]) for column in columns] for row in written]
    assert torch.tensor(probability).allclose(found["probability"], atol=1e-5)
    # what is bright is never taken for what is dark
    assert (written[0]["prediction"], written[1]["prediction"]) == ("cat", "fox")
