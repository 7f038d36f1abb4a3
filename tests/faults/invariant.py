"""What must hold after any hurt: nothing that was saved is lost, and the run goes on as unhurt."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from framework.command.cli import error_messages
from framework.runs.checkpoint_io import AtomicCheckpointIO
from framework.runs.csv_logger import read_metrics
from tests.faults.moments import Moment, Moments
from tests.helpers.runs import Record, differences, fit, in_child
from tests.test_resume import assert_close, assert_same_bits

EVERY = "--last_checkpoint.every_n_train_steps=2"
KILLED = 128 + signal.SIGKILL


@dataclass
class Outcome:
    """How a process ended: its exit code as a shell has it, what it said and, if well, did."""

    code: int
    said: str
    record: Record | None = None

    @property
    def lines(self) -> list[str]:
        """Lines of Trimtab's own."""
        # torch ends what it says of a worker by a null byte
        said = self.said.replace("\0", "")
        return [one for one in said.splitlines() if one.startswith("trimtab: ")]


def in_process(work: Callable[[], Any]) -> Outcome:
    """Call a function in a forked process, as the command would, and return how it ended.

    Args:
        work: Returns a record of what it did, or None.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result"), Path(folder, "log")

        def as_command() -> None:
            sys.stderr = os.fdopen(2, "w", closefd=False)
            logging.getLogger().handlers.clear()
            # as in a process of its own, and not as pytest has it
            warnings.resetwarnings()
            warnings.showwarning = _show
            for kind in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", kind)
            with error_messages():
                record = work()
            torch.save(vars(record) if isinstance(record, Record) else None, result)

        code = in_child(as_command, log)
        done = torch.load(result, weights_only=True) if result.exists() else None
        said = log.read_text() if log.exists() else ""
    return Outcome(code if code >= 0 else 128 - code, said, Record(**done) if done else None)


def _show(message: Warning | str, *place: Any) -> None:
    sys.stderr.write(warnings.formatwarning(message, *place[:3]))


def run(
    args: Sequence[str],
    folder: Path,
    *callbacks: Callback,
    before: Callable[[], Any] | None = None,
    ckpt_path: Path | None = None,
) -> Outcome:
    """Fit in a forked process, with ``folder`` as the run's.

    Args:
        args: Command line without ``fit``.
        folder: Folder of the run.
        callbacks: Further callbacks.
        before: Called first in the new process.
        ckpt_path: Checkpoint to go on from.
    """
    command = [*args, f"--run_folder={folder}"]
    if ckpt_path is not None:
        command.append(f"--ckpt_path={ckpt_path}")

    def work() -> Record:
        if before is not None:
            before()
        return fit(command, extra=callbacks)

    return in_process(work)


@dataclass
class Whole:
    """A run that nothing hurt."""

    args: list[str]
    folder: Path
    record: Record
    moments: list[Moment]


def whole_run(args: Sequence[str], folder: Path) -> Whole:
    """Fit without any hurt, and note the moments."""
    args, path = [*args, EVERY], folder.with_suffix(".moments")

    class Noted(Moments):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            path.write_text("\n".join(f"{one.what} {one.name}" for one in self.seen))

    outcome = run(args, folder, Noted(folder))
    assert outcome.code == 0, outcome.said
    assert outcome.record is not None
    moments = [Moment(*line.split(" ", 1)) for line in path.read_text().splitlines()]
    return Whole(args, folder, outcome.record, moments)


def checkpoints(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return what every checkpoint of a run holds; one that is not whole is an error."""
    # hidden files are parts
    found = [p for p in (folder / "checkpoints").glob("*.ckpt") if not p.name.startswith(".")]
    return {path: AtomicCheckpointIO().load_checkpoint(path) for path in sorted(found)}


def newest(folder: Path) -> Path | None:
    """Return the checkpoint of a run that has taken the most steps."""
    states = checkpoints(folder)
    return max(states, key=lambda path: states[path]["global_step"], default=None)


def assert_saved(whole: Whole, folder: Path) -> int:
    """Check what is there after a hurt: whole checkpoints, and each row of metrics once.

    Returns:
        Steps of the newest checkpoint.
    """
    path = newest(folder)
    assert path is not None
    steps = [row["step"] for row in read_metrics(folder / "metrics.csv")[1]]
    assert steps == sorted(set(steps))
    done = checkpoints(folder)[path]["global_step"]
    # what belongs to the checkpoint's own step may be logged after it
    expected = [row["step"] for row in read_metrics(whole.folder / "metrics.csv")[1]]
    expected = [step for step in expected if step < done - 1]
    assert steps[: len(expected)] == expected
    return int(done)


def assert_goes_on(whole: Whole, folder: Path) -> None:
    """Check what is there, let the run go on, and compare with the one that nothing hurt."""
    done = assert_saved(whole, folder)
    outcome = run(whole.args, folder, ckpt_path=folder)
    assert outcome.code == 0, outcome.said
    assert outcome.record is not None
    left = [step for step in whole.record.steps if step["step"] > done]
    assert len(outcome.record.steps) == len(left)
    assert_ended_alike(whole, folder, outcome.record)


def assert_ended_alike(whole: Whole, folder: Path, record: Record, exactly: bool = True) -> None:
    """Compare bits, metrics and checkpoints of a run that has ended with the one without hurt.

    Args:
        whole: Run without hurt.
        folder: Folder of the other.
        record: What the other did.
        exactly: Whether bits are compared; numbers to 1e-6 otherwise.
    """
    if record.steps:
        (assert_same_bits if exactly else assert_close)(whole.record, record)
    ours, theirs = ({p.name: c for p, c in checkpoints(f).items()} for f in (folder, whole.folder))
    assert set(ours) == set(theirs)
    behind = {n for n, c in theirs.items() if c["global_step"] != ours[n]["global_step"]}
    # killed between its last two saves, a run has nothing left to do, and its end in the best one
    assert behind <= (set() if record.steps else {"last.ckpt"})
    named = {path.name for path in (folder / "checkpoints").glob("*.shards")}
    assert named == {f"{n}.{c['shards']}.shards" for n, c in ours.items() if "shards" in c}
    if not exactly:
        return
    metrics = [(path / "metrics.csv").read_bytes() for path in (whole.folder, folder)]
    assert metrics[0] == metrics[1]
    for name, state in theirs.items():
        if name in behind:
            continue
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert differences(ours[name][part], state[part]) == [], (name, part)
