"""The journal of a study: one file of lines, which one process at a time appends to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from framework.utilities.files import lock, open_in_place, write_text
from framework.utilities.limits import check_size

JOURNAL = "journal.log"
GO_ON = "choose another name by --tune.name, or remove that folder"
BYTES_PER_CHARACTER = 32
"""Bytes that a character of a journal becomes at most."""


def hold_journal(folder: Path) -> BinaryIO:
    """Make the journal of a study where there is none, and lock it as long as the file is open.

    A last line that a kill cut short is removed, as the next one would be appended to it.

    Args:
        folder: Folder of the study, which may be anybody's.

    Raises:
        FileExistsError: Another process has locked it.
        ValueError: There is a link in the folder, or among its trials, or it is no journal.
    """
    for entry in (*folder.glob("*"), *folder.glob("trials/*")):
        if entry.is_symlink():
            raise ValueError(f"{entry} is a link: put what it leads to in its place, or remove it.")
    path = folder / JOURNAL
    if not path.exists():
        write_text(path, "")
    file = open_in_place(path)
    try:
        is_ours = lock(file)
    except OSError:
        is_ours = True  # the disk knows no locks
    if not is_ours:
        file.close()
        raise FileExistsError(
            f"{folder} is searched in by another process, which is still running: wait for its "
            "end, or give that one more --tune.jobs, or choose another --tune.name."
        )
    try:
        _check_lines(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_lines(file: BinaryIO, path: Path) -> None:
    """Drop a torn last line, and refuse others that Optuna would stumble over when it goes on."""
    check_size(path, BYTES_PER_CHARACTER * os.fstat(file.fileno()).st_size)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    file.truncate(whole)
    for number, line in enumerate(content[:whole].splitlines()):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(
                f"{path} is no journal of a study: its line {number + 1} is no JSON; {GO_ON}."
            ) from None


def empty_journal(file: BinaryIO) -> None:
    """Begin a journal anew."""
    file.seek(0)
    file.truncate()


def journal_storage(folder: Path) -> Any:
    """Return the journal as a storage of Optuna, which is to be locked already."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), _NoLock()))


class _NoLock:
    """The lock of a journal that is locked as long as the search goes on."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
