"""Where a run keeps what it writes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from framework.runs.config_files import CONFIG_FLAGS, find_config, option
from framework.runs.job import restarts
from framework.runs.newest_checkpoint import newest_checkpoint
from framework.utilities.files import (
    make_folder,
    move,
    remove_empty_folder,
    remove_file,
    remove_new_folder,
)

ROOT = "runs"
TIME = "%Y-%m-%d_%H-%M-%S"
OF_SLURM = re.compile(r"hpc_ckpt_\d+\.ckpt")
"""What former versions wrote directly into a run folder before SLURM started a job again."""
EVALUATIONS = {
    "validate": ("config_validate.yaml", "metrics_validate.csv", "figures/validate_*.png"),
    "test": ("config_test.yaml", "metrics_test.csv", "figures/test_*.png", "features.html"),
    "predict": ("config_predict.yaml", "predictions.*", "detections"),
}
"""What an evaluation writes into a run folder."""


@dataclass
class RunFolder:
    """The folder of one run: config, metrics, checkpoints, figures, predictions.

    Args:
        path: The folder.
        made: Folders that this process made for it, the run's own first.
        is_new: Whether it held no run before this process.
    """

    path: Path
    made: list[Path] = field(default_factory=list)
    is_new: bool = False

    def clear(self, failed: bool) -> None:
        """Remove what this process made for nothing.

        Args:
            failed: Whether the command failed; then a folder with nothing but its config goes too.
        """
        if not self.is_new:
            return
        has_results = (self.path / "metrics.csv").exists() or any(self.path.rglob("*.ckpt"))
        if failed and not has_results:
            remove_file(self.path / "config.yaml")
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


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Return the arguments with every config as a path.

    Without ``--config``, a checkpoint inside a run folder brings that run's config along.

    Raises:
        FileNotFoundError: No such config or checkpoint, or no config beside the checkpoint.
    """
    resolved: list[str] = []
    previous = ""
    for argument in args:
        flag, equals, value = argument.partition("=")
        if previous in CONFIG_FLAGS:
            argument = find_config(argument)
        elif flag in CONFIG_FLAGS and equals:
            argument = f"{flag}={find_config(value)}"
        resolved.append(argument)
        previous = argument
    if (config := accompanying_config(resolved)) is not None:
        resolved[1:1] = ["--config", str(config)]
    return resolved


def accompanying_config(args: Sequence[str]) -> Path | None:
    """Return the config that a checkpoint brings along, where the command line names none.

    Raises:
        FileNotFoundError: No such checkpoint, or no config beside it.
        ValueError: The config is a link out of the run folder.
    """
    checkpoints = option(args, "--ckpt_path")
    if not checkpoints or "://" in checkpoints[-1] or option(args, *CONFIG_FLAGS):
        return None
    return config_of(Path(checkpoints[-1]))


def resolve_checkpoints(args: Sequence[str]) -> list[str]:
    """Return the arguments with a run folder in the place of a checkpoint as one of its files.

    It is the newest checkpoint where training goes on, else the best.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
    """
    find = find_newest if "fit" in args else find_checkpoint
    resolved: list[str] = []
    for argument in args:
        flag, equals, value = argument.partition("=")
        if resolved and resolved[-1] == "--ckpt_path":
            argument = str(find(Path(argument)))
        elif flag == "--ckpt_path" and equals:
            argument = f"{flag}={find(Path(value))}"
        resolved.append(argument)
    return resolved


def find_checkpoint(path: Path) -> Path:
    """Return the best checkpoint of a run folder, else the last; what is no folder comes back.

    Args:
        path: Checkpoint, run folder, or the folder of a run's checkpoints.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    for name in ("best", "last"):
        for found in (path / "checkpoints" / f"{name}.ckpt", path / f"{name}.ckpt"):
            if found.is_file():
                return found
    raise FileNotFoundError(
        f"There is no checkpoint in {path}: name a run folder, which holds checkpoints/best.ckpt "
        "or checkpoints/last.ckpt, or a file."
    )


def find_newest(path: Path) -> Path:
    """Return the checkpoint that training goes on from; what is no folder comes back as it is.

    Args:
        path: Checkpoint, run folder, or the folder of a run's checkpoints.

    Raises:
        FileNotFoundError: A folder without such a checkpoint.
    """
    if not path.is_dir():
        return path
    newest = newest_checkpoint(path / "checkpoints", path)
    if newest is None:
        raise FileNotFoundError(
            f"There is no checkpoint in {path} from which training can go on: name a run folder, "
            "which holds checkpoints/last.ckpt, or a file."
        )
    return newest


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, or None where it lies in none."""
    path = Path(checkpoint)
    if path.parent.name == "checkpoints":
        return path.parent.parent
    return path.parent if OF_SLURM.fullmatch(path.name) else None


def config_of(checkpoint: Path) -> Path:
    """Return the config beside a checkpoint, which says how its model is built.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no config beside it.
        ValueError: The config is a link out of the run folder.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {checkpoint}.")
    config = (run_of(checkpoint) or checkpoint.parent) / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"{checkpoint} lies in no run folder: there is no {config}, which says how its model "
            "is built; the command takes one by --config."
        )
    if config.is_symlink() and not config.resolve().is_relative_to(config.parent.resolve()):
        raise ValueError(
            f"{config} is a link to {config.resolve()}, which lies out of the run folder; name the "
            "config that you mean by --config."
        )
    return config


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
    checkpoints = option(args, "--ckpt_path")
    own = run_of(checkpoints[-1]) if checkpoints else None
    if exact is not None:
        if name is not None:
            raise ValueError(f"name and run_folder exclude each other, got {name!r} and {exact!r}.")
        folder = Path(exact).expanduser()
        if own is not None and own.resolve() == folder.resolve():
            check_links(folder)
            return RunFolder(folder)
        return _reserve(folder, may_exist=not holds_run(folder), claims=True)
    if own is not None and name in (None, own.name):
        # training that goes on in another place is another run
        elsewhere = option(args, "--trainer.default_root_dir")
        place = Path(elsewhere[-1]).resolve() if elsewhere else None
        if place is None or place in (own.resolve(), *own.resolve().parents):
            check_links(own)
            return RunFolder(own)
    if "TRIMTAB_RUN_FOLDER" in os.environ and "LOCAL_RANK" in os.environ:
        return RunFolder(Path(os.environ["TRIMTAB_RUN_FOLDER"]))
    parent = Path(root or ROOT).expanduser() / _name_of_config(args)
    if name is not None and (not name or name.startswith(".") or Path(name).name != name):
        raise ValueError(f"name must be a name for a folder, got {name!r}.")
    chosen = _of_rank_zero(parent, name)
    os.environ["TRIMTAB_RUN_FOLDER"] = str(chosen.path)
    return chosen


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
    earlier = _free(folder / "earlier" / f"{command}_{time.strftime(TIME, written)}").path
    for path in found:
        move(path, earlier / path.relative_to(folder))
    return earlier


@cache
def warn_of_removal(folder: Path) -> None:
    """Say once that a run folder, or a file in it, was removed by somebody."""
    rank_zero_warn(
        f"{folder}, or a file in it, was removed while its run goes on: config, metrics and "
        "checkpoints are written there again."
    )


def _name_of_config(args: Sequence[str]) -> str:
    configs = option(args, *CONFIG_FLAGS)
    if not configs:
        return "run"
    path = Path(configs[0]).resolve()
    of_run = any((path.parent / name).exists() for name in ("metrics.csv", "checkpoints"))
    return path.parent.parent.name if of_run and path.name == "config.yaml" else path.stem


def _new(parent: Path, name: str | None) -> RunFolder:
    if name is not None:
        return _reserve(parent / name)
    if "SLURM_JOB_ID" in os.environ:
        folder = parent / f"slurm-{os.environ['SLURM_JOB_ID']}"
        return _reserve(folder, may_exist=not holds_run(folder))
    return _free(parent / time.strftime(TIME))


def _free(folder: Path) -> RunFolder:
    """Make a folder of this name, with a number after it where the name is taken."""
    for number in count(1):
        try:
            return _reserve(folder.with_name(f"{folder.name}-{number}") if number > 1 else folder)
        except FileExistsError:
            continue
    raise AssertionError("a count has no end")


def _reserve(folder: Path, may_exist: bool = False, claims: bool = False) -> RunFolder:
    """Make a folder on rank 0, which no other process can do at the same time.

    Args:
        folder: Folder of a run.
        may_exist: Whether it may be there.
        claims: Whether another process must not have it, even if it was there.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return RunFolder(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    is_new = not holds_run(folder)
    try:
        make_folder(folder, exist_ok=may_exist or restarts() > 0)
        if claims and not restarts():
            make_folder(folder / "checkpoints", exist_ok=False)
            made = [folder / "checkpoints", *made]
    except FileExistsError as error:
        raise FileExistsError(
            f"{folder} holds a run already: choose another name or folder, or continue that run by "
            f"--ckpt_path {folder}."
        ) from error
    except OSError as error:
        raise OSError(
            f"{str(error).rstrip('.')}; choose another place by --trainer.default_root_dir."
        ) from error
    return RunFolder(folder, made, is_new)


def _of_rank_zero(parent: Path, name: str | None) -> RunFolder:
    """Return what rank 0 chose, in processes that torchrun started; there is no group yet."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return _new(parent, name)
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"trimtab/run_folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ["RANK"] != "0":
        return RunFolder(Path(store.get(key).decode()))
    chosen = _new(parent, name)
    store.set(key, str(chosen.path))
    return chosen
