"""A person's own classes, by ``--allow``, in every place of a config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import trimtab
from tests.helpers.built import CONFIG, SIZES, command, entry
from tests.helpers.command import refused
from tests.helpers.runs import QUIET

pytestmark = pytest.mark.usefixtures("elsewhere")

OWN = """
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from datamodules import Digits
from framework.losses.loss import ClassificationLoss
from modules import Classifier


class Mine(Classifier):
    def __init__(self, size: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.size = size


class MyData(Digits):
    def __init__(self, noise: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise


class MyCallback(Callback):
    def __init__(self, words: str, count: int = 1):
        self.words = words


class MyOptimizer(torch.optim.SGD):
    pass


class MySchedule(torch.optim.lr_scheduler.ConstantLR):
    pass


class MyLoss(torch.nn.CrossEntropyLoss):
    pass


class MyTransform(torch.nn.Module):
    def __init__(self, share: float = 0.5):
        super().__init__()
        self.share = share

    def forward(self, image):
        return image


class MyLogger(CSVLogger):
    pass
"""


@pytest.fixture(params=["module", "package"])
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write classes into a module of the current folder, or into an installed package."""
    name = f"{request.param}_of_a_person"
    monkeypatch.delitem(sys.modules, name, raising=False)
    if request.param == "module":
        Path(f"{name}.py").write_text(OWN)
    else:
        package = tmp_path / "site" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "parts.py").write_text(OWN)
        monkeypatch.syspath_prepend(package.parent)
        name += ".parts"
    return name


def test_own_classes_by_allow(own):
    model = {
        **SIZES,
        "size": 5,
        "optimizer": entry(f"{own}.MyOptimizer", lr=0.1),
        "lr_scheduler": entry(f"{own}.MySchedule", factor=0.5),
        "criterion": entry(f"{own}.MyLoss", label_smoothing=0.1),
    }
    built = command(
        f"--allow={own.partition('.')[0]}",
        model=entry(f"{own}.Mine", **model),
        data=entry(f"{own}.MyData", batch_size=8, augment=[entry(f"{own}.MyTransform", share=0.1)]),
        trainer={
            "callbacks": [entry(f"{own}.MyCallback", words="hello")],
            "logger": [entry(f"{own}.MyLogger", save_dir="logs")],
        },
    )
    optimizer = built.model.optimizer(built.model.parameters())
    schedule = built.model.lr_scheduler(optimizer)
    parts = [built.model, built.datamodule, built.datamodule.transforms[0], optimizer, schedule]
    parts += [built.model.criterion, *built.trainer.callbacks, *built.trainer.loggers]
    mine = {type(one).__name__ for one in parts if type(one).__module__ == own}
    assert mine == {
        "Mine",
        "MyCallback",
        "MyData",
        "MyLogger",
        "MyLoss",
        "MyOptimizer",
        "MySchedule",
        "MyTransform",
    }
    assert built.model.size == 5


def test_own_classes_by_the_command_line(own):
    options = ["--model", f"{own}.Mine", "--model.num_classes=10", "--model.input_shape=[1,8,8]"]
    options += ["--model.widths=[2]", "--model.size=4", "--model.optimizer", f"{own}.MyOptimizer"]
    options += ["--model.optimizer.lr=0.3", f"--trainer.callbacks+={own}.MyCallback"]
    options += ["--trainer.callbacks.words=hello", "--data", f"{own}.MyData", "--data.noise=0.1"]
    built = command("--allow", own.partition(".")[0], *options, "--data.batch_size=8")
    assert built.model.size == 4
    assert built.model.optimizer(built.model.parameters()).defaults["lr"] == 0.3
    assert built.datamodule.noise == 0.1


def test_trust_ends_with_the_command(own, capsys):
    package = own.partition(".")[0]
    model = {"model": entry(f"{own}.Mine", **SIZES)}
    assert type(command(f"--allow={package}", **model).model).__module__ == own
    assert f"--allow {package}" in refused(["fit", "--config=config.yaml"], capsys)


def test_own_classes_need_allow(capsys):
    Path("never_allowed.py").write_text("open('imported', 'w')")
    model = entry("never_allowed.Mine")
    Path("config.yaml").write_text(yaml.safe_dump({**CONFIG, "model": model}))
    assert "--allow never_allowed" in refused(["fit", "--config=config.yaml"], capsys)
    assert not Path("imported").exists()


def test_a_whole_run_of_own_parts(own):
    model = {**SIZES, "optimizer": entry(f"{own}.MyOptimizer", lr=0.1)}
    config = {"model": entry(f"{own}.Mine", **model), "data": entry(f"{own}.MyData", batch_size=99)}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    few = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--trainer.limit_val_batches=1",
        "--run_folder=run",
        *QUIET,
    ]
    trimtab.main(["fit", f"--allow={own.partition('.')[0]}", "--config=config.yaml", *few])
    assert trimtab.load("run", allow=[own.partition(".")[0]]).size == 3
