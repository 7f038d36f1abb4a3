"""Help pages fit on a screen or two, and name what they are about."""

from __future__ import annotations

import pytest
import torch

import trimtab
from framework.command.commands import config_texts
from framework.command.known_classes import subclasses
from framework.command.new import PACKAGES
from framework.command.type_names import type_in_words

trimtab.import_configurable_classes()


def page(args: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of a help page."""
    with pytest.raises(SystemExit) as stop:
        trimtab.main(args)
    assert stop.value.code == 0
    return capsys.readouterr().out.splitlines()


def names_in(lines: list[str]) -> set[str]:
    """Return the names that a page of choices lists."""
    return {line.split()[0] for line in lines if line.startswith("  ")}


def test_every_page_of_a_class_has_at_most_100_lines(capsys):
    from lightning.pytorch import Callback, LightningDataModule, LightningModule

    slots = {"model": LightningModule, "data": LightningDataModule, "trainer.callbacks": Callback}
    for slot, base in slots.items():
        for name, kind in subclasses([base]).items():
            # not those of other tests in this process
            if kind.__module__.partition(".")[0] not in (*PACKAGES, "lightning"):
                continue
            lines = page(["fit", f"--{slot}.help", name], capsys)
            assert len(lines) <= 100, (slot, name)
            assert max(map(len, lines)) <= 110, (slot, name)
            assert lines[0] == f"usage: trimtab fit --{slot} {name} [--{slot}.ARGUMENT VALUE ...]"


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["fit", "--help"],
        ["predict", "-h"],
        ["fit", "--model.help"],
        ["fit", "--data.help"],
        ["fit", "--trainer.help"],
        ["fit", "--checkpoint.help"],
        ["fit", "--trainer.callbacks.help"],
        ["fit", "--trainer.logger.help"],
        ["fit", "--config", "classifier", "--model.optimizer.help"],
        ["fit", "--config", "classifier", "--model.lr_scheduler.help"],
        ["fit", "--data", "ImageFolder", "--data.augment.help"],
    ],
)
def test_every_other_page_has_at_most_100_lines(args, capsys):
    lines = page(args, capsys)
    assert 8 < len(lines) <= 100
    assert max(map(len, lines)) <= 140


@pytest.mark.parametrize("args", [["configs"], ["fit", "--config"]])
def test_the_list_of_configs_has_a_line_for_each(args, capsys):
    trimtab.main(args)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == [*config_texts()]
    assert max(map(len, lines)) <= 140


def test_options_may_stand_before_the_command(capsys):
    before = page(["--seed_everything", "1", "test", "--help"], capsys)
    assert before == page(["test", "--help"], capsys)
    assert page(["--config", "classifier", "--help"], capsys) == page(["--help"], capsys)


def test_a_page_says_type_default_and_text_of_an_argument(capsys):
    lines = page(["fit", "--data.help", "ImageFolder"], capsys)
    place = lines.index("  --data.batch_size: an integer, default 128")
    assert lines[place + 1].strip() == "Rows of a global batch, over all ranks."
    assert (
        "  --data.augment: a list of Modules, default none; --data.augment.help lists them" in lines
    )


def test_the_help_of_a_criterion_lists_the_losses_that_fit(capsys):
    chosen = ["--config=classifier"], ["--model=Classifier"], ["--model.help=Classifier"]
    for model in chosen:
        names = names_in(page(["fit", *model, "--model.criterion.help"], capsys))
        assert names >= {"CrossEntropyLoss", "MultiMarginLoss", "CompSumLoss", "LDRLoss"}
        assert {name for name in dir(torch.nn) if name in names} == {
            "CrossEntropyLoss",
            "MultiMarginLoss",
        }


def test_the_help_of_a_nested_class_leaves_out_what_the_program_gives(capsys):
    text = "\n".join(
        page(["fit", "--config=classifier", "--model.optimizer.help", "AdamW"], capsys)
    )
    assert "--model.optimizer.lr: a number, default 0.001" in text
    assert "--model.optimizer.params" not in text


def test_what_stands_behind_the_name_of_a_class_does_no_harm(capsys):
    lines = page(["fit", "--data.help", "CIFAR", "--trainer.max_epochs"], capsys)
    assert lines[0].startswith("usage: trimtab fit --data CIFAR")


def test_an_augmentation_is_a_transform_of_torchvision(capsys):
    names = names_in(page(["fit", "--data", "ImageFolder", "--data.augment.help"], capsys))
    assert "torchvision.transforms.v2.RandomHorizontalFlip" in names
    assert not any(name.endswith("Linear") for name in names)


def test_the_list_of_configs_names_them_with_what_they_say_first(capsys):
    trimtab.main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("classifier ") and "perceptron" in line for line in lines)
    assert any(line.startswith("with/saf ") and "SAF" in line for line in lines)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "an integer"),
        (float | torch.Tensor, "a number"),
        (list[int] | str, "a list of integers or a text"),
        (str | list[int | str], "a text or a list of integers or texts"),
        (tuple[float | torch.Tensor, float | torch.Tensor], "a list of numbers"),
        (dict[str, int], "a mapping"),
        (None, "nothing"),
    ],
)
def test_a_type_in_words(hint, words):
    assert type_in_words(hint) == words
