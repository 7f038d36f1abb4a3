"""Runs a command on the pretended GPU and returns what its steps did."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from unittest import mock

import torch
from lightning.pytorch import Callback

from framework.data import datamodule
from tests.helpers.ranks import RANKS, TwoRanks
from tests.helpers.runs import QUIET, ROOT
from tests.pretended_gpu.autocast import cuda_autocast
from tests.pretended_gpu.device import pretended_gpu
from tests.pretended_gpu.events import Kind, Log, Recorder
from tests.pretended_gpu.nccl import GRADIENTS, pretended_nccl
from tests.pretended_gpu.phases import TRAINING, lightning_phases

ONE_GPU = ["--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.log_every_n_steps=1000"]
DDP = "--trainer.strategy=ddp"
TWO_GPUS = [*ONE_GPU, f"--trainer.devices={RANKS}", DDP]

Lines = Literal["none", "waits", "launches"]
"""What has lines: nothing of backward passes, everything but launches, or all; each is slower."""


@dataclass(frozen=True)
class Place:
    """How often something happened at a place in one step."""

    count: int
    what: str
    where: tuple[str, ...]
    size: int = 0

    def __str__(self) -> str:
        size = f" ({self.size} B)" if self.size else ""
        return f"{self.count:5d}  {self.what}{size}  {' < '.join(self.where)}"


@dataclass
class Step:
    """What one step did."""

    waits: int = 0
    launches: int = 0
    float64: int = 0
    unordered: int = 0
    collectives: int = 0
    collective_bytes: int = 0
    """Beside the gradients of DDP."""
    bytes_to_device: int = 0
    bytes_to_host: int = 0


@dataclass
class Measurement:
    """What a command did.

    Args:
        error: Traceback that it ended with, or None.
        faults: What CUDA or NCCL would have refused, and where.
        steps: By phase.
        places: By phase and kind, of the step with most waits but the first, most frequent first.
        operations: By phase, how often every operation was launched in that step.
        waits_between: By phase, waits that belong to no step.
        peak_memory: Bytes that tensors took at most.
    """

    error: str | None = None
    faults: list[str] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=dict)
    places: dict[str, dict[Kind, list[Place]]] = field(default_factory=dict)
    operations: dict[str, Counter[str]] = field(default_factory=dict)
    waits_between: dict[str, int] = field(default_factory=dict)
    peak_memory: int = 0

    def most(self, name: str, phase: str = TRAINING) -> int:
        """Return the most of a count in two steps: one alone may be the first, or log."""
        steps = self.steps.get(phase, [])
        counts = sorted((getattr(step, name) for step in steps[1:] or steps), reverse=True)
        return counts[min(1, len(counts) - 1)] if counts else 0


def measure(args: Sequence[str], lines: Lines = "none") -> Measurement:
    """Run a command in this process.

    Args:
        args: Command line without the program's name; ``ONE_GPU`` belongs to it.
        lines: What has lines.
    """
    return _measured([*args, *QUIET], 0, 1, lines)


def measure_on_two_ranks(
    two_ranks: TwoRanks,
    args: Sequence[str],
    lines: Lines = "none",
) -> list[Measurement]:
    """Run a command on two ranks, under the rules of NCCL; ``TWO_GPUS`` belongs to it."""
    return two_ranks(_on_rank, [*args, *QUIET], lines)


def _on_rank(args: list[str], lines: Lines) -> Measurement:
    return _measured(args, int(os.environ["RANK"]), RANKS, lines)


def _measured(args: list[str], index: int, count: int, lines: Lines) -> Measurement:
    with contextlib.ExitStack() as stack:
        gpu = stack.enter_context(pretended_gpu(ROOT, index, count, on_fault="note"))
        gpu.lines_of_launches = lines == "launches"
        stack.enter_context(cuda_autocast())
        if count > 1:
            stack.enter_context(pretended_nccl(gpu))
        if lines != "none":
            stack.enter_context(_lines_of_backward())
        # nothing is pretended in another process, and starting one takes longer than the steps
        stack.enter_context(mock.patch.object(datamodule, "usual_workers", return_value=0))
        error = run(args, gpu)
    return summary(gpu, error, gpu.memory.peak)


def run(args: Sequence[str], recorder: Recorder, callbacks: Sequence[Callback] = ()) -> str | None:
    """Run a command, and return the traceback that it ended with, or None."""
    import trimtab
    from callbacks import for_every_run
    from framework.command import cli

    trimtab.import_configurable_classes()
    torch.set_num_threads(1)
    with lightning_phases(recorder):
        try:
            cli.run(args, [*for_every_run(), *callbacks])
        except BaseException as caught:
            return "".join(traceback.format_exception(caught))
    return None


@contextlib.contextmanager
def _lines_of_backward() -> Iterator[None]:
    """Let autograd keep the line of every node; the Trainer would switch that off again."""
    kept = mock.patch.object(
        torch.autograd, "set_detect_anomaly", return_value=contextlib.nullcontext()
    )
    with torch.autograd.set_detect_anomaly(True, check_nan=False), kept:
        yield


def summary(recorder: Recorder, error: str | None, peak_memory: int) -> Measurement:
    """Return what was recorded of a command."""
    log = recorder.log
    found = Measurement(error, peak_memory=peak_memory)
    found.faults = [f"{e.what}  {' < '.join(e.where)}, in {e.phase}" for e in log.of("fault")]
    for phase in log.entered:
        if not phase.endswith(" step"):
            found.waits_between[phase] = log.count("wait", phase)
            continue
        steps = found.steps[phase] = _steps(log, phase)
        shown = max(range(len(steps)), key=lambda i: (i > 0, steps[i].waits, steps[i].launches)) + 1
        found.places[phase] = _places(log, phase, shown)
        found.operations[phase] = Counter(
            {
                name: n
                for (where, step, name), n in log.launches.items()
                if (where, step) == (phase, shown)
            }
        )
    return found


def _steps(log: Log, phase: str) -> list[Step]:
    steps = [Step() for _ in range(log.entered[phase])]
    for (where, number, _), count in log.launches.items():
        if where == phase:
            steps[number - 1].launches += count
    for event in log.events:
        if event.phase != phase:
            continue
        step = steps[event.step - 1]
        match event.kind:
            case "wait":
                step.waits += event.count
            case "float64":
                step.float64 += event.count
            case "unordered":
                step.unordered += event.count
            case "collective":
                step.collectives += event.count
                step.collective_bytes += event.size if event.what != GRADIENTS else 0
            case "copy" if event.what.startswith("to the device"):
                step.bytes_to_device += event.size
            case "copy":
                step.bytes_to_host += event.size
    return steps


def _places(log: Log, phase: str, step: int) -> dict[Kind, list[Place]]:
    counts: dict[Kind, Counter[tuple[str, tuple[str, ...]]]] = {}
    sizes: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for event in log.events:
        if (event.phase, event.step) == (phase, step):
            key = (event.what, event.where)
            counts.setdefault(event.kind, Counter())[key] += event.count
            if event.kind == "collective":
                sizes[key] += event.size
    return {
        kind: [Place(count, *key, sizes[key]) for key, count in counter.most_common()]
        for kind, counter in counts.items()
    }
