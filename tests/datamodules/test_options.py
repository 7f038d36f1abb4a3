"""Tests of the arguments that datamodules hand on to their base."""

from __future__ import annotations

import inspect

import pytest
from jsonargparse._parameter_resolvers import get_signature_parameters

import datamodules
import trimtab
from framework.command.jsonargparse_internals import read_options_from_signatures
from framework.data.datamodule import DataModule

DATA = [
    kind
    for kind in (getattr(datamodules, name) for name in datamodules.__all__)
    if isinstance(kind, type) and issubclass(kind, DataModule)
]


@pytest.mark.parametrize("kind", DATA, ids=lambda kind: kind.__name__)
def test_every_argument_has_a_type_and_a_text(kind):
    read_options_from_signatures()
    found = {param.name: param for param in get_signature_parameters(kind, "__init__")}
    assert "num_workers" in found
    assert "options" not in found
    for name, param in found.items():
        # a sentence that stands alone in a help screen
        assert param.doc is not None, name
        assert param.doc[0].isupper(), name
        assert param.doc.endswith("."), name
        assert param.annotation is not inspect.Parameter.empty, name


def test_help_shows_handed_on_arguments_with_their_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        trimtab.main(["fit", "--data.help", "CIFAR"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--data.val_size: a number, default 5000 Training rows held out" in text
    assert "--data.batch_size: an integer, default 128 Rows of a global batch" in text
    assert "--data.mixup: a number, default 0.0 Parameter α of the Beta distribution" in text


def test_printed_config_holds_the_defaults_of_handed_on_arguments(capsys):
    with pytest.raises(SystemExit) as stop:
        trimtab.main(["fit", "--data=CIFAR", "--data.root=x", "--data.shards=2", "--print_config"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for line in ("val_size: 5000", "mixup: 0.0", "batch_size: 128", "shards: 2", "std: null"):
        assert f"    {line}\n" in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("batch_sise=3", "data: Digits has no argument 'batch_sise'; the nearest are batch_size"),
        ("batch_size=many", "data.batch_size: 'many' is not an integer"),
    ],
)
def test_wrong_arguments_are_named(argument, message, capsys):
    with pytest.raises(SystemExit):
        trimtab.main(["fit", "--model=Classifier", "--data=Digits", f"--data.{argument}"])
    assert message in capsys.readouterr().err
