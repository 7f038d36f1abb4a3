"""Runs the mutations of a reader's sample, and repeats one of them by its number."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from framework.command.cli import FORESEEN
from framework.command.errors import describe
from tests.hostile.mutations import mutate
from tests.hostile.registry import Reader
from tests.hostile.sandbox import Fault, run_watched

LIMIT = 1 / 64
"""GiB that one file may decode to in these tests."""
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Folder of a file system in memory, where a small file is written in no time."""
REFUSALS = (ValueError, FileNotFoundError)
UNWANTED = ("Traceback (", "`weights_only`", "weights_only=", "forbidden: ")


def prepare(reader: Reader, folder: Path) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the input of a number in the folder, and a call that reads it."""
    content = reader.make()
    names = sorted(content)
    last: list[str] = []

    def write(name: str, value: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)

    for name in names:
        write(name, content[name])

    def case(number: int) -> Callable[[], Any]:
        for name in last:
            write(name, content[name])
        last.clear()
        random = Random(f"{reader.name} {number}")
        if number:  # the first is the sample itself
            name = random.choice(names)
            last.append(name)
            write(name, mutate(content[name], reader.mutations, random))
        return lambda: reader.read(folder)

    return case


def judge(reader: Reader, folder: Path) -> Callable[[BaseException], str | None]:
    """Return what says why an exception is no refusal as it should be."""
    names = {folder.name, *(Path(name).name for name in reader.make())}

    def said(error: BaseException) -> str | None:
        text = str(error)
        shown = f"{type(error).__name__}: {text[:300]}"
        if not isinstance(error, REFUSALS if reader.is_direct else FORESEEN):
            return f"unforeseen {shown}"
        if not reader.is_direct:
            text = describe(error)
        if "\n" in text.strip() or any(word in text for word in UNWANTED):
            return f"not one line: {shown!r}"
        if reader.is_direct and not any(name in text for name in names):
            return f"names no file: {shown}"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "not enough memory" in str(cause):
                return f"asked for too much memory: {shown}"
            cause = cause.__cause__ or cause.__context__
        return None

    return said


def run(reader: Reader, numbers: Sequence[int]) -> list[Fault]:
    """Return the faults of a reader at the inputs of some numbers."""
    os.environ["TRIMTAB_MAX_GIB"] = str(LIMIT)
    with tempfile.TemporaryDirectory(prefix="hostile-", dir=MEMORY) as above:
        folder, secret = Path(above, reader.name), Path(above, "secret")
        for place in (folder, secret):
            place.mkdir(parents=True)
        kept = Path(secret, "file")
        kept.write_text("secret")
        with chdir(folder):
            case = prepare(reader, folder)
            Image.init()
            case(0)()  # what the reader needs is imported before anything is watched
            faults = run_watched(case, numbers, judge(reader, folder), folder, secret)
        assert kept.read_text() == "secret"
        assert sorted(os.listdir(above)) == sorted([reader.name, "secret"])
    return faults


def recipe(reader: Reader, faults: Sequence[Fault]) -> str:
    """Return a line for each fault, with the command that repeats it."""
    return "\n".join(
        f"python -m tests.hostile {reader.name} {fault.number}  # {fault.kind}: {fault.detail}"
        for fault in faults
    )
