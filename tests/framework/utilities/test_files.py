"""Files of a run: whole or absent, with a reason where they cannot be written."""

from __future__ import annotations

import ast
import io
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from framework.utilities import files
from framework.utilities.files import (
    WriteError,
    file_name,
    new_folder,
    part_of,
    path_below,
    remove_file,
    remove_flat_folder,
    remove_parts,
    write_atomically,
    write_text,
)
from tests.helpers.runs import ROOT, in_child

WRITERS: dict[str, Any] = {
    "bytes": lambda file: file.write(bytes(200_000)),
    "lines": lambda file: file.writelines([b"0123456789" * 100] * 200),
    "torch": lambda file: torch.save({"w": torch.rand(50_000)}, file),
    "numpy": lambda file: np.save(file, np.random.rand(50_000)),
    "png": lambda file: Image.effect_noise((500, 500), 50).save(file, format="png"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path, kind: str) -> None:
    path = small_disk / "runs" / "file"
    write_text(path, "before")
    said = re.escape(f"{path} could not be written: no space left on device.")
    with pytest.raises(WriteError, match=f"^{said}$") as caught:
        write_atomically(path, WRITERS[kind])
    assert caught.value.errno == 28
    assert path.read_text() == "before"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_limit_on_files_is_said_and_loses_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with pytest.raises(WriteError, match=r"file could not be written: file too large\.$"):
            write_atomically(path, WRITERS[kind])

    assert in_child(child) == 0
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_too_many_open_files_are_said(tmp_path: Path) -> None:
    def child() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(WriteError, match="could not be written: too many open files"):
            write_text(tmp_path / "file", "after")

    assert in_child(child) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_in_a_write_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def interrupted(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(WriteError, match=r"last\.ckpt could not be written: \S+/run is a file\.$"):
        write_text(tmp_path / "run" / "checkpoints" / "last.ckpt", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=r"folder could not be written: is a directory\.$"):
        write_text(tmp_path / "folder", "")
    with pytest.raises(WriteError, match=r"could not be written: file name too long\.$"):
        write_text(tmp_path / ("a" * 300), "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="could not be written: permission denied"):
        write_text(tmp_path / "file", "")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    thesis, link = tmp_path / "thesis", tmp_path / "metrics.csv"
    thesis.write_text("chapter")
    link.symlink_to(thesis)
    write_text(link, "epoch,step")
    assert thesis.read_text() == "chapter"
    assert not link.is_symlink()
    link.unlink()
    link.symlink_to(thesis)
    remove_file(link)
    remove_file(link)
    assert thesis.read_text() == "chapter"


def test_parts_differ_between_processes_hosts_and_calls(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / ("é" * 120)
    write_text(path, "the name is as long as it may be")
    names = {part_of(path) for _ in range(100)}
    monkeypatch.setattr(files, "_HOST", "0" * 8)
    other = part_of(path)
    assert len(names | {other}) == 101
    assert str(os.getpid()) in other.name
    assert other.name.startswith(".é")
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]


def test_old_parts_are_removed_and_nothing_else(tmp_path: Path) -> None:
    old, new = part_of(tmp_path / "last.ckpt"), part_of(tmp_path / "last.ckpt")
    mine, folder = tmp_path / ".mine.part", part_of(tmp_path / "folder")
    for path in (old, new, mine):
        path.touch()
    folder.mkdir()
    before = time.time() - 2 * files.LEFT_BEHIND
    thesis, link = tmp_path / "thesis", part_of(tmp_path / "link")
    thesis.mkdir()
    (thesis / "chapter").touch()
    link.symlink_to(thesis)
    for path in (old, mine, folder, thesis, link):
        os.utime(path, (before, before), follow_symlinks=False)
    remove_parts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {new.name, mine.name, "thesis"}
    assert (thesis / "chapter").exists()
    remove_parts(tmp_path / "absent")


def test_a_killed_write_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    assert in_child(lambda: write_atomically(path, lambda _: os.kill(os.getpid(), 9))) == -9
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part"
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_flat_folder_loses_only_its_own_files(tmp_path: Path) -> None:
    folder, names = tmp_path / "shards", re.compile(r"\d\.pt")
    (folder / "2.pt").mkdir(parents=True)
    for name in ("0.pt", "1.pt", "notes"):
        (folder / name).touch()
    link = tmp_path / "link"
    link.symlink_to(folder)
    remove_flat_folder(link, names)
    assert len(list(folder.iterdir())) == 4
    remove_flat_folder(folder, names)
    assert sorted(p.name for p in folder.iterdir()) == ["2.pt", "notes"]


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    with pytest.raises(ZeroDivisionError), new_folder(folder) as part:
        (part / "weights").write_text(str(1 / 0))
    assert list((tmp_path / "cache").iterdir()) == []
    for text in ("first", "second"):
        with new_folder(folder) as part:
            (part / "weights").write_text(text)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["model"]
    assert (folder / "weights").read_text() == "first"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "a\0b", "a\nb", "\x1b[2J"])
def test_a_name_leads_nowhere(name: str) -> None:
    with pytest.raises(ValueError, match=r"A class is called .*: rename it"):
        file_name(name, "A class")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../../x", "/etc/passwd", "a/\0"])
def test_a_path_in_a_file_stays_below_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match=r"train\.txt names .* does not lie in root"):
        path_below(Path("root"), name, "train.txt")


def test_two_processes_that_write_one_file_leave_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = (
        "from pathlib import Path; from framework.utilities.files import write_text\n"
        f"for _ in range(50): write_text(Path({str(path)!r}), TEXT * 5000)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code.replace("TEXT", repr(text))]) for text in "ab"
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert path.read_text() in ("a" * 5000, "b" * 5000)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


CHANGING = {
    "os": {"link", "makedirs", "mkdir", "mkfifo", "open", "remove", "removedirs", "rename"}
    | {"renames", "replace", "rmdir", "symlink", "truncate", "unlink"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree", "unpack_archive"},
}
"""Functions of modules that make, change or remove files."""
OF_A_PATH = {"hardlink_to", "mkdir", "rmdir", "symlink_to", "touch", "unlink", "write_bytes"}
OF_A_PATH |= {"write_text", "extractall"}
SAVING = {"imsave", "save", "save_file", "savefig", "savetxt", "savez", "to_csv", "to_parquet"}
"""Functions that write into a file that they are handed, or to a path."""
ELSEWHERE = {("callbacks/onnx_export.py", "save"), ("framework/runs/wandb_report.py", "save")}
"""Into a temporary folder of the system, as the exporter takes no file, and to W&B's server."""


def changes(call: ast.Call) -> bool:
    """Return whether a call makes, changes or removes files by itself."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    if name == "open" and owner != "Image":
        texts = [a.value for a in ast.walk(call) if isinstance(a, ast.Constant)]
        return any(
            isinstance(t, str) and re.fullmatch("[rwaxbt+]+", t) and set(t) & set("wax+")
            for t in texts
        )
    if name in SAVING and not (name == "save" and isinstance(function, ast.Name)):
        return not any(isinstance(a, ast.Name) and a.id == "file" for a in call.args)
    of_a_path = name in OF_A_PATH and isinstance(function, ast.Attribute)
    return of_a_path or name in CHANGING.get(owner, ())


def test_files_are_made_and_removed_in_one_place() -> None:
    found = []
    for package in ("framework", "callbacks", "datamodules", "modules"):
        for path in (ROOT / package).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            if place == "framework/utilities/files.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and changes(node):
                    found.append((place, node.lineno, ast.unparse(node.func)))
                if isinstance(node, ast.ImportFrom) and node.module in CHANGING:
                    found.append((place, node.lineno, f"from {node.module} import"))
    found = [one for one in found if (one[0], one[2].rpartition(".")[2]) not in ELSEWHERE]
    assert found == []
