"""The wheel holds what a run needs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

PACKAGES = ("framework", "modules", "datamodules", "callbacks", "configs", "trimtab-stubs")
SUFFIXES = (".py", ".pyi", ".yaml", ".txt", ".html", ".css", ".js", ".cpp")
SETUPTOOLS = "import setuptools; assert int(setuptools.__version__.split('.')[0]) >= 77"


def test_the_wheel_holds_the_packages_and_the_configs(tmp_path: Path) -> None:
    if subprocess.run(
        [sys.executable, "-c", SETUPTOOLS], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs setuptools 77")
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "trimtab.py", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").write_text("# Trimtab\n")
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, f"--wheel-dir={tmp_path}"]
    subprocess.run([*command, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {"trimtab.py"}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in SUFFIXES or path.name == "py.typed":
                expected.add(path.relative_to(ROOT).as_posix())
    assert names == expected
