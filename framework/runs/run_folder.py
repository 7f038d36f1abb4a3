"""Where a run keeps what it writes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from framework.runs.run_record import NAME as RECORD
from framework.runs.run_record import HeldFolder, RunRecord, remove_record, write_ended
from framework.utilities.files import (
    make_folder,
    move,
    remove_empty_folder,
    remove_file,
    remove_new_folder,
)

TIME = "%Y-%m-%d_%H-%M-%S"
EVALUATIONS = {
    "validate": (
        "config_validate.yaml",
        "metrics_validate.csv",
        "figures/validate_*.png",
        "tables/validate_*.csv",
    ),
    "test": (
        "config_test.yaml",
        "metrics_test.csv",
        "figures/test_*.png",
        "tables/test_*.csv",
        "features.html",
    ),
    "predict": ("config_predict.yaml", "predictions.*", "embeddings.*", "detections"),
}
"""What an evaluation writes into a run folder."""


@dataclass
class RunFolder:
    """The folder of one run: config, metrics, checkpoints, figures, predictions.

    Args:
        path: The folder.
        made: Folders that this process made for it, the run's own first.
        is_new: Whether it held no run before this process.
        record: Record of this process; None where it has nothing to say of the run.
        held: Hold of this process on the folder.
    """

    path: Path
    made: list[Path] = field(default_factory=list)
    is_new: bool = False
    record: RunRecord | None = None
    held: HeldFolder | None = None

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start of the same job trained this run to its end."""
        return self.record is not None and bool(self.record.restarts) and self.record.is_finished

    def end(self, local_rank: int) -> None:
        """Note that training came to its end, on each machine.

        Args:
            local_rank: Number of this process among those of its machine.
        """
        if self.held is not None:
            self.held.end()
        elif local_rank == 0 and self.record is not None and self.record.job is not None:
            write_ended(self.path, self.record)

    def release(self) -> None:
        """Let other processes take the folder."""
        if self.held is not None:
            self.held.release()

    def clear(self, failed: bool) -> None:
        """Remove what this process made for nothing.

        Args:
            failed: Whether the command failed; then a folder with nothing but its config goes too.
        """
        if not self.is_new:
            return
        if not any(path.is_file() for path in self.path.rglob("*") if path.name != RECORD):
            remove_record(self.path)
        has_results = (self.path / "metrics.csv").exists() or any(self.path.rglob("*.ckpt"))
        if failed and not has_results:
            remove_file(self.path / "config.yaml")
            remove_record(self.path)
            if self.path in self.made and not any(self._other_files()):
                remove_new_folder(self.path)
        for folder in self.made:
            remove_empty_folder(folder)

    def _other_files(self) -> Iterator[Path]:
        """Yield files that are not configs and not W&B's record of the start."""
        for path in self.path.rglob("*"):
            place = path.relative_to(self.path).parts[0]
            if path.is_file() and path.suffix != ".yaml" and not place.startswith("wandb"):
                yield path


def holds_run(folder: Path) -> bool:
    """Return whether a run was trained in a folder."""
    return any((folder / name).exists() for name in ("config.yaml", "metrics.csv", "checkpoints"))


def check_links(folder: Path) -> None:
    """Refuse a run folder out of which a link leads: it may be anybody's, and is written into.

    Checkpoints may be links, as they are replaced and never written through. Where no config lies,
    the folder may be one that a person works in, of which folders directly in it are looked at.

    Raises:
        ValueError: There is such a link.
    """
    whole = (folder / "config.yaml").exists()
    for root, folders, names in os.walk(folder):
        inside = [*folders, *(name for name in names if whole and not name.endswith(".ckpt"))]
        for path in (Path(root, name) for name in sorted(inside)):
            place = path.resolve()
            if path.is_symlink() and not place.is_relative_to(folder.resolve()):
                raise ValueError(
                    f"{path} is a link to {place}, which lies out of the run folder: put what it "
                    "leads to in its place."
                )
        # W&B names what it writes anew in each process
        folders[:] = [name for name in folders if whole and name != "wandb"]


def set_aside(folder: Path, command: str) -> Path | None:
    """Move what an earlier evaluation wrote into a folder of its own, ``earlier/<command>_<time>``.

    Args:
        folder: Run folder.
        command: One of ``EVALUATIONS``.

    Returns:
        Where it is now; None where there was nothing.
    """
    found = [path for pattern in EVALUATIONS[command] for path in folder.glob(pattern)]
    if not found:
        return None
    written = time.localtime(max(path.lstat().st_mtime for path in found))
    for earlier in numbered(folder / "earlier" / f"{command}_{time.strftime(TIME, written)}"):
        with suppress(FileExistsError):
            make_folder(earlier, exist_ok=False)
            break
    for path in found:
        move(path, earlier / path.relative_to(folder))
    return earlier


def numbered(folder: Path) -> Iterator[Path]:
    """Yield a folder, then the same with a number after its name, beginning with 2."""
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in count(2))


@cache
def warn_of_removal(folder: Path) -> None:
    """Say once that a run folder, or a file in it, was removed by somebody."""
    rank_zero_warn(
        f"{folder}, or a file in it, was removed while its run goes on: config, metrics and "
        "checkpoints are written there again."
    )
