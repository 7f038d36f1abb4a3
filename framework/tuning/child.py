"""A fit in a process of its own: how it ends, is stopped, and why it failed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from framework.utilities.console import plain
from framework.utilities.files import open_new_binary, remove_file
from framework.utilities.limits import open_file

PATIENCE = 60.0
"""Seconds in which a fit that is asked to stop saves its state."""
_LONGEST = 300
_TAIL = 1 << 16
_PR_SET_PDEATHSIG = 1


class Child(Protocol):
    """What the driver asks of a fit that it has started."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""

    def stop(self) -> None:
        """Ask it to stop."""

    def kill(self) -> None:
        """End it at once."""


class ChildProcess:
    r"""A command in a process group of its own, which is asked to stop when this process dies.

    Args:
        command: Program and arguments.
        environment: All environment variables.
        output: File for what it prints.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     output = Path(folder, "output.txt")
        ...     child = ChildProcess([sys.executable, "-c", "print(1)"], os.environ, output)
        ...     child.process.wait(), output.read_text()
        (0, '1\n')
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], output: Path
    ) -> None:
        remove_file(output)
        with open_new_binary(output) as file:
            self.process = subprocess.Popen(
                list(command),
                # what it prints and what goes wrong stay in order
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches this process alone, which then asks its children
                start_new_session=True,
                preexec_fn=_ends_with_its_parent(),
            )

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask the first process to save and stop; it ends those that it has started."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _ends_with_its_parent() -> Callable[[], None] | None:
    """Return what a new process calls first, so that none is left behind where this one is killed.

    Linux alone offers it; elsewhere such a process holds its folder until it ends by itself.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def call() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died a moment before
            os._exit(1)

    return call


def end(children: Sequence[Child], patience: float = PATIENCE) -> None:
    """Ask children to stop, and end those that have not after some time.

    Args:
        children: Children, some of which may have ended.
        patience: Seconds before they are ended at once.
    """
    try:
        for child in children:
            if child.poll() is None:
                child.stop()
        deadline = time.monotonic() + patience
        while any(child.poll() is None for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        # also where Ctrl-C was pressed a second time
        for child in children:
            if child.poll() is None:
                child.kill()


def reason_of_failure(code: int, output: Path) -> str:
    """Return why a fit failed, in one line.

    Args:
        code: Exit code, negative for a signal.
        output: File with what it printed.

    Example:
        >>> reason_of_failure(-9, Path("nothing"))
        'ended by SIGKILL, as by the system where memory runs out'
    """
    # a shell and SLURM say 128 + n of signal n
    number = -code if code < 0 else code - 128
    if number in (signal.SIGKILL, signal.SIGBUS):
        return f"ended by {signal.Signals(number).name}, as by the system where memory runs out"
    said = _last_words(output)
    if number > 0 and number in {one.value for one in signal.Signals}:
        return f"ended by {signal.Signals(number).name}" + (f": {said}" if said else "")
    return said or f"ended with exit code {code}"


def _last_words(output: Path) -> str:
    """Return the last message of the command, or the last line of anything else."""
    try:
        with open_file(output) as file:
            file.seek(max(file.size - _TAIL, 0))
            text = file.read().decode(errors="replace")
    except (OSError, ValueError):
        return ""
    lines = [" ".join(plain(line).split()) for line in text.splitlines() if line.strip()]
    ours = [
        line.removeprefix("trimtab: ")
        for line in lines
        if line.startswith("trimtab: ") and not line.startswith("trimtab: continue with ")
    ]
    foreseen = ours[-1:] if lines and lines[-1].startswith("trimtab: ") else []
    return (foreseen or lines[-1:] or [""])[0][:_LONGEST]
