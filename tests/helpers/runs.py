"""Runs a config in this process and remembers what it did, for comparisons to the last bit."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from framework.command import cli
from framework.distributed.collectives import gather
from framework.distributed.row_shards import row_shards
from framework.runs.stop_signals import Interrupted

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


@dataclass
class Record:
    """What a run did, in plain containers and tensors on the CPU."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: Any = None
    metrics: dict[str, float] = field(default_factory=dict)


class Recorder(Callback):
    """Records every step; can kill the process or stop the run before a given step.

    Args:
        log: file to which each step's record is appended at once, so that it survives a kill.
        kill_at: global step before which the process kills itself with SIGKILL.
        terminate_at: global step in which it sends itself a signal.
        terminate_with: the signal.
        gradients: keep every step's gradients.
    """

    def __init__(
        self,
        log: Path | None = None,
        kill_at: int | None = None,
        terminate_at: int | None = None,
        terminate_with: int = signal.SIGTERM,
        gradients: bool = False,
    ) -> None:
        self.record = Record()
        self.journal = log
        self.kill_at = kill_at
        self.terminate_at = terminate_at
        self.terminate_with = terminate_with
        self.keep_gradients = gradients

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.global_step == self.terminate_at:
            os.kill(os.getpid(), self.terminate_with)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.keep_gradients:
            named = pl_module.named_parameters()
            gradients = {n: p.grad for n, p in named if p.grad is not None}
            self.record.gradients.append(whole_parameters(pl_module, gradients))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        names = list(pl_module.term_values)
        values = torch.stack(list(pl_module.term_values.values())).double()
        index = batch["index"]
        if trainer.world_size > 1:
            values = trainer.strategy.reduce(values, reduce_op="mean")
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, index.tolist())
            index = torch.tensor([i for part in parts for i in part])
        step = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "index": index.tolist(),
            "terms": {n: float(v).hex() for n, v in zip(names, values, strict=True)},
        }
        self.record.steps.append(step)
        if self.journal is not None and trainer.is_global_zero:
            with self.journal.open("a") as file:
                file.write(json.dumps(step) + "\n")

    def on_train_end(self, trainer, pl_module):
        self.record.parameters = whole_parameters(pl_module, dict(pl_module.named_parameters()))
        self.record.parameters |= {n: b.detach().clone() for n, b in pl_module.named_buffers()}
        self.record.optimizer = tree_map_only(DTensor, whole, trainer.optimizers[0].state_dict())

    def on_fit_end(self, trainer, pl_module):
        self.record.metrics = {n: float(v) for n, v in trainer.callback_metrics.items()}


def whole(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor as one process has it, also where the ranks hold parts of it."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_parameters(
    module: torch.nn.Module, named: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return copies of parameters, or of their gradients, as one process has them."""
    shards = row_shards(module)
    return {n: gather(v).clone() if n in shards else whole(v).clone() for n, v in named.items()}


def terms(step: dict[str, Any]) -> dict[str, float]:
    """Return a recorded step's terms as floats."""
    return {name: float.fromhex(value) for name, value in step["terms"].items()}


def fit(args: list[str], extra: Sequence[Callback] = (), **recorder: Any) -> Record:
    """Fit in this process (or on this rank) with further callbacks and return what happened."""
    import trimtab

    trimtab.import_configurable_classes()
    torch.set_num_threads(1)
    watcher = Recorder(**recorder)
    cli.run(["fit", *args, *QUIET], [*extra, watcher])
    return watcher.record


QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def flatten(state: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested containers by path."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, (list, tuple)):
        items = enumerate(state)
    else:
        return {prefix: state}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= flatten(value, f"{prefix}/{key}")
    return leaves


def differences(a: Any, b: Any) -> list[str]:
    """Return the paths at which two nested states differ by a single bit."""
    left, right = flatten(a), flatten(b)
    paths = sorted(set(left) ^ set(right))
    for path in sorted(set(left) & set(right)):
        x, y = left[path], right[path]
        same = torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y or _are_nan(x, y)
        if not same:
            paths.append(path)
    return paths


def _are_nan(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest absolute difference between two sets of tensors of the same names."""
    assert set(a) == set(b)
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a if a[n].numel())


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the length of the difference of two sets of tensors, over the length of the first."""
    assert set(a) == set(b)
    one, two = (torch.cat([x[n].double().flatten() for n in sorted(x)]) for x in (a, b))
    return float((one - two).norm() / one.norm())


DDP = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu"]


def fit_on_two_ranks(args: list[str], **recorder: Any) -> Record:
    """Fit on this rank of a pair that is already connected."""
    return fit([*args, *DDP], **recorder)


# whatever its size, every layer is gathered on its own
FSDP2 = [*DDP, "--trainer.strategy=FullyShardedStrategy", "--trainer.strategy.min_parameters=0"]


def fit_sharded(args: list[str], **recorder: Any) -> Record:
    """Fit on this rank of a connected pair, of which each holds a part of the parameters."""
    return fit([*args, *FSDP2], **recorder)


def stop_on_two_ranks(args: list[str], terminate_at: int) -> None:
    """Fit on this rank until both are told to stop."""
    try:
        fit_on_two_ranks(args, terminate_at=terminate_at)
    except Interrupted:
        return
    raise AssertionError("the run was not stopped")


def in_child(function: Callable[[], Any], log: Path | None = None) -> int:
    """Call a function in a forked process and return its exit code, ``-9`` if it was killed.

    Forking from a process that has imported everything makes a kill cost a tenth of a second.
    """
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            if log is not None:
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            function()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fit_in_child(args: list[str], result: Path, **recorder: Any) -> tuple[int, Record | None]:
    """Fit in a forked process; return its exit code and, if it ended well, what it did."""

    def work() -> None:
        record = fit(args, **recorder)
        torch.save(vars(record), result)

    code = in_child(work)
    if code != 0:
        return code, None
    return code, Record(**torch.load(result, weights_only=True))
