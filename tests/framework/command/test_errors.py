"""Every wrong command line, and the one line that it is answered with."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.loggers import tensorboard
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

import trimtab
from framework.command.errors import describe
from tests.helpers.command import refused
from tests.helpers.runs import QUIET

BASE = ["--config=classifier"]


def tuned(effect: str) -> list[str]:
    """Return the arguments that tune by one effect."""
    return ["--trainer.callbacks+=SelfTuning", f"--trainer.callbacks.effects=[{effect}]"]


TWO_STEPS = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", *QUIET]

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fit", "--model=Clasifier"], "model: there is no class 'Clasifier'; the nearest are Cla"),
        (["fit", *BASE, "--model.criterion=LDRLos"], "'LDRLos'; the nearest are LDRLoss, ALDRLoss"),
        (["fit", *BASE, "--model.optimizer=torch.optim.AdamX"], "no class 'AdamX'; the nearest"),
        (["fit", *BASE, "--model.criterion=framework.losses.LDR"], "no class 'LDR'; the nearest"),
        (
            ["fit", *BASE, "--model.criterion=L1Loss"],
            "L1Loss is no CrossEntropyLoss, MultiMarginLoss or",
        ),
        (
            ["fit", "--model=DEPICT", "--data=WholeSet", "--data.data=Tabular"],
            "data.data: Tabular is no ImageData",
        ),
        (["fit", "--config=sae", "--model.selection=TokenChoise"], "the nearest are TokenChoice"),
        (["fit", "--config=nix.yaml"], "no config 'nix.yaml'; trimtab configs lists them"),
        (["fit", "--config", "clasifier"], "no config 'clasifier'; the nearest are classifier"),
        (
            ["fit", *BASE, "--model.num_clases=3"],
            "model: Classifier has no argument 'num_clases'; the nearest are num_classes",
        ),
        (
            ["fit", *BASE, "--data.batchsize=3"],
            "data: Digits has no argument 'batchsize'; the nearest are batch_size",
        ),
        (["fit", *BASE, "--model.num_classes=ten"], "model.num_classes: 'ten' is not an integer"),
        (
            ["fit", *BASE, "--trainer.max_epochs=ten"],
            "trainer.max_epochs: 'ten' is not an integer",
        ),
        (
            ["fit", *BASE, "--trainer.precision=17"],
            "trainer.precision: '17' is not one of 64, 32, 16",
        ),
        (["fit", *BASE, "--nonsense=3"], "there is no option '--nonsense'"),
        # of an item in a list, and of a mapping inside it
        (
            ["fit", *BASE, *tuned("{class_path: TunedDropot}")],
            "callbacks.effects: there is no class 'TunedDropot'; the nearest are TunedDropout",
        ),
        (
            ["fit", *BASE, *tuned("{class_path: InputDropout, init_args: {rate: {start: 1}}}")],
            "callbacks.effects: rate has no argument 'start'; it takes init, low, high, discrete",
        ),
        (["fitt", *BASE], "no command 'fitt'; the nearest are fit"),
        (["fit", *BASE, "--allow"], "--allow takes the name of a package"),
        (
            ["fit", *BASE, "--allow", "--trainer.max_epochs=1"],
            "--allow takes the name of a package",
        ),
        (["fit"], "data, model must be given: name a config"),
        (
            ["fit", *BASE, "--model.criterion=LDRLoss", "--model.criterion.lam=-1"],
            "model.criterion: lam must be positive, got -1",
        ),
        (["fit", *BASE, "--data.batch_size=0"], "data: batch_size must be at least 1, got 0"),
        (["fit", *BASE, "--model.backbone=resnet18x"], "'resnet18x'; the nearest are resnet18"),
        (["fit", *BASE, "--model.widths=[]"], "'cnn' needs at least one width"),
        (
            ["fit", *BASE, "--model.input_shape=[8,8]"],
            "input_shape must be [channels, height, width]",
        ),
        (
            ["fit", *BASE, "--model.input_shape=[1,9,9]"],
            "Digits has input_shape [1, 8, 8], but the model",
        ),
        (
            ["fit", *BASE, "--model.num_classes=5"],
            "Digits has num_classes 10, but the model was built for 5",
        ),
        (["fit", *BASE, "--ckpt_path=nix.ckpt"], "There is no checkpoint at nix.ckpt"),
        (
            ["fit", *BASE, "--data.label_noise=LabelNoise", "--data.label_noise.rate=7"],
            "data.label_noise: rate must lie in [0, 1], got 7",
        ),
        # the whole path of what must be given, and how to give it
        (
            ["fit", *BASE, "--trainer.callbacks+=EarlyStopping"],
            "trainer.callbacks: EarlyStopping needs monitor; give --trainer.callbacks.monitor VAL",
        ),
        (
            ["fit", *BASE, "--model.lr_scheduler=StepLR"],
            "model.lr_scheduler: StepLR needs step_size; give --model.lr_scheduler.step_size VALUE",
        ),
        (
            ["fit", *BASE, "--trainer.logger=TensorBoardLogger"],
            "trainer.logger: TensorBoardLogger needs save_dir; give --trainer.logger.save_dir",
        ),
        (["fit", "--data=ImageFolder"], "data: ImageFolder needs root; give --data.root VALUE"),
        (["fit", *BASE, "--model.criterion"], "--model.criterion needs a value"),
        (
            ["fit", *BASE, "--model.num_classes", "--trainer.max_epochs=1"],
            "--model.num_classes needs a value",
        ),
        # the value, and what is allowed there
        (["fit", *BASE, "--model.lr_scheduler=3"], "model.lr_scheduler: '3' is no LRScheduler or"),
        (["fit", *BASE, "--model.optimizer.lr=abc"], "model.optimizer.lr: 'abc' is not a number"),
        (["fit", *BASE, "--model.input_shape=8"], "input_shape: '8' is not a list of integers"),
        (["fit", *BASE, "--model.pretrained=7"], "model.pretrained: '7' is not true or false"),
        (
            ["fit", *BASE, "--trainer.limit_train_batches=0"],
            "trainer.limit_train_batches is 0, so that",
        ),
        (
            ["fit", *BASE, "--model.criterion=BCEWithLogitsLoss"],
            "model.criterion: BCEWithLogitsLoss is no CrossEntropyLoss, MultiMarginLoss or Classif",
        ),
        (
            ["fit", *BASE, "--model.criterion.weight=[1,2,1]"],
            "defined either for all 10 classes or no classes",
        ),
        (
            ["fit", *BASE, "--model.criterion.weight=[1,b]"],
            "model.criterion.weight: [1, 'b'] is not a list of numbers",
        ),
        # an argument at the wrong depth, or of another class
        (
            ["fit", "--config=depict", "--data.source=IDXImages"],
            "data: WholeSet has no argument 'source'",
        ),
        (
            ["fit", *BASE, "--trainer.logger.log_model=true"],
            "trainer.logger: no class is chosen here that 'log_model' could be an argument of",
        ),
        (
            ["fit", *BASE, "--config=with/saf", "--trainer.callbacks.lag=3"],
            "trainer.callbacks: SAF has no argument 'lag'; the nearest are lag_epochs.",
        ),
        (
            ["fit", *BASE, "--model.criterion=CompSumLoss", "--model.criterion.tauu=3"],
            "model.criterion: CompSumLoss has no argument 'tauu'; the nearest are tau.",
        ),
        (
            ["fit", *BASE, "--model.batch_size=3"],
            "model: Classifier has no argument 'batch_size', but data, which is Digits, has: give "
            "--data.batch_size",
        ),
        (
            ["fit", *BASE, "--num_classes=3"],
            "it is an argument of the model, data or trainer: --mo",
        ),
        (["fit", *BASE, "--max_epochs=3"], "the nearest are --trainer.max_epochs"),
        (["fit", *BASE, "--model.foo.bar=3"], "model: Classifier has no argument 'foo'"),
        (
            ["fit", *BASE, "--trainer.callbacks.monitor=x"],
            "trainer.callbacks: no class is chosen here that 'monitor' could be an argument of",
        ),
        (
            ["fit", *BASE, "--model.lr_scheduler=null", "--model.lr_scheduler.x=3"],
            "model.lr_scheduler: no class is chosen here that 'x' could be an argument of",
        ),
        (["fit", *BASE, "--trainer=3"], "trainer: there is no file '3' that its options could be"),
        (
            ["fit", *BASE, "--trainer.callbacks+=Qqqq"],
            "no class 'Qqqq'; --trainer.callbacks.help li",
        ),
        (
            ["fit", *BASE, "--data.augment=ColorJitter"],
            "data.augment: a list is wanted; give --data.augment+ ColorJitter",
        ),
        (
            ["fit", *BASE, "--data.augment=[torchvision.transforms.Compose]"],
            "data.augment: ['torchvision.transforms.Compose'] is not a list of Modules",
        ),
        (
            ["test"],
            "name a config, for example: trimtab fit --config classifier, or a run: trimtab",
        ),
        (
            ["fit", *BASE, "--data.augment=torch.nn.Identity"],
            "data.augment: a list is wanted; give --data.augment+ torch.nn.Identity",
        ),
        (
            ["fit", *BASE, "--trainer.logger=lightning.pytorch.loggers.logger.Logger"],
            "logger.Logger is a base; --trainer.logger.help lists the classes that derive from it",
        ),
        (
            ["fit", *BASE, "--model.lr_scheduler=ReduceLROnPlateau"],
            "give the whole path, lightning.pytorch.cli.ReduceLROnPlateau or torch",
        ),
        # what a constructor refuses
        (
            ["fit", *BASE, "--trainer.callbacks+=SAF", "--trainer.callbacks.lag_epochs=0"],
            "trainer.callbacks: lag_epochs must be at least 1, got 0",
        ),
        # what does not fit together
        (
            ["fit", "--config=csib", "--config=with/saf"],
            "SAF compares the logits of at least two classes, and a row of Regressor's",
        ),
        (
            ["fit", "--config=csib", "--config=with/mesa"],
            "MESA compares the logits of at least two classes, and a row of Regressor's",
        ),
        (
            ["fit", "--config=selftuning", "--config=with/selftuning"],
            "trainer.callbacks: a callback that is in a run once is given twice",
        ),
        # commands
        (["reprot"], "no command 'reprot'; the nearest are report; the commands are fit"),
        (["version"], "no command 'version'; the nearest are --version"),
        (["new", "los", "x"], "there is no kind 'los' among loss, optimizer"),
        (["fit", "classifier"], "'classifier' is no option; a config is named by --config class"),
        (["fit", *BASE, "--allow=numpyy"], "--allow numpyy: no such package is installed or lies"),
        (["fit", "--model.criterion.help=CompSumLoss"], "which --model? Name it first"),
        (
            ["fit", "--data.help=CIFARR"],
            "there is no LightningDataModule 'CIFARR'; the nearest are",
        ),
        (["fit", "--data.help=Classifier"], "there is no LightningDataModule 'Classifier'"),
        (["fit", "--dat.help"], "there is no help for '--dat'; the nearest are data"),
        (["fit", "--trainer.max_epochs.help"], "--trainer.max_epochs takes an integer, which has"),
    ],
)
def test_a_wrong_command_line(args, words, capsys):
    assert words in refused([*args, *(TWO_STEPS if args[:2] == ["fit", *BASE] else [])], capsys)


def test_a_machine_without_a_gpu_is_named(monkeypatch, capsys):
    for kind in (CUDAAccelerator, MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", staticmethod(lambda: False))
    said = refused(["fit", *BASE, "--trainer.accelerator=gpu", *TWO_STEPS], capsys)
    assert said.startswith("trainer.accelerator: this machine has no GPU that torch can use")


def test_the_word_itself_is_never_the_nearest(capsys):
    said = refused(["fit", "--config=depict", "--data.source=IDXImages"], capsys)
    assert "are source" not in said


def test_a_loss_that_is_none_of_ours_is_refused_with_what_to_derive_it_from(capsys):
    Path("my_methods.py").write_text("from torch import nn\n\nclass MyFocal(nn.Module): ...\n")
    try:
        args = ["--allow=my_methods", "--model.criterion=my_methods.MyFocal"]
        said = refused(["fit", *BASE, *args], capsys)
    finally:
        sys.modules.pop("my_methods", None)
    assert said == (
        "model.criterion: my_methods.MyFocal is no CrossEntropyLoss, MultiMarginLoss or "
        "ClassificationLoss; derive it from ClassificationLoss, see CONTRIBUTING.md."
    )


def test_the_cause_of_a_logger_that_cannot_be_made_is_named(monkeypatch, capsys):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(tensorboard, name, False)
    args = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=out"]
    said = refused(["fit", *BASE, *args, *TWO_STEPS], capsys)
    assert "Neither `tensorboard` nor `tensorboardX` is available" in said


def test_a_callback_whose_default_is_an_enumeration_can_be_recorded():
    args = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:01:00"]
    trimtab.main(["fit", *BASE, *args, *TWO_STEPS, "--run_folder=run"])
    assert "interval: step" in Path("run/config.yaml").read_text()


def test_class_weights_are_set_from_the_command():
    weights = [1.0, 2.0, *[1.0] * 8]
    args = [f"--model.criterion.weight={weights}", "--run_folder=run"]
    trimtab.main(["fit", *BASE, *args, *TWO_STEPS])
    loaded = trimtab.load("run")
    assert loaded.criterion.weight.tolist() == weights
    assert loaded.config["model"]["init_args"]["criterion"]["init_args"]["weight"] == weights


def raised(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    return caught.value


class Full(io.RawIOBase):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: Path("absent").read_text(), "absent: no such file or directory."),
        (lambda: Path("/").read_text(), "/: is a directory."),
        (lambda: Full().write(b""), "no space left on device."),
        (lambda: torch.save({"w": torch.ones(9)}, Full()), "no space left on device."),
        (
            lambda: torch.save({"w": torch.ones(9)}, "absent/file"),
            "Parent directory absent does not exist.",
        ),
    ],
)
def test_errors_of_the_system_are_said_in_words(function, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert describe(raised(function)) == said


def test_a_file_that_torch_could_not_write_is_no_line_of_its_code():
    error = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 640 vs 534")
    assert describe(error) == "a file could not be written whole: is the disk full?"
    reading = "[enforce fail at inline_container.cc:1] . PytorchStreamReader failed reading file"
    assert describe(RuntimeError(reading)).startswith("[enforce")


def test_names_of_a_stranger_do_not_command_the_terminal():
    error = ValueError("a\x1b]0;title\x07\nb.png, caf\udce9.png, 東京.png")
    assert describe(error) == r"a\x1b]0;title\x07 b.png, caf\udce9.png, 東京.png."
