"""One's own images through the command: trained, then predicted wherever they lie."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trimtab
from tests.helpers.configs import arguments

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def write(path: Path, level: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 12), int(level * 65535), np.uint16)).save(path)


def test_16_bit_images_are_trained_and_predicted_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, level in (("2", 0.1), ("10", 0.8)):
        for number in range(8):
            write(Path("photos", name, f"{number}.png"), level + number / 100)
    write(Path("new/bright.png"), 0.85)
    write(Path("new/deep/dark.png"), 0.15)
    data = ["--data=ImageFolder", "--data.root=photos", "--data.stratify=true"]
    data += [
        "--data.image_size=[6,8]",
        "--data.channels=1",
        "--data.mean=[0.5]",
        "--data.std=[0.3]",
    ]
    fit = ["--model.optimizer.lr=0.03", "--trainer.max_epochs=15", "--run_folder=run", *QUIET]
    # the shape of a config's images is another one
    shape = ["--model.input_shape=null", "--model.num_classes=null"]
    trimtab.main(["fit", *arguments("classifier"), *data, *shape, *fit])
    checkpoint = "--ckpt_path=run/checkpoints/last.ckpt"
    trimtab.main(["predict", checkpoint, "--data=ImageFolder", "--data.root=new", *QUIET])
    with Path("run/predictions.csv").open() as file:
        rows = [(row["file"], row["prediction"]) for row in csv.DictReader(file)]
    assert rows == [("bright.png", "10"), ("deep/dark.png", "2")]


def test_an_augmentation_of_another_size_is_refused_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": 32}}
    augment = f"--data.augment={json.dumps([resize])}"
    with pytest.raises(SystemExit):
        trimtab.main(["fit", *arguments("classifier"), augment, *QUIET])
    assert "augment makes images of shape [1, 32, 32], and eval" in capsys.readouterr().err
