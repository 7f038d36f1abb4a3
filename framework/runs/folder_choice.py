"""Which folder is a run's own."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from framework.runs.checkpoint_argument import run_of
from framework.runs.config_files import ROOT, name_of_config, option
from framework.runs.job import agent_store, current_job
from framework.runs.run_folder import TIME, RunFolder, check_links, holds_run, numbered
from framework.runs.run_record import HeldFolder, RunRecord, read_record, record_of
from framework.utilities.files import make_folder


def choose_run_folder(
    args: Sequence[str],
    root: str | Path | None = None,
    name: str | None = None,
    exact: str | Path | None = None,
) -> RunFolder:
    """Return the folder of the checkpoint's run, or a new one ``ROOT/<config>/<name or time>``.

    Processes that belong to one run agree on it: those that Lightning starts inherit it by an
    environment variable, those that torchrun starts ask its store, and a SLURM job finds its folder
    again when it is put back into the queue.

    Args:
        args: Command line.
        root: Folder of all runs; default ``runs``.
        name: Name of the run instead of the time.
        exact: The run's folder itself.

    Raises:
        ValueError: The name is no name of a folder, or a link leads out of the checkpoint's run.
        FileExistsError: The folder holds another run.
        OSError: The folder cannot be written.
    """
    record = record_of(args, current_job())
    checkpoints = option(args, "--ckpt_path")
    own = run_of(checkpoints[-1]) if checkpoints else None
    if exact is not None:
        if name is not None:
            raise ValueError(f"name and run_folder exclude each other, got {name!r} and {exact!r}.")
        folder = Path(exact).expanduser()
        if own is not None and own.resolve() == folder.resolve():
            return _go_on_in(folder, record)
        return _claim(folder, record)
    if own is not None and name in (None, own.name):
        # training that goes on in another place is another run
        elsewhere = option(args, "--trainer.default_root_dir")
        place = Path(elsewhere[-1]).resolve() if elsewhere else None
        if place is None or place in (own.resolve(), *own.resolve().parents):
            return _go_on_in(own, record)
    if "TRIMTAB_RUN_FOLDER" in os.environ and "LOCAL_RANK" in os.environ:
        return _of_other_rank(Path(os.environ["TRIMTAB_RUN_FOLDER"]), record)
    parent = Path(root or ROOT).expanduser() / name_of_config(args)
    if name is not None and (not name or name.startswith(".") or Path(name).name != name):
        raise ValueError(f"name must be a name for a folder, got {name!r}.")
    chosen = _of_rank_zero(parent, name, record)
    os.environ["TRIMTAB_RUN_FOLDER"] = str(chosen.path)
    return chosen


def _of_rank_zero(parent: Path, name: str | None, record: RunRecord) -> RunFolder:
    """Return what rank 0 chose, in processes that torchrun started; there is no group yet."""
    store, key = agent_store(), "trimtab/run_folder"
    if store is None:
        return _new(parent, name, record)
    if os.environ["RANK"] != "0":
        return _of_other_rank(Path(store.get(key).decode()), record)
    if record.restarts and store.check([key]):
        return _claim(Path(store.get(key).decode()), record)
    chosen = _new(parent, name, record)
    store.set(key, str(chosen.path))
    return chosen


def _new(parent: Path, name: str | None, record: RunRecord) -> RunFolder:
    if name is not None:
        return _claim(parent / name, record)
    if "SLURM_JOB_ID" in os.environ:
        return _of_slurm(parent, record)
    return _first_free(parent / time.strftime(TIME), record)


def _of_slurm(parent: Path, record: RunRecord) -> RunFolder:
    """Return the run's folder among those of its job, which every rank finds without the others."""
    assert record.job is not None
    base = parent / record.job
    if record.step:
        base = base.with_name(f"{base.name}.{record.step}")
    earlier = _earlier(parent, record)
    if earlier is not None:
        return _claim(earlier, record)
    if record.restarts and read_record(base) is None:
        # the first start came to nothing, or left its record on the disk of rank 0's machine
        return _claim(base, record, may_hold_run=True)
    if _is_rank_zero():
        return _first_free(base, record)
    for folder in numbered(base):
        there = read_record(folder)
        if there is None and not holds_run(folder):
            return _of_other_rank(folder, record)
        if there is not None and _same_start(there) == _same_start(record):
            return _of_other_rank(folder, record)
    raise AssertionError("there is a number for each folder")


def _earlier(parent: Path, record: RunRecord) -> Path | None:
    """Return the folder that this command had before its job was started again.

    Steps that start at the same time may have other numbers now. Of the same command twice, each
    takes a folder that this start of the job has not yet taken, in the same order.
    """
    found = []
    for folder in parent.glob(f"{record.job}*") if record.restarts else ():
        there = read_record(folder)
        if there is None or there.job != record.job:
            continue
        if record.step is not None and _same_start(there) == _same_start(record):
            # another rank of this step was here first
            if not _is_rank_zero():
                return folder
        elif there.command == record.command and there.restarts < record.restarts:
            found.append((there.step != record.step, len(folder.name), folder.name))
    return parent / min(found)[2] if found else None


def _same_start(record: RunRecord) -> tuple[object, ...]:
    return record.job, record.step, record.restarts, record.command


def _is_rank_zero() -> bool:
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _first_free(folder: Path, record: RunRecord) -> RunFolder:
    """Make a folder of this name, with a number after it where the name is taken."""
    for free in numbered(folder):
        with suppress(FileExistsError):
            if read_record(free) is None:
                return _claim(free, record)
    raise AssertionError("there is a number for each folder")


def _claim(folder: Path, record: RunRecord, may_hold_run: bool = False) -> RunFolder:
    """Make a folder on rank 0, which no other process can do at the same time.

    Args:
        folder: Folder of a run.
        record: Record of this process.
        may_hold_run: Whether a run in it is this one.
    """
    if not _is_rank_zero():
        return _of_other_rank(folder, record)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    is_new = not holds_run(folder)
    try:
        make_folder(folder)
        if not (is_new or may_hold_run or record.is_restart_of(read_record(folder))):
            raise FileExistsError
        held = HeldFolder(folder, record, is_claim=True)
    except FileExistsError as error:
        raise FileExistsError(
            f"{folder} holds a run already: choose another name or folder, or continue that run by "
            f"--ckpt_path {folder}."
        ) from error
    except OSError as error:
        raise OSError(
            f"{str(error).rstrip('.')}; choose another place by --trainer.default_root_dir."
        ) from error
    return RunFolder(folder, made, is_new, held.record, held)


def _go_on_in(folder: Path, record: RunRecord) -> RunFolder:
    """Return the folder of a checkpoint, which one process at a time trains in."""
    check_links(folder)
    if "fit" not in record.command:
        return RunFolder(folder)
    if not _is_rank_zero():
        return _of_other_rank(folder, record)
    held = HeldFolder(folder, record, is_claim=False)
    return RunFolder(folder, record=held.record, held=held)


def _of_other_rank(folder: Path, record: RunRecord) -> RunFolder:
    return RunFolder(folder, record=record.after(read_record(folder)))
