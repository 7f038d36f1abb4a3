"""Which command a run folder belongs to, and that one process at a time writes into it."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

from framework.runs.config_files import without_option
from framework.runs.job import Job
from framework.utilities.files import (
    WriteError,
    lock,
    open_in_place,
    open_new,
    remove_file,
    write_text,
)
from framework.utilities.json_files import read_json

NAME = ".run.json"
HELD: dict[str, HeldFolder] = {}
"""Records that this process holds, by their paths."""


@dataclass(frozen=True)
class RunRecord:
    """What ``.run.json`` in a run folder says.

    Args:
        command: ``fit`` where it trains, and a digest of the command line without the checkpoint
            that it went on from: it is compared only, and may hold what is secret.
        job: Name of the job, None outside of one.
        step: Step of the job.
        restarts: How often the job had been started again when it last took the folder.
        finished: Commands of the job whose training came to its end.
        host: Machine of the process that took the folder.
        process: Number of that process.
    """

    command: tuple[str, ...]
    job: str | None = None
    step: int | None = None
    restarts: int = 0
    finished: tuple[tuple[str, ...], ...] = ()
    host: str = ""
    process: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether its own training came to its end."""
        return self.command in self.finished

    def after(self, other: RunRecord | None) -> RunRecord:
        """Return this record, which remembers what its job finished when it had the folder."""
        same = other is not None and self.job is not None and self.job == other.job
        return replace(self, finished=other.finished) if same and other is not None else self

    def is_restart_of(self, other: RunRecord | None) -> bool:
        """Return whether another record was written before the same job was started again."""
        return other is not None and bool(self.restarts) and self.job == other.job

    def ended(self) -> RunRecord:
        """Return this record, with its own training among those that came to their end."""
        return replace(self, finished=(*self.finished, self.command))


def record_of(args: Sequence[str], job: Job | None) -> RunRecord:
    """Return the record of this process.

    Args:
        args: Command line.
        job: Job that the process belongs to.
    """
    kept = without_option(args, "--ckpt_path")
    digest = blake2b("\0".join(kept).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    command = ("fit", digest) if "fit" in kept else (digest,)
    record = RunRecord(command, host=platform.node(), process=os.getpid())
    if job is None:
        return record
    return replace(record, job=job.name, step=job.step, restarts=job.restarts)


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run folder; None where there is none that can be read."""
    try:
        content = read_json(folder / NAME)
        command, *finished = (tuple(c) for c in (content["command"], *content["finished"]))
        found = RunRecord(**{**content, "command": command, "finished": tuple(finished)})
    except (OSError, ValueError, TypeError, LookupError):
        return None
    texts = [*command, *(part for one in finished for part in one), found.host, found.job or ""]
    numbers = [found.restarts, found.process, found.step or 0]
    known = all(type(n) is int for n in numbers) and all(type(t) is str for t in texts)
    return found if known else None


def write_ended(folder: Path, record: RunRecord) -> None:
    """Note the end of training in a folder on the disk of another machine than rank 0's."""
    if not (folder / NAME).exists():
        write_text(folder / NAME, _text(record.ended()))


class HeldFolder:
    """A run folder that no other process takes until this one ends or releases it.

    The lock is one that the system takes away from a process that is killed.

    Args:
        folder: Run folder.
        record: Record of this process.
        is_claim: Whether the folder must be nobody's: with a record it is somebody's, unless that
            process has ended before it trained. Otherwise it may be the run that is gone on with,
            whose record is written when training begins.

    Raises:
        FileExistsError: Another process holds the folder, or has written its record.
        WriteError: The record cannot be written.
    """

    def __init__(self, folder: Path, record: RunRecord, is_claim: bool) -> None:
        self._key = _key(folder)
        before = read_record(folder)
        mine = _make(folder / NAME) or record.is_restart_of(before)
        # it may be about to be written, if not by a process that was killed while it did
        mine = mine or (before is None and bool(record.restarts))
        busy = FileExistsError(_busy(folder, before))
        if not mine and (self._key in HELD or (before is None and is_claim)):
            raise busy
        self._file = open_in_place(folder / NAME)
        try:
            locked = lock(self._file)
        except OSError:
            # the disk knows no locks
            locked = not is_claim
        if not locked and not mine:
            self._file.close()
            raise busy
        self.record = record.after(before)
        HELD[self._key] = self
        if is_claim:
            self.write()

    def write(self) -> None:
        """Write the record in place, as the lock is one of this file."""
        self._file.seek(0)
        self._file.write(_text(self.record).encode())
        self._file.truncate()
        self._file.flush()

    def end(self) -> None:
        """Note that training came to its end."""
        self.record = self.record.ended()
        self.write()

    def release(self) -> None:
        """Let other processes take the folder."""
        self._file.close()
        HELD.pop(self._key, None)


def _let_go() -> None:
    """Leave the folders to the process that this one was forked from, as a loader's is."""
    for held in list(HELD.values()):
        held.release()


os.register_at_fork(after_in_child=_let_go)


def begin(folder: str | Path) -> None:
    """Write the record of a run folder that this process holds, as its training begins."""
    if (held := HELD.get(_key(folder))) is not None:
        held.write()


def _key(folder: str | Path) -> str:
    return os.path.realpath(Path(folder, NAME))


def remove_record(folder: Path) -> None:
    """Remove the record of a folder in which no run was trained."""
    remove_file(folder / NAME)


def _make(path: Path) -> bool:
    """Make an empty file, and return whether there was none."""
    try:
        open_new(path).close()
    except WriteError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def _text(record: RunRecord) -> str:
    return json.dumps(asdict(record), indent=1) + "\n"


def _busy(folder: Path, holder: RunRecord | None) -> str:
    who = "another process"
    if holder is not None:
        who = f"process {holder.process} of {holder.host}"
    return f"{folder} is written by {who}, which is still running: wait for its end, or stop it."
