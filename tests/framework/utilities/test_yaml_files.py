"""YAML from anywhere costs what is written in it, and says what it says once."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import trimtab
from datamodules.yolo_obb import read_names
from framework.utilities.yaml_files import MAX_BYTES, load_yaml, read_yaml, yaml_text
from tests.helpers.command import refused
from tests.helpers.runs import ROOT


def nine_times(first: str, again: str) -> str:
    """Return 10 lines of which each holds the one before it nine times, and so 9^9 of the first."""
    lines = [first]
    for number in range(1, 10):
        lines.append(again.format(number=number, all=",".join([f"*a{number - 1}"] * 9)))
    return "\n".join(lines)


REFUSED = {
    "aliases": (nine_times("a0: &a0 [x]", "a{number}: &a{number} [{all}]"), "aliases stand for"),
    "merge keys": (
        nine_times("a0: &a0 {k: 1}", "a{number}: &a{number} {{<<: [{all}]}}"),
        "aliases stand for",
    ),
    "a long text again": (f"a: &a {'x' * 10_000}\nb: [{'*a,' * 200}]", "aliases stand for"),
    "a list in itself": ("a: &a [*a]", "or for themselves"),
    "a mapping in itself": ("a: &a\n  b: *a", "or for themselves"),
    "brackets": ("[" * 500, "line 1: more than 100 lists and mappings inside one another"),
    "many brackets": ("[" * 100_000, "maximum nesting depth|more than 100"),
    "braces": ("{a: " * 200, "more than 100 lists and mappings"),
    "indents": ("".join(f"{' ' * i}a:\n" for i in range(200)), "line 101: more than 100 lists"),
    "a key twice": ("a: 1\nb: {c: 1, d: 2, c: 3}", "line 2: the key 'c' is given twice"),
    "a class": ("a: !!python/object/apply:os.system [ls]", "line 1: the tag .*os.system"),
    "bytes": ("a: !!binary aGk=", "line 1: the tag .*binary"),
    "NUL": ("a: \0", "is not valid YAML: .*x0000"),
    "an escape": ("a: \x1b[31m", "is not valid YAML: .*x001b"),
    "an unknown alias": ("a: *b", "is not valid YAML: .*undefined alias"),
    "a list as a key": ("? [a, b]\n: 1", "is not valid YAML: .*unhashable"),
    "two documents": ("a: 1\n---\na: 2", "is not valid YAML: .*single document"),
    "a long number": (f"a: {'1' * 5_000}", "line 1: a number of 5,000 characters"),
    "a long number in hex": (f"a: 0x{'f' * 5_000}", "a number of 5,002 characters"),
    "a number to the base 60": (f"a: 1{':1' * 5_000}", "a number of 10,001 characters"),
    "a number as a tag": (f'a: !!int "1{":1" * 5_000}"', "a number of 10,001 characters"),
    "no date": ("a: 2001-99-99", "f.yaml: month must be in 1..12"),
    "size": (f"a: {'x' * MAX_BYTES}", "f.yaml is larger than 1,048,576 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    text, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as refusal:
        load_yaml(text, "f.yaml")
    said = str(refusal.value)
    assert said.startswith("f.yaml")
    assert "\n" not in said
    assert said.endswith(".")
    assert len(said) < 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: &a [1, 2]\nb: *a\nc: [*a, *a]",
        "base: &b {lr: 0.1, wd: 1}\nmine: {<<: *b, lr: 0.2}\nboth: {<<: [*b, {x: 1}]}",
        "a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a",
        "a: {a: 1}\nb: [{a: 1}, {a: 2}]\nc: a",
        "1: a\n'1': b",
        "a: !!str 1\nb: !!float 1",
        f"a: {'x' * 5_000}",
        "[" * 100 + "]" * 100,
        "a: 2001-01-01\nb: 1e-3\nc: .inf\nd: 0x1F\ne: 1:30",
        "a: |\n  two\n  lines\nb: >\n  one\n",
        "# \u00e9\na: \u4e2d\U0001f600",
    ],
)
def test_taken_as_pyyaml_takes_it(text, tmp_path):
    assert load_yaml(text, "f.yaml") == yaml.safe_load(text)
    (tmp_path / "f.yaml").write_text(text, encoding="utf-8")
    assert read_yaml(tmp_path / "f.yaml") == yaml.safe_load(text)
    assert yaml_text(tmp_path / "f.yaml", "f.yaml") == text


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match=r"f\.yaml is not in UTF-8: its byte 3 is not\.$"):
        read_yaml(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is no regular file"):
        read_yaml(path)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "absent.yaml")


def test_a_file_is_not_read_whole(tmp_path):
    path = tmp_path / "f.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="larger than 1,048,576 bytes"):
        read_yaml(path)


@pytest.mark.usefixtures("elsewhere")
class TestEveryReader:
    """Wherever a person hands over YAML it is read by one function."""

    BOMB = REFUSED["aliases"][0]

    @pytest.mark.parametrize("case", ["aliases", "brackets", "a key twice", "size", "NUL"])
    def test_configs(self, case, capsys):
        text, words = REFUSED[case]
        Path("f.yaml").write_text(text)
        said = refused(["fit", "--config=f.yaml"], capsys)
        assert re.search(words, said)
        assert "f.yaml" in said

    def test_configs_that_a_config_names(self, capsys):
        Path("inner.yaml").write_text(self.BOMB)
        Path("f.yaml").write_text("model: inner.yaml")
        said = refused(["fit", "--config=f.yaml"], capsys)
        assert re.search(r"^inner\.yaml: line \d: aliases stand for", said)

    def test_the_command_line(self, capsys):
        said = refused(["fit", "--config=classifier", f"--model.widths={'[' * 300}"], capsys)
        assert re.search(r"^model\.widths: '\[\[.* is not a list of integers", said)

    def test_run_folders(self, capsys):
        for folder in (Path("run"), Path("other")):
            folder.mkdir()
            (folder / "config.yaml").write_text(self.BOMB)
            (folder / "metrics.csv").write_text("epoch,step\n")
        help_page = ["fit", "--config=run/config.yaml", "--model.criterion.help"]
        for args in (["report", "run", "other"], help_page):
            assert re.search(
                r"(run|other)/config\.yaml: line \d: aliases stand", refused(args, capsys)
            )
        Path("config.yaml").write_text(self.BOMB)
        Path("last.ckpt").write_bytes(b"")
        with pytest.raises(ValueError, match=r"config\.yaml: line \d: aliases"):
            trimtab.load("last.ckpt")

    def test_names_of_classes(self):
        Path("data.yaml").write_text(self.BOMB)
        with pytest.raises(ValueError, match=r"data\.yaml: line \d: aliases"):
            read_names(Path())


def test_no_other_function_reads_yaml():
    # what the command itself has just written is read as it is
    own = {
        "framework/utilities/yaml_files.py",
        "framework/command/cli.py",
    }
    product = ("framework", "modules", "datamodules", "callbacks", "trimtab.py")
    found = subprocess.run(
        ["grep", "-rlE", r"yaml\.(\w*load|parse|compose|scan)\w*\(", "--include=*.py", *product],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(found.stdout.splitlines()) == own
