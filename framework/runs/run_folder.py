"""Where a run keeps what it writes, and where a config is found by name."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

CONFIG_FLAGS = ("--config", "-c")


@dataclass
class RunFolder:
    """The folder of one run: config, metrics, checkpoints, figures, predictions."""

    path: Path


def option(args: Sequence[str], *names: str) -> list[str]:
    """Return the values of a repeatable option, in order."""
    values = []
    for position, argument in enumerate(args):
        if argument in names and position + 1 < len(args):
            values.append(args[position + 1])
        for name in names:
            if argument.startswith(f"{name}="):
                values.append(argument.partition("=")[2])
    return values


def installed_configs() -> Path | None:
    """Return the folder of the configs that came with the installation."""
    spec = find_spec("configs")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) if locations else None


def find_config(name: str) -> str:
    """Return the path of a config, given by path or by name.

    ``configs/with/saf.yaml``, ``with/saf.yaml`` and ``with/saf`` all find the installed overlay
    where no such file lies in the current folder.

    Raises:
        FileNotFoundError: there is none; the sentence names the nearest.
    """
    if Path(name).is_file():
        return name
    folder = installed_configs()
    if folder is None:
        raise FileNotFoundError(f"There is no config {name!r}.")
    short = name.removeprefix("configs/").removesuffix(".yaml")
    found = folder / f"{short}.yaml"
    if found.is_file():
        return str(found)
    from difflib import get_close_matches

    known = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
    near = get_close_matches(short, known, n=3, cutoff=0.3) or known[:3]
    raise FileNotFoundError(f"There is no config {name!r}; the nearest are {', '.join(near)}.")


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
    checkpoints = option(resolved, "--ckpt_path")
    if checkpoints and "://" not in checkpoints[-1] and not option(resolved, *CONFIG_FLAGS):
        path = Path(checkpoints[-1])
        if not path.is_file():
            raise FileNotFoundError(f"There is no checkpoint at {path}.")
        config = (run_of(path) or path.parent) / "config.yaml"
        if not config.is_file():
            raise FileNotFoundError(
                f"{path} lies in no run folder: there is no {config}, which says how its model is "
                "built; give it by --config."
            )
        resolved[1:1] = ["--config", str(config)]
    return resolved


def resolve_checkpoints(args: Sequence[str]) -> list[str]:
    """Return the arguments with a run folder in the place of a checkpoint as one of its files.

    It is the last checkpoint where training goes on, else the best.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
    """
    order = ("last", "best") if "fit" in args else ("best", "last")
    resolved: list[str] = []
    for argument in args:
        flag, equals, value = argument.partition("=")
        if resolved and resolved[-1] == "--ckpt_path":
            argument = str(find_checkpoint(Path(argument), order))
        elif flag == "--ckpt_path" and equals:
            argument = f"{flag}={find_checkpoint(Path(value), order)}"
        resolved.append(argument)
    return resolved


def find_checkpoint(path: Path, order: Sequence[str] = ("best", "last")) -> Path:
    """Return the checkpoint of a run folder; what is no folder comes back as it is.

    Args:
        path: Checkpoint, run folder, or the folder of a run's checkpoints.
        order: Names of checkpoints, of which the first that is there is taken.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    for name in order:
        for found in (path / "checkpoints" / f"{name}.ckpt", path / f"{name}.ckpt"):
            if found.is_file():
                return found
    raise FileNotFoundError(
        f"There is no checkpoint in {path}: name a run folder, which holds checkpoints/best.ckpt "
        "or checkpoints/last.ckpt, or a file."
    )


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, or None where it lies in none."""
    folder = Path(checkpoint).parent
    return folder.parent if folder.name == "checkpoints" else None


def choose_run_folder(args: Sequence[str]) -> RunFolder:
    """Return the folder of the checkpoint's run, or a new one ``runs/<config>/<time>``.

    Processes that belong to one run agree on it: those that Lightning starts inherit it by an
    environment variable, those that torchrun starts ask its store, and a SLURM job finds its folder
    again when it is put back into the queue.
    """
    checkpoints = option(args, "--ckpt_path")
    run = run_of(checkpoints[-1]) if checkpoints else None
    if run is not None:
        return RunFolder(run)
    if "TRIMTAB_RUN_FOLDER" in os.environ and "LOCAL_RANK" in os.environ:
        return RunFolder(Path(os.environ["TRIMTAB_RUN_FOLDER"]))
    configs = option(args, *CONFIG_FLAGS)
    name = Path(configs[0]).stem if configs else "run"
    if "SLURM_JOB_ID" in os.environ:
        stamp = f"slurm-{os.environ['SLURM_JOB_ID']}"
    else:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(_of_rank_zero(str(Path("runs") / name / stamp)))
    os.environ["TRIMTAB_RUN_FOLDER"] = str(folder)
    return RunFolder(folder)


def _of_rank_zero(folder: str) -> str:
    """Return what rank 0 gave, in processes that torchrun started; there is no group yet."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return folder
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"trimtab/run_folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ["RANK"] == "0":
        store.set(key, folder)
    return str(store.get(key).decode())
