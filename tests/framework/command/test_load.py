"""A loaded module predicts what the command writes, on raw inputs and on batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_diabetes
from torch import Tensor

import trimtab
from framework.data.datasets import root_and_rows
from framework.runs.version_0_1 import current_config
from tests.helpers.runs import ROOT

# small runs of every domain, with the first rows that `trimtab predict` writes of each
FOLDERS = ROOT / "tests" / "version_0_1"
NAMES = sorted(path.parent.name for path in FOLDERS.glob("*/expected.json"))
DETECTORS = {"gghl"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the relative paths of data lie."""
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)


def expected(name: str) -> dict[str, Any]:
    return json.loads((FOLDERS / name / "expected.json").read_text())


def raw_inputs(data: Any) -> Any:
    """Return what a person would have of the predicted samples: nothing of it is normalized."""
    data.setup("predict")
    samples, rows = root_and_rows(data.predict_set, list(range(len(data.predict_set))))
    if hasattr(data, "feature_names"):
        return load_diabetes(scaled=False).data[rows]
    if hasattr(data, "normalization"):
        return np.load(data.path)[rows]
    if hasattr(samples, "parts"):  # the target of a domain pair
        (samples,) = samples.parts
    if hasattr(samples, "fields"):
        return samples.fields["image"][rows]
    return samples.image[rows].numpy()  # uint8


def columns(predictions: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the columns of the prediction file."""
    flat = {}
    for name, values in predictions.items():
        parts = {f"{name}_{k}": v for k, v in enumerate(values.T)} if values.ndim == 2 else {}
        flat |= parts or {name: values}
    return {name: values.numpy() for name, values in flat.items()}


def assert_columns(found: dict[str, np.ndarray], known: dict[str, list]) -> None:
    assert set(found) == set(known)
    for name, values in known.items():
        np.testing.assert_allclose(found[name][: len(values)], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NAMES) - DETECTORS))
def test_predictions_are_those_of_the_command(name):
    module = trimtab.load(FOLDERS / name)
    assert not module.training
    known = expected(name)["predictions"]
    found = module.predict(raw_inputs(module.datamodule))
    assert len(next(iter(found.values()))) == expected(name)["rows"]
    assert_columns(columns(found), {k: v for k, v in known.items() if k != "index"})
    batch = next(iter(module.datamodule.predict_dataloader()))
    rows = len(batch["index"])
    assert_columns(columns(module.predict(batch)), {k: v[:rows] for k, v in known.items()})


def test_detections_are_those_of_the_command():
    module = trimtab.load(FOLDERS / "gghl")
    images = raw_inputs(module.datamodule)
    assert images.dtype == np.uint8
    found = module.predict(images)
    written = expected("gghl")["detections"]
    for label, name in enumerate(module.datamodule.class_names):
        lines = [line.split() for line in written[f"Task1_{name}.txt"]]
        for number, one in enumerate(found):
            known = np.array(
                [list(map(float, line[1:])) for line in lines if int(line[0]) == number]
            )
            mine = one["labels"] == label
            assert mine.sum() == len(known)
            order = one["scores"][mine].argsort(descending=True, stable=True)
            boxes = one["boxes"][mine][order].flatten(1).numpy()
            if len(known):
                known = known[(-known[:, 0]).argsort(kind="stable")]
                np.testing.assert_allclose(boxes, known[:, 1:], atol=0.02)


def test_the_config_comes_along_and_no_data_is_read(tmp_path):
    shutil.copytree(FOLDERS / "sae", tmp_path / "run")
    config = current_config(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()))
    config["data"]["init_args"]["path"] = "absent.npy"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    module = trimtab.load(tmp_path / "run")
    assert module.config == config
    batch = {"activation": torch.ones(3, module.sae.d_in)}
    assert module.predict(batch)["error"].shape == (3,)


def test_a_module_keeps_its_mode_and_needs_no_gradient():
    module = trimtab.load(FOLDERS / "nested").train()
    image = torch.rand(2, 1, 8, 8)
    first = module.predict(image)["probability"]
    assert torch.equal(first, module.predict(image)["probability"])
    assert module.training
    assert not first.requires_grad


def test_pictures(tmp_path):
    module = trimtab.load(FOLDERS / "classifier_aldr")
    gray = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) * 4
    picture = Image.fromarray(gray[0].numpy())
    picture.save(tmp_path / "one.png")
    known = module.predict(gray[None])["probability"]
    for given in (picture, [picture], tmp_path / "one.png", [str(tmp_path / "one.png")]):
        torch.testing.assert_close(module.predict(given)["probability"], known)


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("nested", torch.zeros(1, 8, 8), r"Images must be \(N, C, H, W\), .* got \(1, 8, 8\) of"),
        ("nested", np.zeros((1, 1, 8, 8), int), r"got \(1, 1, 8, 8\) of torch.int64"),
        ("nested", torch.zeros(1, 1, 9, 9), r"must be \(N, 1, 8, 8\), got \(1, 1, 9, 9\)"),
        ("nested", torch.full((1, 1, 8, 8), 16.0), r"must lie in \[0, 1\], got \[16, 16\]"),
        ("nested", torch.full((1, 1, 8, 8), torch.nan), r"must lie in \[0, 1\], got \[nan, nan\]"),
        ("nested", 3, "or an array .*, paths or PIL images, got a int"),
        ("nested", "absent.png", "absent.png cannot be decoded as an image"),
        ("regressor", np.zeros((2, 3)), r"the shape \(N, 10\), got \(2, 3\)"),
        ("sae", np.zeros(3), r"the shape \(N, D\), got \(3,\)"),
    ],
)
def test_wrong_inputs(name, inputs, words):
    with pytest.raises(ValueError, match=words):
        trimtab.load(FOLDERS / name).predict(inputs)


def test_a_module_without_a_run():
    with pytest.raises(ValueError, match=r"Classifier knows no datamodule .* load it by"):
        trimtab.Classifier(num_classes=10, input_shape=(1, 8, 8)).predict(torch.zeros(1, 1, 8, 8))


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint at .*absent.ckpt"):
        trimtab.load(tmp_path / "absent.ckpt")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        trimtab.load(tmp_path)
    shutil.copy(FOLDERS / "nested" / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    with pytest.raises(FileNotFoundError, match=r"alone.ckpt lies in no run folder"):
        trimtab.load(tmp_path / "alone.ckpt")
    (tmp_path / "config.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="is no config of a run: it has no 'model'"):
        trimtab.load(tmp_path / "alone.ckpt")
    (tmp_path / "config.yaml").write_text("model: [1,\n  b: }\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        trimtab.load(tmp_path / "alone.ckpt")


def config_beside(folder: Path, **model: Any) -> Path:
    """Return a checkpoint beside a config with another model."""
    shutil.copytree(FOLDERS / "nested", folder, dirs_exist_ok=True)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] = {**config["model"], **model}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "checkpoints" / "last.ckpt"


def test_a_config_of_a_stranger_runs_nothing(tmp_path):
    path = config_beside(tmp_path, class_path="os.system", init_args={"command": "true"})
    with pytest.raises(ValueError, match=r"os.* not in a trusted package .* allow=\['os'\]"):
        trimtab.load(path)
    path = config_beside(tmp_path, class_path="torch.hub.load", init_args={})
    with pytest.raises(
        ValueError, match=r"torch.hub.load is no EvaluationModule that a config may name"
    ):
        trimtab.load(path)
    path = config_beside(tmp_path, class_path="torch.nn.Linear", init_args={})
    with pytest.raises(ValueError, match=r"model: torch.nn.Linear is no EvaluationModule"):
        trimtab.load(path)


def test_another_model_than_the_checkpoint_s(tmp_path):
    path = config_beside(
        tmp_path,
        class_path="modules.Classifier",
        init_args={"num_classes": 3, "input_shape": [1, 8, 8]},
    )
    with pytest.raises(ValueError, match=r"last.ckpt does not fit the model of its config: Error"):
        trimtab.load(path)


def test_weights_that_a_checkpoint_replaces_are_not_downloaded(tmp_path):
    path = config_beside(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["model"]["init_args"]["pretrained"] = True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert trimtab.load(path).config["model"]["init_args"]["pretrained"] is True


def test_a_given_model_takes_the_state_and_no_config_is_read(tmp_path):
    known = trimtab.load(FOLDERS / "classifier_aldr")
    shutil.copytree(FOLDERS / "classifier_aldr", tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("model: [")
    arguments = known.config["model"]["init_args"]
    sizes = {name: arguments[name] for name in ("num_classes", "input_shape", "backbone", "widths")}
    model = trimtab.Classifier(**sizes)
    loaded = trimtab.load(tmp_path / "run", model=model)
    assert loaded is model
    assert not loaded.training
    batch = {"image": torch.rand(3, 1, 8, 8), "index": torch.arange(3)}
    torch.testing.assert_close(loaded.predict(batch), known.predict(batch))
    other = trimtab.Classifier(**{**sizes, "widths": (3,)})
    with pytest.raises(ValueError, match="does not fit the given model: Error"):
        trimtab.load(tmp_path / "run", model=other)
