"""The classes that a config may name: ours, and those of other packages by base class and place.

A config comes from anywhere, and naming a class runs it. Whatever is named here can be made with
any plain arguments and runs nothing, deletes nothing and opens no file that could.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from framework.command.jsonargparse_internals import import_unchecked, sources_of

OURS = ("framework", "modules", "datamodules", "callbacks")
"""Packages of Trimtab."""


@dataclass(frozen=True)
class Accepted:
    """Classes of other packages that a config may name.

    Args:
        slot: What an argument asks for.
        base: Class that they derive from.
        modules: Modules, with those inside them, that they are defined in and named by.
        names: Names of the classes, all of them where there are none.
        safe: Why they are safe, whatever their arguments.
        left_out: Names of those that are not, and why.
    """

    slot: str
    base: type
    modules: tuple[str, ...]
    names: frozenset[str]
    safe: str
    left_out: str = ""

    def has(self, kind: type) -> bool:
        """Return whether a class is one of them."""
        fits = issubclass(kind, self.base) or is_dataclass(kind)
        # of a base the parser says that it is one
        named = not self.names or kind is self.base or kind.__name__ in self.names
        return fits and named and is_in(kind.__module__, self.modules)


_NOT_NAMED = frozenset({"Lambda"})
"""Classes that do nothing but call a function."""

_UNPICKLING = {
    "fsdp": "FSDPStrategy",
    "model_parallel": "ModelParallelStrategy",
    "deepspeed": "DeepSpeedStrategy",
}
"""Strategies that read checkpoints by themselves, by what their names begin with."""

ACCEPTED = (
    Accepted(
        slot="optimizer",
        base=Optimizer,
        modules=("torch.optim", "timm.optim"),
        names=frozenset(),
        safe="arithmetic on parameters",
    ),
    Accepted(
        slot="learning rate schedule",
        base=LRScheduler,
        modules=("torch.optim", "lightning.pytorch.cli"),
        names=frozenset(),
        safe="arithmetic on learning rates; the function of LambdaLR must come from a package that "
        "was allowed",
    ),
    Accepted(
        slot="loss, layer or module",
        base=nn.Module,
        modules=("torch.nn",),
        names=frozenset(),
        safe="arithmetic on tensors",
    ),
    Accepted(
        slot="transform",
        base=object,
        modules=("torchvision.transforms",),
        names=frozenset(),
        safe="arithmetic on images; the transforms inside another are of this table, too",
        left_out="Lambda, which calls a function",
    ),
    Accepted(
        slot="callback",
        base=Callback,
        modules=("lightning.pytorch.callbacks",),
        names=frozenset(
            {
                "BackboneFinetuning",
                "BatchSizeFinder",
                "DeviceStatsMonitor",
                "EMAWeightAveraging",
                "EarlyStopping",
                "GradientAccumulationScheduler",
                "LearningRateFinder",
                "LearningRateMonitor",
                "ModelCheckpoint",
                "ModelPruning",
                "ModelSummary",
                "OnExceptionCheckpoint",
                "RichModelSummary",
                "RichProgressBar",
                "RichProgressBarTheme",
                "StochasticWeightAveraging",
                "TQDMProgressBar",
                "ThroughputMonitor",
                "Timer",
                "WeightAveraging",
            }
        ),
        safe="functions in their arguments must come from a package that was allowed",
        left_out="LambdaCallback, which calls functions, and SpikeDetection, which writes over a "
        "file of any name",
    ),
    Accepted(
        slot="logger",
        base=Logger,
        modules=("lightning.pytorch.loggers",),
        names=frozenset(
            {
                "CSVLogger",
                "CometLogger",
                "LitLogger",
                "MLFlowLogger",
                "NeptuneLogger",
                "TensorBoardLogger",
                "WandbLogger",
            }
        ),
        safe="they write metrics to a folder or send them to the service that the config names",
    ),
    Accepted(
        slot="strategy",
        base=Strategy,
        modules=("lightning.pytorch.strategies",),
        names=frozenset(
            {"DDPStrategy", "SingleDeviceStrategy", "SingleDeviceXLAStrategy", "XLAStrategy"}
        ),
        safe="they start this command again, and no other",
        left_out="FSDPStrategy, ModelParallelStrategy and DeepSpeedStrategy, which unpickle "
        "checkpoints",
    ),
    Accepted(
        slot="accelerator",
        base=Accelerator,
        modules=("lightning.pytorch.accelerators",),
        names=frozenset({"CPUAccelerator", "CUDAAccelerator", "MPSAccelerator", "XLAAccelerator"}),
        safe="they take no arguments",
    ),
    Accepted(
        slot="precision plugin",
        base=Precision,
        modules=("lightning.pytorch.plugins",),
        names=frozenset(
            {
                "BitsandbytesPrecision",
                "DoublePrecision",
                "HalfPrecision",
                "MixedPrecision",
                "Precision",
                "TransformerEnginePrecision",
                "XLAPrecision",
            }
        ),
        safe="they choose types of numbers",
    ),
    Accepted(
        slot="plugin for batch normalization",
        base=LayerSync,
        modules=("lightning.pytorch.plugins",),
        names=frozenset({"TorchSyncBatchNorm"}),
        safe="it takes no arguments",
    ),
    Accepted(
        slot="cluster environment",
        base=ClusterEnvironment,
        modules=("lightning.pytorch.plugins", "lightning.fabric.plugins.environments"),
        names=frozenset(
            {
                "KubeflowEnvironment",
                "LSFEnvironment",
                "LightningEnvironment",
                "MPIEnvironment",
                "SLURMEnvironment",
                "TorchElasticEnvironment",
                "XLAEnvironment",
            }
        ),
        safe="they read environment variables",
    ),
    Accepted(
        slot="plugin for checkpoints",
        base=CheckpointIO,
        modules=("lightning.pytorch.plugins",),
        names=frozenset({"AsyncCheckpointIO"}),
        safe="it saves in a thread; Trimtab reads and removes",
        left_out="all others, which may unpickle",
    ),
    Accepted(
        slot="profiler",
        base=Profiler,
        modules=("lightning.pytorch.profilers",),
        names=frozenset(
            {
                "AdvancedProfiler",
                "PassThroughProfiler",
                "PyTorchProfiler",
                "SimpleProfiler",
                "XLAProfiler",
            }
        ),
        safe="they write a report to a folder",
    ),
)
"""What a config may name of other packages without --allow."""


TRUSTED = frozenset([*OURS, *(root.partition(".")[0] for one in ACCEPTED for root in one.modules)])
"""Packages of which a config may name some classes."""

_TRANSFORMS = list[Callable[..., Any]]
HINTS: dict[str, dict[str, Any]] = {
    f"torchvision.transforms.transforms.{name}": {"transforms": _TRANSFORMS}
    for name in ("Compose", "RandomApply", "RandomChoice", "RandomTransforms")
}
"""What arguments without a type take, by class and name; all others take plain values."""


class NotAcceptedError(ImportError, ValueError):
    """A config names what it may not.

    Args:
        path: What it names.
    """

    def __init__(self, path: str) -> None:
        package = path.partition(".")[0]
        super().__init__(
            f"'{path}' is not among the classes that a config may name and was not imported; "
            f"use --allow {package} if you trust it"
        )


def find_object(path: str, allowed: Collection[str] = ()) -> Any:
    """Return the class that a config names, or also a function of a package that is allowed.

    The module is imported only where its name is one of ``ACCEPTED``, of Trimtab or of an allowed
    package, and what is found there counts by the module that defines it.

    Args:
        path: Dotted path.
        allowed: Packages that a person trusts.

    Raises:
        ValueError: It is no dotted path.
        ImportError: A config may not name it, or there is no such module.
        AttributeError: The module has no such class.
    """
    parts = path.split(".") if isinstance(path, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"Expected a dot import path string: {path}")
    module, _, name = path.rpartition(".")
    if is_in(path, allowed):
        found = import_unchecked(path)
        if not _is_trusted(found, allowed):
            raise NotAcceptedError(path)
        return found
    named = [*OURS, *(root for one in ACCEPTED for root in one.modules)]
    if any(part.startswith("_") for part in parts) or not is_in(module, named):
        raise NotAcceptedError(path)
    found = getattr(import_module(module), name)
    if not is_accepted(found):
        raise NotAcceptedError(path)
    return found


def check_strategy(name: str, find: Callable[[str], Any]) -> None:
    """Refuse the name of a strategy whose class a config may not name.

    Args:
        name: Name that the Trainer knows, such as ``"fsdp_cpu_offload"``.
        find: What returns the class of a dotted path that may be named.

    Raises:
        ValueError: It is none of ``ACCEPTED`` and was not allowed.
    """
    for beginning, kind in _UNPICKLING.items():
        if name.startswith(beginning):
            try:
                find(f"lightning.pytorch.strategies.{kind}")
            except NotAcceptedError:
                raise ValueError(
                    f"trainer.strategy {name!r} reads checkpoints by Python's unpickler, which can "
                    "run code; take FullyShardedStrategy, or use --allow lightning if you trust "
                    "yours."
                ) from None


def is_accepted(found: Any) -> bool:
    """Return whether a config may name an object without --allow: a public class of the table."""
    if not isinstance(found, type) or found.__name__.startswith("_"):
        return False
    if is_ours(found):
        return is_exported(found)
    return found.__name__ not in _NOT_NAMED and any(one.has(found) for one in ACCEPTED)


def is_ours(kind: type) -> bool:
    """Return whether a class is Trimtab's own."""
    return is_in(kind.__module__, OURS)


def is_exported(kind: type) -> bool:
    """Return whether a package that a class of ours lies in exports it."""
    folder = kind.__module__
    while folder:
        folder = folder.rpartition(".")[0]
        if kind.__name__ in getattr(sys.modules.get(folder), "__all__", ()):
            return True
    return False


def _is_trusted(found: Any, allowed: Collection[str]) -> bool:
    """Return whether an object that an allowed package holds is its own or an accepted class."""
    sources = sources_of(found)
    own = bool(sources) and all(is_in(source, allowed) for source in sources)
    return own or is_accepted(found)


def is_in(path: str, packages: Collection[str]) -> bool:
    """Return whether a dotted path is one of some packages or lies in one."""
    return any(path == package or path.startswith(f"{package}.") for package in packages)
