"""What every config does on a GPU: host waits, time of a step, memory.

    python -m benchmarks.gpu [--device cuda|pretended] [--steps 40] [--shrunk] [CONFIG ...]

Each config is fitted twice. First as small as in the tests and under
``torch.cuda.set_sync_debug_mode``, so that the host's waits stand beside those that the pretended
GPU of ``tests/pretended_gpu`` counted, which are pinned. Then as it is shipped, for some steps: the
time of a step against that of the bare network (forward pass, backward pass from the sum of what it
returns, step of the optimizer), and the most memory. A few minutes for all configs.

Where there is no GPU it runs on the pretended one, with shrunk configs: there the times are those
of the CPU and say nothing, but what is printed on a GPU is known to be printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from benchmarks.timing import machine
from tests.conftest import write_small_data
from tests.helpers.configs import SYSTEMS, arguments
from tests.helpers.runs import CONFIGS, QUIET, ROOT
from tests.pretended_gpu import bounds
from tests.pretended_gpu.configs import measured
from tests.pretended_gpu.device import pretended_gpu
from tests.pretended_gpu.events import Recorder
from tests.pretended_gpu.marks import flat_tensors
from tests.pretended_gpu.measure import ONE_GPU, Lines, Measurement, measure, run, summary
from tests.pretended_gpu.phases import TRAINING

WARM_UP = 3
SYNCHRONIZING = "called a synchronizing CUDA operation"


@dataclass
class Timing:
    """What a step of a config costs.

    Args:
        step: Milliseconds of a step of the Trainer.
        bare: Milliseconds of the bare network, or None where no part of the module was called.
        memory: Most bytes that tensors took.
        error: Why it was not measured, or None.
    """

    step: float = 0.0
    bare: float | None = None
    memory: int = 0
    error: str | None = None


@contextlib.contextmanager
def noted_waits(recorder: Recorder) -> Iterator[None]:
    """Note, inside the block, what torch warns of as a synchronizing operation."""

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if SYNCHRONIZING in str(message):
            recorder.note("wait", "synchronizing operation")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield


def measure_on_gpu(args: Sequence[str], lines: Lines = "none") -> Measurement:
    """Run a command on the machine's GPU and return what its steps waited for."""
    recorder = Recorder(ROOT)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with noted_waits(recorder):
            error = run([*args, *QUIET], recorder)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return summary(recorder, error, torch.cuda.max_memory_allocated())


class Clock(Callback):
    """Times the steps of a fit, and after it the network alone on the last step's inputs.

    Args:
        steps: How many steps are taken.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.timing = Timing()
        self._start = 0.0
        self._calls: dict[nn.Module, tuple[tuple, dict[str, Any]]] = {}
        self._hooks: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Start after the steps that set things up; end before the last, whose calls are kept."""
        if trainer.global_step == WARM_UP:
            self._start = now()
        elif trainer.global_step == self.steps - 1:
            taken = self.steps - 1 - WARM_UP
            self.timing.step = (now() - self._start) / taken * 1e3
            self.timing.memory = torch.cuda.max_memory_allocated()
            for part in pl_module.children():
                if any(p.requires_grad for p in part.parameters()):
                    hook = part.register_forward_pre_hook(self._keep, with_kwargs=True)
                    self._hooks.append(hook)

    def _keep(self, part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._calls.setdefault(part, tree_map_only(Tensor, Tensor.detach, (args, kwargs)))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Time what was called in the last step, by itself."""
        for hook in self._hooks:
            hook.remove()
        if not self._calls:
            return
        start = 0.0
        for step in range(self.steps):
            if step == WARM_UP:
                start = now()
            for optimizer in trainer.optimizers:
                optimizer.zero_grad()
            outputs = [part(*args, **kwargs) for part, (args, kwargs) in self._calls.items()]
            differentiable(outputs).backward()
            for optimizer in trainer.optimizers:
                optimizer.step()
        self.timing.bare = (now() - start) / (self.steps - WARM_UP) * 1e3


def differentiable(outputs: Sequence[Any]) -> Tensor:
    """Return the sum of all that has a gradient."""
    values = [list(x.values()) if isinstance(x, dict) else x for x in outputs]
    return torch.stack([x.sum() for x in flat_tensors(values) if x.requires_grad]).sum()


def now() -> float:
    """Return the time when the device has done all that it was told to."""
    torch.cuda.synchronize()
    return time.perf_counter()


def time_steps(args: Sequence[str], steps: int) -> Timing:
    """Return what a step costs of the config that a command line names."""
    clock = Clock(steps)
    few = [
        f"--trainer.max_steps={steps}",
        "--trainer.max_epochs=-1",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_checkpointing=false",
        *QUIET,
    ]
    torch.cuda.reset_peak_memory_stats()
    error = run(["fit", *args, *ONE_GPU, *few], Recorder(ROOT), [clock])
    if error is not None:
        clock.timing.error = error.strip().splitlines()[-1]
    return clock.timing


def line(name: str, found: Measurement, timing: Timing) -> str:
    """Return a config's row of the table."""
    pinned = bounds.pinned().get(name, {}).get("waits", "-")
    cells = f"{name:22} {found.most('waits'):6} {pinned!s:>7}"
    if timing.error is not None:
        return f"{cells}  not timed: {timing.error}"
    cells += f" {timing.step:10.2f}"
    if timing.bare is None:
        cells += f" {'-':>10} {'-':>6}"
    else:
        cells += f" {timing.bare:10.2f} {timing.step / timing.bare:6.2f}"
    return f"{cells} {timing.memory / 2**20:9.1f}"


def benchmark(name: str, options: argparse.Namespace, data: Path, folder: Path) -> str:
    """Measure one config, and return what is printed of it."""
    pretended = options.device == "pretended"
    by = measure if pretended else measure_on_gpu
    found = measured(name, data, folder / "waits", commands=["fit"], measured_by=by)["fit"]
    if found.error is not None:
        return f"{name:22} not run: {found.error.strip().splitlines()[-1]}"
    shipped = [f"--config={CONFIGS / f'{name}.yaml'}"]
    args = arguments(name, data=data) if options.shrunk or pretended else shipped
    args = [*args, f"--run_folder={folder / 'times'}"]
    with pretended_gpu(ROOT, on_fault="note") if pretended else contextlib.nullcontext():
        timing = time_steps(args, options.steps)
    lines = [line(name, found, timing)]
    if found.most("waits") > bounds.pinned().get(name, {}).get("waits", 0):
        lines += [f"  {place}" for place in found.places[TRAINING].get("wait", [])]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = "cuda" if torch.cuda.is_available() else "pretended"
    parser.add_argument("names", nargs="*", metavar="CONFIG", default=SYSTEMS)
    parser.add_argument("--device", default=usual, choices=["cuda", "pretended"])
    parser.add_argument("--steps", type=int, default=40, help="of the fits that are timed")
    parser.add_argument("--shrunk", action="store_true", help="time the configs of the tests")
    options = parser.parse_args(args)
    if options.steps < WARM_UP + 2:
        parser.error(f"--steps must be at least {WARM_UP + 2}, found {options.steps}")
    warnings.simplefilter("ignore")
    print(machine("cuda") if options.device == "cuda" else "pretended GPU: times are the CPU's")
    titles = ("waits", "pinned", "ms a step", "ms bare", "ratio", "MiB")
    print(f"{'':22} {{:>6}} {{:>7}} {{:>10}} {{:>10}} {{:>6}} {{:>9}}".format(*titles))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_small_data(data)
        for name in options.names:
            with contextlib.redirect_stdout(sys.stderr):
                text = benchmark(name, options, data, Path(folder) / name)
            print(text, flush=True)


if __name__ == "__main__":
    main()
