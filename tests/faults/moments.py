"""The moments of a run, numbered, so that it can be hurt at any one of them, and again there."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from framework.utilities import files

SEED = int(os.environ.get("FAULT_SEED", "0"))
"""Another one hurts other moments: ``FAULT_SEED=7 python -m pytest tests/faults``."""
HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
    "on_train_end",
    "on_fit_end",
)
WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Moment:
    """One moment: ``what`` happens next, and ``name`` of the file or of the hook."""

    what: str
    name: str


class Moments(Callback):
    """Notes the moments of a fit, and acts at one of them.

    A moment is a hook of training, or an operation on a file below the run's folder: that it is
    opened to be written, written into, renamed, removed, made. What a run does is the same each
    time, and so are the numbers of its moments, but for those of names that are drawn.

    Args:
        folder: Folder of the run.
        chosen: Says of a moment and its number whether to act; asked until it says so once.
        act: What is done before the moment's own operation.
    """

    def __init__(
        self,
        folder: Path,
        chosen: Callable[[int, Moment], bool] | None = None,
        act: Callable[[], None] | None = None,
    ) -> None:
        self.folder = str(folder)
        self.chosen = chosen
        self.act = act
        self.seen: list[Moment] = []
        self._watches = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Watch the files of this process, which must be a forked one: there is no way back."""
        if self._watches:
            return
        self._watches, process = True, os.getpid()
        write = files._RecordingFile.write

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if os.getpid() != process or not args or not str(args[0]).startswith(self.folder):
                return
            if event == "open" and not (isinstance(args[2], int) and args[2] & WRITES):
                return
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                self._pass(event, args[0])

        def slowly(file: Any, data: Any) -> Any:
            if str(file.name).startswith(self.folder):
                self._pass("write", file.name)
            return write(file, data)

        files._RecordingFile.write = slowly  # type: ignore[method-assign]
        sys.addaudithook(audit)

    def _pass(self, what: str, name: Any) -> None:
        moment = Moment(what, os.path.basename(os.fspath(name)))
        self.seen.append(moment)
        if self.chosen is not None and self.chosen(len(self.seen) - 1, moment):
            self.chosen = None
            assert self.act is not None
            self.act()


def _hook(name: str) -> Callable[..., None]:
    return lambda self, *args, **options: self._pass("hook", name)


for name in HOOKS:
    setattr(Moments, name, _hook(name))


def kill() -> None:
    """End this process without a farewell."""
    os.kill(os.getpid(), signal.SIGKILL)


def sends(*signals: int) -> Callable[[], None]:
    """Return what sends signals to its own process, one after the other."""
    return lambda: [os.kill(os.getpid(), signum) for signum in signals] and None


def at(number: int) -> Callable[[int, Moment], bool]:
    """Choose the moment of a number."""
    return lambda current, _: current == number


def when(what: str, part: str, count: int = 1) -> Callable[[int, Moment], bool]:
    """Choose the ``count``-th moment at which ``what`` happens to a name with ``part`` in it."""
    left = [count]

    def chosen(_: int, moment: Moment) -> bool:
        if moment.what == what and part in moment.name:
            left[0] -= 1
        return left[0] == 0

    return chosen


def draw(name: str, moments: Sequence[Moment], count: int) -> list[int]:
    """Return numbers of moments after the first save, drawn by ``SEED`` and a name."""
    saves = (i for i, moment in enumerate(moments) if moment.what == "os.rename")
    first = next(i for i in saves if ".ckpt" in moments[i].name)
    return random.Random(f"{SEED}/{name}").sample(range(first + 1, len(moments)), count)
