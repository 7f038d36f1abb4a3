"""Every example in a docstring runs, and prints what it says."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.helpers.runs import ROOT

PACKAGES = ("framework", "modules", "datamodules", "callbacks")
FILES = [ROOT / "trimtab.py", *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
