"""What a person gets to read: a one-line message for every mistake, and nothing half-written."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

import trimtab
from framework.data.datamodule import DataModule
from framework.losses import LDRLoss
from tests.helpers.command import refused
from tests.helpers.configs import arguments
from tests.helpers.runs import CONFIGS, QUIET

BASE = arguments("classifier")
TWO_STEPS = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", *QUIET]

pytestmark = pytest.mark.usefixtures("elsewhere")


# ---- the command line and the config ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: [1,\n  b: }\n", "not valid YAML"),
        ("- a\n- b\n", "a config must be a mapping"),
        ("", "a config must be a mapping"),
        (
            "model:\n  class_path: Classifier\n  init_args:\n    nonsense: 1\n",
            "model: Classifier has no argument 'nonsense'",
        ),
        ("trainer:\n  nonsense: 1\n", "there is no setting 'trainer.nonsense'"),
        (
            "trainer:\n  max_epoch: 1\n",
            "there is no setting 'trainer.max_epoch'; the nearest are trainer.max_epochs",
        ),
        ("modl:\n  class_path: x\n", "a config has no section 'modl'; the nearest are model"),
    ],
)
def test_a_wrong_config(text, words, capsys):
    Path("own.yaml").write_text(text)
    assert words in refused(["fit", *BASE, "--config=own.yaml"], capsys)


def test_without_arguments_it_shows_its_help(capsys):
    with pytest.raises(SystemExit) as stop:
        trimtab.main([])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "report", "new", "configs", "--allow"):
        assert command in shown


def test_an_abbreviated_option_is_unknown(capsys):
    assert "no option" in refused(["fit", *BASE, "--trainer.max_epoch=1", *TWO_STEPS], capsys)


@pytest.mark.parametrize("wrong", ["devices=0", "max_steps=-7", "limit_val_batches=-7"])
def test_what_lightning_refuses(wrong, capsys):
    refused(["fit", *BASE, *TWO_STEPS, f"--trainer.{wrong}"], capsys)


# ---- whom a config may name ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("model.optimizer", "os.system"),
        ("model.optimizer", "torch.os.system"),
        ("model.optimizer", "torch.hub.load"),
        ("model.optimizer", "torch.load"),
        ("model.optimizer", "torch.utils.cpp_extension.load"),
        ("model.criterion", "builtins.eval"),
        ("model", "subprocess.Popen"),
        ("data", "subprocess.Popen"),
        ("trainer.callbacks+", "subprocess.Popen"),
        ("trainer.logger", "subprocess.Popen"),
    ],
)
def test_foreign_code_is_not_called(setting, path, capsys):
    assert "was not imported" in refused(["fit", *BASE, f"--{setting}={path}", *TWO_STEPS], capsys)


FOREIGN = """
import pathlib
pathlib.Path({trace!r}).touch()
from framework.losses import LDRLoss
class Own(LDRLoss):
    pass
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``foreign`` that can be imported, and the file that shows whether it was."""
    trace = tmp_path / "imported"
    (tmp_path / "foreign.py").write_text(FOREIGN.format(trace=str(trace)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    return trace


@pytest.mark.parametrize("where", ["flag", "config", "callbacks"])
def test_nothing_of_a_package_that_is_not_trusted_is_imported(where, foreign, capsys):
    config = "model:\n  init_args:\n    criterion:\n      class_path: foreign.Own\n"
    Path("own.yaml").write_text(config)
    args = {
        "flag": ["--model.criterion=foreign.Own"],
        "config": ["--config=own.yaml"],
        "callbacks": ["--trainer.callbacks+=foreign.Own"],
    }[where]
    said = refused(["fit", *BASE, *args, *TWO_STEPS], capsys)
    assert "foreign.Own is not in a trusted package and was not imported; use --allow for" in said
    assert not foreign.exists()
    assert "foreign" not in sys.modules


@pytest.mark.parametrize("how", ["flag", "equals", "environment"])
def test_a_package_that_is_allowed_is_used(how, foreign, monkeypatch):
    args = {"flag": ["--allow", "foreign"], "equals": ["--allow=foreign"], "environment": []}[how]
    if how == "environment":
        monkeypatch.setenv("TRIMTAB_ALLOW", "other,foreign")
    trimtab.main(["fit", *BASE, *args, "--model.criterion=foreign.Own", *TWO_STEPS])
    assert foreign.exists()


def test_a_checkpoint_that_names_a_command_is_not_run(capsys):
    class Command:
        def __reduce__(self):
            return os.system, ("touch executed",)

    torch.save({"state_dict": {}, "hyper_parameters": Command()}, "evil.ckpt")
    said = refused(["fit", *BASE, "--ckpt_path=evil.ckpt", *TWO_STEPS], capsys)
    assert "evil.ckpt holds more than tensors and plain containers" in said
    assert not Path("executed").exists()


# ---- the data -----------------------------------------------------------------------------------


def idx(change: str, folder: Path, source: Path) -> list[str]:
    """Return the arguments of a run on damaged IDX files."""
    for file in source.glob("*-ubyte"):
        content = bytearray(file.read_bytes())
        if file.name == "train-labels-idx1-ubyte":
            if change == "truncated":
                del content[100:]
            elif change == "magic":
                content[:4] = struct.pack(">I", 2052)
            else:
                content[8 + 17] = 200
        (folder / file.name).write_bytes(content)
    return [*arguments("classifier_mnist", data=folder)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("truncated", "labels-idx1-ubyte: the file ends at byte 100 of 161"),
        ("magic", "labels-idx1-ubyte: bytes 0..3 are 00 00 08 04 instead of the magic number"),
        ("label", "200"),
    ],
)
def test_a_damaged_idx_file_is_named(change, words, data_folder, elsewhere, capsys):
    said = refused(["fit", *idx(change, elsewhere, data_folder), *TWO_STEPS], capsys)
    assert words in said
    assert "train-labels-idx1-ubyte" in said
    if change == "label":
        assert "17" in said


@pytest.mark.parametrize("kind", ["IDXImages", "ImageFolder", "CIFAR"])
def test_a_missing_folder_is_named(kind, capsys):
    said = refused(["fit", *BASE, f"--data={kind}", "--data.root=nix", *TWO_STEPS], capsys)
    assert "nix" in said


def test_images_that_cannot_be_decoded_are_named_at_once(capsys):
    from PIL import Image

    for name in ("cat", "dog"):
        Path("images", name).mkdir(parents=True)
        for number in range(4):
            path = Path("images", name, f"{number}.png")
            Image.new("L", (8, 8), 40 * number).save(path)
            path.write_bytes(path.read_bytes()[:40])
    args = [
        "--data=ImageFolder",
        "--data.root=images",
        "--data.image_size=8",
        "--data.channels=1",
        "--data.val_size=0",
    ]
    said = refused(["fit", *BASE, *args, "--trainer.limit_val_batches=0", *QUIET], capsys)
    assert said.startswith("8 of the 8 images in images cannot be decoded")
    assert all(f"{name}/{number}.png," in said for name in ("cat", "dog") for number in range(3))


# ---- what does not go together ------------------------------------------------------------------


class Rows(Dataset):
    """Digits in the layout of no one: dicts without an index."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"image": torch.zeros(1, 8, 8), "label": torch.tensor(row)}


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([{"image": torch.zeros(1, 8, 8), "label": torch.tensor(0)}] * 8)


class NoIndex(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(Rows(), batch_size=4)

    val_dataloader = train_dataloader


class Streamed(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream(), batch_size=4)

    val_dataloader = train_dataloader


class StreamedModule(DataModule):
    def setup(self, stage: str | None = None) -> None:
        self.train_set = Stream()


class EnsLike(LDRLoss):
    """Its value means nothing."""

    monitorable = False


SAF = ["--config=with/saf"]
# for data that do not say what they hold
GIVEN = ["--model.num_classes=10", "--model.input_shape=[1,8,8]"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([*SAF, "--data.mixup=0.2"], "SAF cannot be combined with mixup"),
        (
            [*SAF, *GIVEN, "--data=tests.test_command.Streamed"],
            "SAF remembers every training sample",
        ),
        (
            [*GIVEN, "--model.criterion=ALDRLoss", "--data=tests.test_command.NoIndex"],
            "ALDRLoss needs the number of training samples",
        ),
        (["--model.criterion=ALDRLoss", "--data.mixup=0.2"], "ALDRLoss is defined for hard labels"),
        (["--model.criterion=LDRLoss", "--data.mixup=0.2"], "LDRLoss is defined for hard labels"),
        (
            [
                "--model.criterion=tests.test_command.EnsLike",
                "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=val/loss",
            ],
            "EarlyStopping monitors 'val/loss', but the value of EnsLike means nothing",
        ),
        (["--model.optimizer=SGD", "--model.optimizer.lr=1e30"], "'classification' became NaN"),
        pytest.param(
            [*SAF, *GIVEN, "--data=tests.test_command.StreamedModule"],
            "map-style data set",
        ),
        pytest.param(
            [*GIVEN, "--data=tests.test_command.StreamedModule"],
            "iterable data set (Stream) has none",
        ),
        pytest.param(
            ["--model.criterion=MultiMarginLoss", "--data.mixup=0.2"],
            "MultiMarginLoss is defined for hard labels",
        ),
        pytest.param(
            [
                "--model.criterion=tests.test_command.EnsLike",
                "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=val/classification",
            ],
            "EarlyStopping monitors 'val/classification'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(args, words, capsys):
    said = refused(["fit", *BASE, "--allow=tests", *args, *TWO_STEPS], capsys)
    assert words in said


def test_a_metric_that_is_not_logged_is_named_at_its_first_use(capsys):
    args = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/nonsense"]
    with pytest.raises(SystemExit):
        trimtab.main(["fit", *BASE, *args, *TWO_STEPS])
    assert "val/nonsense" in capsys.readouterr().err


class Broken(Rows):
    def __getitem__(self, row: int) -> dict[str, Tensor]:
        raise ValueError(f"row {row} is bad")


class BrokenData(DataModule):
    def setup(self, stage: str | None = None) -> None:
        self.train_set = Broken()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_loading_process_is_one_line(workers, capsys):
    args = [*GIVEN, "--allow=tests", "--data=tests.test_command.BrokenData", "--data.batch_size=1"]
    args += [f"--data.num_workers={workers}", "--trainer.limit_val_batches=0", *QUIET]
    said = refused(["fit", *BASE, *args], capsys)
    assert re.fullmatch(r"row \d is bad\.", said)


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--model.alignment=DAN", "DANN"),
        ("--trainer.callbacks.combiner=HeldOutLP", "HeldOutGuidedLP"),
    ],
)
def test_the_nearest_class_may_be_one_that_only_a_module_or_callback_takes(flag, nearest, capsys):
    with pytest.raises(SystemExit):
        trimtab.main(["fit", f"--config={CONFIGS / 'paretoda.yaml'}", flag])
    # two names may be equally near
    assert re.search(rf"the nearest are .*\b{nearest}\b", capsys.readouterr().err)


def test_a_checkpoint_that_does_not_fit_leaves_its_run_as_it_was(capsys):
    root = "--run_folder=run"
    trimtab.main(["fit", *BASE, root, *TWO_STEPS])
    before = Path("run/config.yaml").read_text()
    last = "--ckpt_path=run/checkpoints/last.ckpt"
    with pytest.raises(SystemExit):
        trimtab.main(["fit", last, "--model.widths=[3,5]", *QUIET])
    said = capsys.readouterr().err
    assert "does not fit this Classifier: network." in said
    assert "in it and [3, 1, 3, 3] in the model" in said
    assert Path("run/config.yaml").read_text() == before
    assert trimtab.load("run").config == yaml.safe_load(before)
