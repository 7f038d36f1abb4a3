"""The child in which readers are called sees all that no reader may do."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import sandbox
from tests.hostile.sandbox import run_watched


class Command:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _spin() -> None:
    while True:
        pass


COMMAND = pickle.dumps(Command())
CODE = compile("1 + 1", "/tmp/foreign.py", "eval")
FORBIDDEN: dict[str, Callable[[], Any]] = {
    "os.system": lambda: os.system("true"),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "os.exec": lambda: os.execv("/bin/true", ["true"]),
    "pickle.find_class": lambda: pickle.loads(COMMAND),
    "exec": lambda: eval(CODE),
    "exec ": lambda: import_module("antigravity"),
    "import": lambda: __import__("this"),
    "socket.connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    "os.remove": lambda: Path("../secret/file").unlink(),
    "os.rename": lambda: Path("mine").rename("../secret/other"),
    "os.mkdir": lambda: Path("../new").mkdir(),
    "os.chmod": lambda: Path("../secret/file").chmod(0o777),
    "os.symlink": lambda: Path("../link").symlink_to("mine"),
    "shutil.rmtree": lambda: shutil.rmtree("../secret"),
    "open": lambda: Path("../secret/file").read_text(),
    "open ": lambda: Path("../new").write_text("x"),
    "memory": lambda: bytearray(b"x" * (400 << 20)),
    "crash": os.abort,
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    (folder / "mine").write_text("x")
    (secret / "file").write_text("x")
    return folder, secret


def test_a_call_that_does_not_end_is_stopped(folders, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 0.3)
    found = run_watched([_spin, int].__getitem__, [0, 1], lambda _: None, *folders)
    assert [(fault.number, fault.kind) for fault in found] == [(0, "hang")]


def test_what_is_forbidden_is_seen_and_not_done(folders) -> None:
    calls = [*FORBIDDEN.values()]
    found = run_watched(calls.__getitem__, range(len(calls)), lambda _: None, *folders)
    wanted = {(number, name.strip()) for number, name in enumerate(FORBIDDEN)}
    assert wanted <= {(fault.number, fault.kind) for fault in found}
    assert (folders[1] / "file").read_text() == "x"
    assert sorted(os.listdir(folders[0].parent)) == ["folder", "secret"]


def test_what_is_allowed_is_let_through(folders) -> None:
    folder, secret = folders

    def work() -> None:
        Path("new").write_text("x")
        Path("mine").rename("yours")
        shutil.copytree(folder, folder / "below")
        shutil.rmtree(folder / "below")
        os.remove("new")

    def refuse() -> None:
        raise ValueError("a.txt is damaged.")

    def judge(error: BaseException) -> str | None:
        return None if isinstance(error, ValueError) else repr(error)

    assert run_watched([work, refuse].__getitem__, [0, 1], judge, folder, secret) == []
    assert os.listdir(folder) == ["yours"]
