"""Values with which an accepted class would do more than it is accepted for are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from framework.command.argument_values import check_values
from framework.command.class_paths import set_up_parsing
from tests.helpers.command import refused

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
WANDB = "lightning.pytorch.loggers.WandbLogger"
ENVIRONMENT = "{epoch].__deepcopy__.__globals__[torch].os.environ[HOME}"


@pytest.fixture(autouse=True)
def _nobody_is_allowed() -> None:
    set_up_parsing()


def with_logger(**parts: Any) -> Namespace:
    logger = Namespace(class_path=WANDB, **{name: Namespace(part) for name, part in parts.items()})
    return Namespace(trainer=Namespace(logger=[logger]))


@pytest.mark.parametrize("name", [ENVIRONMENT, "{epoch:>9999999999}", "{epoch!r}", "a{", "{a:{b}}"])
def test_file_names_are_made_of_metrics_only(name):
    callback = Namespace(class_path=CHECKPOINT, init_args=Namespace(filename=name))
    for config in (
        Namespace(trainer=Namespace(callbacks=[callback])),
        Namespace(last_checkpoint=Namespace(filename=name)),
    ):
        with pytest.raises(ValueError, match=r"filename is '.*in braces there is the name"):
            check_values(config)


@pytest.mark.parametrize(
    "name", [None, "best", "{epoch}-{step}", "{epoch:03d}-{val/loss:.2f}", "{epoch:>5}"]
)
def test_usual_file_names(name):
    check_values(Namespace(checkpoint=Namespace(filename=name)))


@pytest.mark.parametrize("part", ["init_args", "dict_kwargs"])
@pytest.mark.parametrize("name", ["settings", "config", "save_code", "unheard_of"])
def test_loggers_hand_nothing_on_that_reads_files_or_sends_keys(part, name):
    config = with_logger(**{part: {name: "secret.yaml"}})
    with pytest.raises(
        ValueError, match=rf"trainer\.logger\[0\]\.{name} goes to wandb\.init.*--al"
    ):
        check_values(config)
    set_up_parsing(["wandb"])
    check_values(config)


def test_usual_arguments_of_loggers():
    check_values(with_logger(init_args={"project": "a", "offline": True, "tags": ["a"]}))
    check_values(with_logger(init_args={"settings": None}))


@pytest.mark.usefixtures("elsewhere")
def test_the_command_looks_at_them(capsys):
    Path("evil.yaml").write_text(yaml.safe_dump({"checkpoint": {"filename": ENVIRONMENT}}))
    said = refused(["fit", "--config=classifier", "--config=evil.yaml"], capsys)
    assert "checkpoint.filename is" in said
    settings = {"class_path": WANDB, "init_args": {"settings": {"base_url": "http://a"}}}
    Path("evil.yaml").write_text(yaml.safe_dump({"trainer": {"logger": settings}}))
    said = refused(["fit", "--config=classifier", "--config=evil.yaml"], capsys)
    assert "trainer.logger.settings goes to wandb.init" in said
    assert "\n" not in said.strip()
    assert not Path("runs").exists()
