"""The files beside the code agree with one another."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from tests.helpers.runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.M))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def floors(requirements: list[str]) -> dict[str, str]:
    """Return the lowest version of every requirement that has one."""
    found = (re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", each) for each in requirements)
    return {match[1]: match[2] for match in found if match}


def test_the_lowest_versions_are_those_of_the_project() -> None:
    lines = (ROOT / "requirements" / "lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    assert floors(PROJECT["dependencies"]).items() <= lowest.items()
    for extra in set(extras) - {"dev", "bench"}:
        assert floors(extras[extra]).items() <= lowest.items()
    all_extras = [requirement for extra in extras.values() for requirement in extra]
    assert lowest.items() <= floors([*PROJECT["dependencies"], *all_extras]).items()


def test_the_version_is_the_same_everywhere() -> None:
    changes = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert changes[0] == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_call_the_makefile(file) -> None:
    jobs = yaml.safe_load(file.read_text())["jobs"]
    for job in jobs.values():
        matrix = job.get("strategy", {}).get("matrix", {})
        called = {each["target"] for each in matrix.get("include", [])}
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands
        for command in commands:
            make, target = command.split(" ", 1)
            assert make == "make"
            called |= set() if target.startswith("$") else {target}
        assert called <= TARGETS


def test_pre_commit_hooks_are_local() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["id"] for hook in local["hooks"]] == ["format", "check", "losses", "lint"]


def test_make_bench_runs_what_the_readme_measures() -> None:
    command = re.compile(r"python -m benchmarks\.(\w+)")
    table = re.search(r"^\| Command \|.*\n(?:\|.*\n)+", (ROOT / "README.md").read_text(), re.M)
    assert table is not None
    assert set(command.findall(table[0])) <= set(command.findall(MAKEFILE))
