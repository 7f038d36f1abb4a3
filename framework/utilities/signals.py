"""The signals that ask a run to stop, and processes that they do not reach."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What terminals and schedulers send to end a process, or to say that its end comes."""


@contextmanager
def out_of_their_reach() -> Iterator[None]:
    """Block the signals in the processes that are started inside the block, for good.

    A terminal sends them to the whole group and some schedulers to every process of a job, while
    a run that saves and stops still needs its loading processes.

    Example:
        >>> with out_of_their_reach():
        ...     signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        True
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
