"""What a signal does, by where the run is; imports nothing large, to be there from the start."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from framework.runs.slurm_job import is_first_process
from framework.utilities.signals import STOP_SIGNALS

AT_ONCE = "\ntrimtab: {}; Ctrl-C again stops at once\n"
LEFT_TO_THE_SCHEDULER = (signal.SIGUSR1, signal.SIGUSR2)
"""What to do after these is a setting."""


class Interrupted(SystemExit):
    """The run was asked to stop; the exit code is 128 + signal.

    Args:
        signum: The signal.
        path: Checkpoint that was saved for it; None where there was nothing to save.
        said: What is left to be said of it; empty after a message.
    """

    def __init__(self, signum: int, path: Path | None = None, said: str = "") -> None:
        super().__init__(128 + signum)
        self.path = path
        self.said = said


class StopSignals:
    """Handlers of signals, one after another for all that a run does.

    Where nothing would be lost, such as before training and in an evaluation, a signal ends the
    process at once. While a model trains, it is noted for whoever saves the state, and when that
    has come to its end, the run ends by itself.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.requeue_signal: int | None = None
        self.speaks = is_first_process()
        self.task = "it began"
        self.stops_at_once = True
        self._is_settled = False
        self._is_leaving = False
        self._doing = ""
        self._lost: tuple[str, ...] = ()
        self._before_leaving: Callable[[int], str] = lambda signum: ""
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()

    def take(self, signals: Iterable[int]) -> None:
        """Handle further signals; SIGINT and SIGHUP only if they were to have an effect."""
        for signum in signals:
            # under nohup, or in the background of a script, they are to have none
            spared = (signal.SIGINT, signal.SIGHUP)
            if signum in spared and signal.getsignal(signum) == signal.SIG_IGN:
                continue
            if signum not in self._previous:
                self._previous[signum] = signal.signal(signum, self._receive)

    def restore(self, ignores: bool = False) -> None:
        """Put back the handlers from before.

        Args:
            ignores: Whether to ignore the signals instead, as nothing but the end of a process
                follows; Ctrl-C still ends it.
        """
        for signum, handler in self._previous.items():
            ignored = ignores and signum != signal.SIGINT
            signal.signal(signum, signal.SIG_IGN if ignored else handler)
        self._previous = {}

    def settle(
        self,
        task: str,
        speaks: bool,
        requeue_signal: int | None,
        before_leaving: Callable[[int], str],
    ) -> None:
        """Take the settings of a run, and stop if a signal came that had to wait for them.

        Args:
            task: What a signal comes before, for a message.
            speaks: Whether this rank writes messages.
            requeue_signal: Signal after which the job is queued again; None is none.
            before_leaving: Called with a signal that ends the process at once; returns what it did.
        """
        self.task, self.speaks, self.requeue_signal = task, speaks, requeue_signal
        self._before_leaving = before_leaving
        if requeue_signal is not None:
            self.take([requeue_signal])
        self._is_settled = True
        if self.signum:
            self.stop()

    def note(self, doing: str, *lost: str) -> None:
        """Only note signals from now on.

        Args:
            doing: What the run does about them, for the person who pressed Ctrl-C.
            *lost: What is to be said where Ctrl-C was pressed twice.
        """
        self.stops_at_once = False
        self._doing, self._lost = doing, lost

    def leave(self) -> None:
        """Ignore signals from now on, as the run is being stopped or has failed."""
        self._is_leaving = True

    def stop(self) -> NoReturn:
        """Stop at once.

        Raises:
            Interrupted: Always.
        """
        self._is_leaving = True
        done = self._before_leaving(self.signum)
        said = f"stopped by {signal.Signals(self.signum).name} before {self.task}"
        if done:
            said += f"; {done}"
        raise Interrupted(self.signum, said=said if self.speaks else "")

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # a process that was forked, and does not know yet that it is another
            return
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt(*self._lost)
        if self._is_leaving:
            return
        # whatever comes besides, the job is to be queued again
        if self.signum == 0 or self.signum != self.requeue_signal:
            self.signum = signum
        if self.stops_at_once and (self._is_settled or signum not in LEFT_TO_THE_SCHEDULER):
            self.stop()
        if signum == signal.SIGINT and self.speaks and self._doing:
            # a handler must not write to a stream that may be in use
            os.write(2, AT_ONCE.format(self._doing).encode())


_command: StopSignals | None = None


def command_signals() -> StopSignals | None:
    """Return the handlers of the command that runs in this process; None in other programs."""
    return _command


@contextmanager
def taken_signals(is_program: bool = False) -> Iterator[None]:
    """Let the signals be the command's for the block; in the main thread, and once.

    Args:
        is_program: Whether the process ends after the block.
    """
    global _command
    if _command is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _command = StopSignals()
    _command.take(STOP_SIGNALS)
    try:
        yield
    except Interrupted as stop:
        if stop.said:
            sys.stderr.write(f"trimtab: {stop.said}\n")
        if is_program:
            # how to go on is the last line, and not what a logger says whose service ended as well
            sys.unraisablehook = lambda unraisable: None
        raise
    finally:
        _command.restore(ignores=is_program)
        _command = None
