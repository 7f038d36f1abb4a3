"""Every argument that is a path is known, with what may be read or written there."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import lightning.pytorch.profilers
import lightning.pytorch.strategies
import pytest

import trimtab
from framework.command.jsonargparse_internals import arguments_of
from framework.command.known_classes import all_classes, is_ours
from framework.command.path_arguments import FOLDERS, NAMES, READS
from tests.helpers.runs import ROOT

# arguments that take text, or have no type, and whose text names nothing that is opened
NO_PATHS = [
    "aggregator",
    "augment",
    "base",
    "beyond",
    "BodyParts.parts",
    "class_names",
    "classes",
    "collate",
    "compute_on_cpu",
    "compute_with_cache",
    "constraint",
    "count",
    "dataset",
    "decimal",
    "device",
    "dist_sync_fn",
    "dist_sync_on_step",
    "distributed_available_fn",
    "dtype",
    "EmbeddingEvaluation.pairs",
    "entity",
    "EpisodeSet.source",
    "exclude",
    "experiment_name",
    "features",
    "field",
    "GradientNormRecorder.norms",
    "GradientNorms.norms",
    "GradientNorms.optimizer",
    "group",
    "hook_point",
    "HyperSpace.hyperparameters",
    "include",
    "init_options",
    "inner_kwargs",
    "job_type",
    "kappa",
    "kappa_kwargs",
    "key",
    "FeaturePairs.key2",
    "FeaturePairs.label_key",
    "label_pattern",
    "layers",
    "loader",
    "logits_of",
    "logs",
    "LVHBA.constraints",
    "LVHBA.theta",
    "LVHBA.x",
    "LVHBA.y",
    "margin_grad",
    "MatFeatures.labels",
    "metadata",
    "mode",
    "monitor",
    "multiclass",
    "name",
    "names",
    "normalize",
    "notes",
    "Omniglot.test_alphabets",
    "Omniglot.val_alphabets",
    "options",
    "params",
    "per_sample",
    "plain_terms",
    "preference",
    "process_group",
    "project",
    "reduction",
    "ResponseConv1d.padding",
    "ResponseConv1d.padding_mode",
    "ResponseConv2d.padding",
    "ResponseConv2d.padding_mode",
    "ResponseConv3d.padding",
    "ResponseConv3d.padding_mode",
    "row_names",
    "run_name",
    "SelfTuning.tuning_terms",
    "SolverAccuracy.settings",
    "separator",
    "stream",
    "sync",
    "sync_on_compute",
    "tags",
    "target",
    "target_hook_point",
    "terms",
    "TermWeight.term",
    "text_field",
    "TimmEmbedder.others",
    "tokenizer",
    "StopAtTrainLoss.metric",
    "TrialReporter.metric",
    "TunedDropout.where",
    "UnitNormProjection.parameters",
    "Vocabulary.tokens",
    "weights",
]
PATHLIKE = re.compile(r"(^|_)(root|dir|dirpath|path|file|filename|folder|directory|location|uri)$")


@cache
def own() -> list[tuple[type, Any]]:
    """Return the arguments of our classes that text can be given for."""
    trimtab.import_configurable_classes()
    found = []
    for kind in all_classes().values():
        for argument in arguments_of(kind) if is_ours(kind) else []:
            hint = re.sub(r"Literal\[[^\]]*\]", "", str(argument.hint))
            if argument.hint is None or re.search(r"\bstr\b|Path|Any", hint):
                found.append((kind, argument))
    return found


@cache
def lightnings() -> list[tuple[type, Any]]:
    """Return the arguments of Lightning's classes that are called as paths are."""
    found = []
    for room in ("callbacks", "loggers", "profilers", "strategies"):
        package = getattr(lightning.pytorch, room)
        for kind in (getattr(package, name) for name in package.__all__):
            for argument in arguments_of(kind) if isinstance(kind, type) else []:
                if PATHLIKE.search(argument.name):
                    found.append((kind, argument))
    return found


def tables_of(kind: type, name: str) -> set[str]:
    tables = {"reads": READS, "folders": FOLDERS, "names": NAMES}
    names = [base.__name__ for base in kind.__mro__]
    return {key for key, table in tables.items() if any(name in table.get(n, ()) for n in names)}


def test_every_path_is_known():
    unknown = [
        f"{kind.__name__}.{argument.name}: {argument.text}"
        for kind, argument in [*own(), *lightnings()]
        if not tables_of(kind, argument.name)
        and not {argument.name, f"{kind.__name__}.{argument.name}"} & set(NO_PATHS)
    ]
    assert not unknown, (
        "say in framework/command/path_arguments.py and in SECURITY.md what these may read or "
        f"write: {unknown}"
    )


def test_nothing_is_listed_that_is_not_there():
    known = {
        (base.__name__, argument.name)
        for kind, argument in [*own(), *lightnings()]
        for base in kind.__mro__
    }
    listed = {(kind, name) for kind, names in [*READS.items(), *FOLDERS.items()] for name in names}
    assert listed <= known
    names = {argument.name for _, argument in own()}
    assert {name for name in NO_PATHS if "." not in name} <= names
    assert not [name for name in NO_PATHS if PATHLIKE.search(name)]


def test_what_reads_does_not_write():
    both = [
        (kind, argument.name) for kind, argument in own() if len(tables_of(kind, argument.name)) > 1
    ]
    assert not both


def rows(table: dict[str, dict[str, str]]) -> list[str]:
    """Return the rows of a table in SECURITY.md: arguments, and what is read or written."""
    found: dict[str, list[str]] = {}
    for kind, arguments in table.items():
        for name, text in arguments.items():
            found.setdefault(text, []).append(f"`{kind}.{name}`")
    return [f"| {text} | {', '.join(sorted(found[text]))} |" for text in sorted(found)]


@pytest.mark.parametrize(("heading", "table"), [("Read", READS), ("Written", FOLDERS)])
def test_the_tables_in_security(heading, table):
    section = (ROOT / "SECURITY.md").read_text().split("## Paths in configs\n")[1]
    lines = section.split(f"| {heading} | By |\n")[1].splitlines()[1:]
    table_lines = [line for line in lines if line.startswith("| ")]
    assert table_lines[: len(rows(table))] == rows(table), "\n".join(rows(table))
    following = lines[len(rows(table)) :]
    assert not following or not following[0]
