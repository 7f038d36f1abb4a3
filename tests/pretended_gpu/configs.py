"""Every config and overlay on the pretended GPU, shrunk as in ``tests/shrink``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.helpers.configs import OVERLAYS, PAPERS, SYSTEMS, arguments, base_of
from tests.helpers.ranks import TwoRanks
from tests.pretended_gpu.measure import (
    DDP,
    ONE_GPU,
    TWO_GPUS,
    Lines,
    Measurement,
    measure,
    measure_on_two_ranks,
)

FEW_BATCHES = ["--trainer.limit_val_batches=2", "--trainer.num_sanity_val_steps=0"]
FEW_STEPS = ["--trainer.max_steps=12"]
"""Of the published settings, which train for as long as the papers say."""
OF_SEVERAL_PROCESSES = ("with/ddp", "with/fsdp2")
COMMANDS = ("fit", "validate", "test", "predict")
ON_ONE_PROCESS = [
    *SYSTEMS,
    *PAPERS,
    *(f"{base_of(name)} {name}" for name in OVERLAYS if name not in OF_SEVERAL_PROCESSES),
]
"""Names of what runs on one process, overlays over the config that each is for."""
ON_TWO_RANKS_ALONE = [f"{base_of(overlay)} {overlay}" for overlay in OF_SEVERAL_PROCESSES]
"""Names of overlays with a strategy of their own."""


def measured(
    name: str,
    data: Path,
    folder: Path,
    extra: Sequence[str] = (),
    lines: Lines = "none",
    commands: Sequence[str] = COMMANDS,
    measured_by: Callable[[Sequence[str], Lines], Measurement] = measure,
) -> dict[str, Measurement]:
    """Return what the commands of a config did, by command, until one of them failed.

    Args:
        name: Config, and overlays, such as ``classifier with/saf``.
        data: Folder for configs that read one.
        folder: Folder of the run.
        extra: Further arguments.
        lines: See ``measure``.
        commands: Commands after the fit take the last checkpoint.
        measured_by: What runs a command and returns what it did.
    """
    args = [*arguments(*name.split(), data=data), *ONE_GPU, f"--run_folder={folder}", *extra]
    found: dict[str, Measurement] = {}
    for command in commands:
        own = [*FEW_BATCHES, *_few_steps(name)]
        if command != "fit":
            own = [
                f"--trainer.limit_{_stage(command)}_batches=2",
                f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}",
            ]
        found[command] = measured_by([command, *args, *own], lines)
        if found[command].error is not None:
            break
    return found


def measured_on_two_ranks(
    name: str,
    data: Path,
    folder: Path,
    two_ranks: TwoRanks,
    extra: Sequence[str] = (),
    lines: Lines = "none",
) -> list[Measurement]:
    """Return what a config's fit did on two ranks."""
    args = [*arguments(*name.split(), data=data), *TWO_GPUS, f"--run_folder={folder}", *extra]
    if name in ON_TWO_RANKS_ALONE:
        args.remove(DDP)
    return measure_on_two_ranks(two_ranks, ["fit", *args, *FEW_BATCHES, *_few_steps(name)], lines)


def _few_steps(name: str) -> list[str]:
    return FEW_STEPS if name.startswith("paper/") else []


def _stage(command: str) -> str:
    return "val" if command == "validate" else command
