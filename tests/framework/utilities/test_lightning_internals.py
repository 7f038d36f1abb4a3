"""Private names of Lightning and jsonargparse stand in one file each."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from tests.helpers.runs import ROOT

ALLOWED = {
    "framework/utilities/lightning_internals.py",
    "framework/command/jsonargparse_internals.py",
}
FILES = [
    path
    for folder in ("framework", "modules", "datamodules", "callbacks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.relative_to(ROOT).as_posix() not in ALLOWED
]
BASES: list[type] = [
    lightning.LightningModule,
    lightning.LightningDataModule,
    lightning.Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    SaveConfigCallback,
    LightningCLI,
    ArgumentParser,
    Logger,
    WandbLogger,
]
OBJECTS = (
    r"(?:trainer|fit_loop|epoch_loop|val_loop|strategy|\w*connector|parser|cli|logger|"
    r"pl_module|lightning_module|checkpoint_callback)"
)
PATTERNS = (
    rf"\b{OBJECTS}(?:\.\w+)*\._[a-z]\w*",
    r"(?:from|import) (?:lightning|jsonargparse)[\w.]*\._\w+",
    r"from (?:lightning|jsonargparse)[\w.]* import [^\n]*\b_\w+",
    r"\b(?:lightning|jsonargparse)(?:\.\w+)*\._[a-z]\w*",
)


def private_names(kind: type) -> set[str]:
    """Return the private attributes of a class, those of its constructors included."""
    names = set(dir(kind))
    for base in kind.__mro__:
        if base is not object:
            names |= set(re.findall(r"self\.(_\w+)", source_of(base)))
    return {name for name in names if re.match(r"_[a-z]", name)}


def source_of(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def base_names(node: ast.ClassDef) -> set[str]:
    return {part.id for base in node.bases for part in ast.walk(base) if isinstance(part, ast.Name)}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_other_file_names_private_attributes(pattern):
    found = [
        f"{path.relative_to(ROOT)}: {match}"
        for path in FILES
        for match in re.findall(pattern, path.read_text())
    ]
    assert found == []


def test_no_other_class_uses_or_overrides_private_attributes_of_its_base():
    private = {kind.__name__: private_names(kind) for kind in BASES}
    assert "_save_topk_checkpoint" in private["ModelCheckpoint"]
    assert "_wandb_init" in private["WandbLogger"]
    # what a subclass of a class of ours inherits from Lightning
    private |= {
        "QuickHooksModule": private["LightningModule"],
        "EvaluationModule": private["LightningModule"],
        "TrainingModule": private["LightningModule"],
        "DataModule": private["LightningDataModule"],
        "OpenModelCheckpoint": private["ModelCheckpoint"],
        "OpenWandbLogger": private["WandbLogger"],
        "SubcommandCLI": private["LightningCLI"],
        "LightningArgumentParser": private["ArgumentParser"],
        "ObjectivesCallback": private["Callback"],
    }
    found: list[Any] = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            names = set().union(*(private.get(base, set()) for base in base_names(node)))
            defined = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            used = {
                part.attr
                for part in ast.walk(node)
                if isinstance(part, ast.Attribute)
                and isinstance(part.value, ast.Name)
                and part.value.id == "self"
            }
            if clash := names & (defined | used):
                found.append(f"{path.relative_to(ROOT)}: {node.name}: {sorted(clash)}")
    assert found == []


def test_the_patterns_find_what_they_are_for():
    bad = "self.trainer.fit_loop.epoch_loop._batches_that_stepped"
    assert re.search(PATTERNS[0], bad)
    assert re.search(PATTERNS[2], "from jsonargparse import Namespace, _typehints")
    for path in ALLOWED:
        assert Path(ROOT / path).is_file()


def test_pure_files_import_no_lightning():
    pure = ["schedules", "objectives", "distributed", "losses", "optim", "ops", "layers", "attacks"]
    files = [path for folder in pure for path in (ROOT / "framework" / folder).rglob("*.py")]
    files += [ROOT / "framework" / "data" / f"{n}.py" for n in ("samplers", "datasets", "loader")]
    for path in files:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            module = getattr(node, "module", None) or ""
            assert not any("lightning" in name for name in [module, *names]), path
