"""The words of the project: arguments that stand alone in a help screen, plain and American."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from docstring_parser import DocstringStyle, parse

ROOT = Path(__file__).parents[1]
FOLDERS = ("framework", "modules", "datamodules", "callbacks")
SOURCES = sorted(chain(*((ROOT / name).rglob("*.py") for name in FOLDERS), ROOT.glob("*.py")))

FRAGMENT = re.compile(r"(?:[a-z]|(?:Of|From|As there|Likewise|As above|See)\b)")
BRITISH = re.compile(
    r"colour|behaviour|favour|neighbour|centre|grey|labelled|modelled|catalogue"
    r"|(?:normal|standard|initial|optim|minim|maxim|regular|quant|discret|serial|real|organ)is[ei]",
    re.IGNORECASE,
)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|ref|obj|exc|data):`")
# written in parts, so that this file has none of them
UNWANTED = re.compile("room" + r"s\b|one" + " sentence", re.IGNORECASE)


def docstrings(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield place, text and whether it is public, of every docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            name = getattr(node, "name", "module")
            if text:
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {name}"
                yield place, text, not name.startswith("_")


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str, bool]]:
    return [found for path in SOURCES for found in docstrings(path)]


def test_arguments_are_noun_phrases_that_stand_alone(texts) -> None:
    wrong = []
    for place, text, _ in texts:
        for argument in parse(text, style=DocstringStyle.GOOGLE).params:
            words = " ".join((argument.description or "").split())
            if argument.args[0] == "param" and (FRAGMENT.match(words) or not words.endswith(".")):
                wrong.append(f"{place}({argument.arg_name}): {words}")
    assert not wrong, "\n".join(wrong)


def test_docstrings_say_more_than_a_word(texts) -> None:
    wrong = [place for place, text, public in texts if public and len(text.split()) < 2]
    assert not wrong, "\n".join(wrong)


def test_docstrings_hold_no_sphinx_roles(texts) -> None:
    wrong = [place for place, text, _ in texts if ROLE.search(text)]
    assert not wrong, "\n".join(wrong)


def test_papers_are_named_in_one_form(texts) -> None:
    wrong = [place for place, text, _ in texts if re.search(r"arXiv [0-9]|^Source:", text, re.M)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", ["py", "md", "toml"])
def test_images_of_the_design_stay_out_of_the_text(kind) -> None:
    folders = (*FOLDERS, "tests", "docs", "benchmarks", "examples")
    paths = chain(ROOT.glob(f"*.{kind}"), *((ROOT / name).rglob(f"*.{kind}") for name in folders))
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNWANTED.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def identifiers(path: Path) -> Iterator[str]:
    """Yield the names that a file binds."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_identifiers_are_spelled_as_in_torch() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in identifiers(path)
        if BRITISH.search(name)
    ]
    assert not wrong, "\n".join(wrong)
