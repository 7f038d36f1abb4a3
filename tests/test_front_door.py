"""What a person gets from ``import trimtab``, and where they may stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import trimtab
from tests.helpers.runs import ROOT

STUBS = sorted(
    ".".join(stub.parent.relative_to(ROOT).parts)
    for top in ("framework", "modules", "datamodules", "callbacks")
    for stub in (ROOT / top).rglob("__init__.pyi")
)


def test_every_public_name_is_a_name_of_trimtab():
    names = {name: package for package in STUBS for name in import_module(package).__all__}
    assert set(dir(trimtab)) == set(names) | {"__version__", "load", "main"}
    assert not {"load", "main"} & set(names)
    for name, package in names.items():
        found = getattr(trimtab, name)
        assert found is getattr(import_module(package), name)
        assert not isinstance(found, ModuleType), f"{name} is a file"


def test_no_name_has_two_meanings():
    meanings: dict[str, set[int]] = {}
    for package in STUBS:
        for name in import_module(package).__all__:
            meanings.setdefault(name, set()).add(id(getattr(import_module(package), name)))
    assert [name for name, found in meanings.items() if len(found) > 1] == []


def test_the_stub_says_what_a_type_checker_finds():
    stub = (ROOT / "trimtab-stubs" / "__init__.pyi").read_text()
    assert sorted(re.findall(r"^from ([\w.]+) import \*$", stub, re.M)) == sorted(trimtab._PACKAGES)
    for name in ("load", "main", "import_configurable_classes"):
        source = Path(trimtab.__file__).read_text()
        (declared,) = re.findall(rf"^def {name}(.+?): \.\.\.$", stub, re.M | re.S)
        (defined,) = re.findall(rf"^def {name}(.+?):$", source, re.M | re.S)
        assert declared == defined


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="trimtab has no 'CompSumLos'; the nearest are CompSu"):
        trimtab.CompSumLos
    with pytest.raises(ImportError):
        from trimtab import Nothing  # noqa: F401
    assert not hasattr(trimtab, "__wrapped__")


def test_the_version(capsys):
    trimtab.main(["--version"])
    assert capsys.readouterr().out == f"trimtab {trimtab.__version__}\n"
    assert trimtab.__version__ == version("trimtab")


# ---- a folder of the same name ------------------------------------------------------------------


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder with packages of a person's own, by the names of ours."""
    for name in ("callbacks", "modules", "datamodules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = 1\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("model: Classifier\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder that it searches first, before the project's."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_folders_of_the_same_names_do_not_break_the_command(shadowed):
    done = run(shadowed, "-m", "trimtab", "fit", "--config=classifier", "--print_config")
    assert done.returncode == 0, done.stderr
    assert "class_path: modules.Classifier" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        # what the script that pip installs does
        ("-c", "import sys, trimtab; trimtab.main(sys.argv[1:])"),
        pytest.param(
            ("-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "trimtab"),
            marks=pytest.mark.combination,
        ),
    ],
    ids=["script", "torchrun"],
)
def test_folders_of_the_same_names_do_not_break_other_ways_to_it(shadowed, command):
    # the listing of our configs imports all packages by their names, and not torch
    done = run(shadowed, *command, "configs")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ *classifier ", done.stdout, re.M)


def test_a_package_that_is_taken_is_named(shadowed):
    done = run(shadowed, "-c", "import callbacks, trimtab; trimtab.main(['fit', '--help'])")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"trimtab: The name 'callbacks' is taken by {shadowed.resolve() / 'callbacks'}, so that"
    )
    done = run(shadowed, "-c", "import modules, trimtab; trimtab.CompSumLoss")
    assert "ImportError: The name 'modules' is taken by" in done.stderr
