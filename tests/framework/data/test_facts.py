"""What training measured is in the checkpoint and used again, whatever the datamodule's class."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import trimtab
from datamodules.image_data import ImageData, Splits
from datamodules.image_datasets import ImageSet
from framework.data.facts import KEY, facts_of, match_classes, read_facts, same_facts
from framework.objectives.errors import IncompatibleError
from modules import Classifier
from tests.helpers.tiny import tiny_trainer

NAMES = ["cat", "dog", "fox"]
BRIGHTNESS = {"cat": 0.1, "dog": 0.5, "fox": 0.9, "zebra": 0.3}


class Pets(ImageData):
    """Pictures whose brightness tells the class, the classes numbered in any order."""

    input_shape = (1, 2, 2)

    def __init__(self, names: list[str] = NAMES, origin: str = "home", **options: Any) -> None:
        super().__init__(batch_size=6, **options)
        self.names = names
        self.origin = [origin]

    def read(self) -> Splits:
        label = torch.arange(24) % len(self.names)
        bright = torch.tensor([BRIGHTNESS[name] for name in self.names])[label]
        self.class_names, self.num_classes = self.names, len(self.names)
        images = bright.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
        return Splits(ImageSet(image=images, label=label), None, None)

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            self.train_set = self.read_normalized().train
            self.val_set = self.test_set = self.predict_set = self.train_set


def trainer(folder: Path, **options: Any) -> Trainer:
    return tiny_trainer(folder, [], False, **{"enable_checkpointing": False, **options})


def trained(folder: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    data = Pets(**options)
    module = Classifier.for_data(
        data, widths=(16,), optimizer=lambda p: torch.optim.Adam(p, lr=0.05)
    )
    fit = trainer(folder, max_epochs=30)
    fit.fit(module, data)
    fit.save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"), mean=[0.5], std=[0.25])


def test_the_checkpoint_has_plain_facts(checkpoint: Path) -> None:
    facts = torch.load(checkpoint, weights_only=True)[KEY]
    assert facts == {
        "origin": ["home"],
        "num_classes": 3,
        "class_names": NAMES,
        "input_shape": [1, 2, 2],
        "normalize": {"mean": [0.5], "std": [0.25]},
    }
    assert read_facts(checkpoint) == facts


def fresh() -> Classifier:
    return Classifier(num_classes=3, input_shape=(1, 2, 2), widths=(16,))


@pytest.mark.parametrize("names", [["fox", "dog", "cat"], ["fox", "dog"]])
def test_classes_are_matched_by_name_and_images_normalized(
    checkpoint: Path, tmp_path: Path, names: list[str]
) -> None:
    data = Pets(names, origin="elsewhere")
    (values,) = trainer(tmp_path).test(fresh(), data, ckpt_path=checkpoint, verbose=False)
    assert values["test/accuracy"] == 1
    assert data.class_names == NAMES
    assert data.num_classes == 3


def test_classes_that_were_not_trained_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    data = Pets(["dog", "fox", "zebra"], origin="the zoo")
    with pytest.raises(
        IncompatibleError,
        match=r"the zoo has the classes dog, fox, zebra, and the model was trained on cat, dog, "
        r"fox: zebra cannot be told by it",
    ):
        trainer(tmp_path).test(fresh(), data, ckpt_path=checkpoint, verbose=False)


def test_a_module_that_was_trained_here_hands_its_facts_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = Pets()
    module = Classifier.for_data(
        data, widths=(16,), optimizer=lambda p: torch.optim.Adam(p, lr=0.05)
    )
    fit = trainer(tmp_path, max_epochs=30)
    fit.fit(module, data)
    (values,) = fit.test(module, Pets(["fox", "cat"], origin="elsewhere"), verbose=False)
    assert values["test/accuracy"] == 1
    assert module.class_names == NAMES


def test_facts_of_many_classes_are_listed_in_part() -> None:
    many = [f"c{k}" for k in range(1000)]
    with pytest.raises(IncompatibleError, match=r"c18, c19 and 980 more: new cannot be told") as e:
        match_classes(["c1", "new"], many, "x")
    assert len(str(e.value)) < 300


def test_facts_compare() -> None:
    one = {"a": torch.ones(2), "b": {"c": [1]}}
    assert same_facts(one, {"a": torch.ones(2), "b": {"c": [1]}})
    assert not same_facts(one, {"a": torch.zeros(2), "b": {"c": [1]}})
    assert not same_facts(one, {"a": torch.ones(2)})
    assert facts_of(object()) == {}


def test_what_is_no_checkpoint_has_no_facts(tmp_path: Path) -> None:
    assert read_facts(tmp_path / "absent.ckpt") == {}
    (tmp_path / "a.ckpt").write_bytes(b"no checkpoint")
    assert read_facts(tmp_path / "a.ckpt") == {}


def test_the_command_fills_what_the_config_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"]
    trimtab.main(["fit", "--config", "regressor", *quick])
    (folder,) = (tmp_path / "runs" / "regressor").iterdir()
    text = (folder / "config.yaml").read_text()
    assert "num_inputs: 10" in text
    assert "num_targets: 1" in text
    facts = read_facts(folder / "checkpoints" / "last.ckpt")
    assert facts["target_names"] == ["progression"]
    trimtab.main(["predict", "--ckpt_path", str(folder), quick[0]])
    with (folder / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 92


def test_another_number_of_classes_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        trimtab.main(["fit", "--config", "classifier", "--model.num_classes", "12"])
    assert "Digits has num_classes 10, but the model was built for 12: set model.num_classes to " \
        "10." in capfd.readouterr().err  # fmt: skip


def test_arguments_that_nothing_fills() -> None:
    with pytest.raises(
        ValueError, match=r"set model\.num_classes and model\.input_shape, .*for_data\(data\)"
    ):
        Classifier()
