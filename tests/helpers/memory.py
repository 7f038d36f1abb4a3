"""What readers say of files that would exhaust the machine, in a process that has little memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings
from collections.abc import Callable, Sequence
from typing import Any

EXTRA = 512 << 20
"""Bytes that the process may take beside what it has."""


def raised_within(
    cases: Sequence[Callable[[], Any]], limit_gib: float = 1 / 64, seconds: int = 120
) -> list[tuple[str, str]]:
    """Return type and message of what each case raises, two empty texts for none.

    The cases run one after the other in a fork of this process, so that nothing is imported again.

    Args:
        cases: Functions that read a file.
        limit_gib: Limit of what one file may take.
        seconds: Time after which the process is killed.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            os.environ["TRIMTAB_MAX_GIB"] = str(limit_gib)
            warnings.simplefilter("ignore")
            with open("/proc/self/status") as status:
                data = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
            resource.setrlimit(resource.RLIMIT_DATA, (data * 1024 + EXTRA, resource.RLIM_INFINITY))
            for case in cases:
                os.write(sender, (json.dumps(_raised(case)) + "\n").encode())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as lines:
        found = [tuple(json.loads(line)) for line in lines]
    os.waitpid(child, 0)
    assert len(found) == len(cases), f"case {len(found)} took the process with it"
    return found


def _raised(case: Callable[[], Any]) -> tuple[str, str]:
    try:
        case()
    except BaseException as error:
        return type(error).__name__, str(error)
    return "", ""
