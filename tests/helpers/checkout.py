"""A copy of the checkout, for tests that add files to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.runs import ROOT

FOLDERS = ("framework", "modules", "datamodules", "callbacks", "configs", "docs", "tests")
FILES = ("trimtab.py", "pyproject.toml", "README.md", "CONTRIBUTING.md")
BUILD_PAGE_AND_TEST = """
import sys
import docs.losses, pytest
docs.losses.PAGE.write_text(docs.losses.page())
sys.exit(pytest.main(sys.argv[1:]))
"""


def copy_checkout(folder: Path) -> Path:
    """Copy what a method touches and what tests it; return the copy."""
    root = folder / "checkout"
    for name in FOLDERS:
        # bytecode goes along, as it is valid for files of the same size and time
        ignore = shutil.ignore_patterns("*.png")
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, root)
    return root


def run_tests(root: Path, *args: str) -> None:
    """Write the page of losses of a copy, and run tests there in a process of its own."""
    code = ["-c", BUILD_PAGE_AND_TEST, "-q", "-p", "no:cacheprovider", *args]
    run(root, sys.executable, *code)


def lint(root: Path, *files: Path | str) -> None:
    """Run the linter over files of a copy."""
    for command in (["check"], ["format", "--check"]):
        run(root, sys.executable, "-m", "ruff", *command, "--no-cache", *map(str, files))


def check_types(root: Path, *files: Path | str) -> None:
    """Run the type checker over files of a copy."""
    run(root, sys.executable, "-m", "mypy", *map(str, files))


def run(root: Path, *command: str) -> None:
    """Run a command in a copy, which must succeed."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
