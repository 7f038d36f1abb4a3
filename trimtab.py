"""Published training methods for PyTorch Lightning, each of them one line of YAML.

Every public name is here, and is imported when it is first used: ``trimtab.SAF``,
``trimtab.CompSumLoss``, ``trimtab.rotated_nms``.

    python -m trimtab fit --config configs/classifier.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.training.evaluation import EvaluationModule

_HERE = Path(__file__).resolve().parent
_TOP_LEVEL = ("framework", "modules", "datamodules", "callbacks", "configs")
# those of small things come first: a name is looked up in this order
_PACKAGES = (
    "framework.losses",
    "framework.ops",
    "framework.layers",
    "framework.optim",
    "framework.schedules",
    "framework.metrics",
    "framework.gradients",
    "framework.attacks",
    "framework.objectives",
    "framework.distributed",
    "framework.detection",
    "framework.detection.body_parts",
    "framework.embedding",
    "framework.embedding.backbones",
    "framework.embedding.heads",
    "framework.embedding.metrics",
    "framework.sparse_coding",
    "framework.clustering",
    "framework.adaptation",
    "framework.language",
    "framework.self_tuning",
    "framework.tuning",
    "framework.tuning.acquisition",
    "framework.solvers",
    "framework.pruning",
    "framework.dynamics",
    "framework.contrastive",
    "framework.graphs",
    "framework.energy",
    "framework.data",
    "framework.runs",
    "framework.training",
    "modules",
    "modules.bpjdet",
    "modules.classifier",
    "modules.constrained_bilevel",
    "modules.contrastive_learner",
    "modules.coteaching",
    "modules.depict",
    "modules.domain_adaptation",
    "modules.embedding",
    "modules.energy_model",
    "modules.few_shot",
    "modules.gghl",
    "modules.graph_clustering",
    "modules.language_model",
    "modules.nested",
    "modules.random_features",
    "modules.regressor",
    "modules.sae",
    "datamodules",
    "datamodules.body_parts",
    "datamodules.faces",
    "callbacks",
)
"""Packages whose public names are names of ``trimtab``."""
_CONFIGURABLE = (
    "modules",
    "modules.domain_adaptation",
    "modules.embedding",
    "modules.sae",
    "datamodules",
    "callbacks",
    "framework.losses",
    "framework.optim",
    "framework.schedules",
    "framework.gradients",
    "framework.layers",
    "framework.attacks",
    "framework.embedding",
    "framework.embedding.heads",
    "framework.sparse_coding",
    "framework.self_tuning",
    "framework.contrastive",
    "framework.energy",
    "framework.graphs",
    "framework.embedding",
    "framework.embedding.backbones",
    "framework.embedding.heads",
    "framework.embedding.metrics",
    "framework.runs",
)
"""Packages whose classes a config may name without their package."""


def _import_own_packages() -> None:
    """Import the top-level packages from beside this file, also where others have their names.

    A person may stand in a folder with ``callbacks/`` or ``modules/``, which Python searches first.

    Raises:
        ImportError: A package of another project with one of the names is imported already.
    """
    sys.path.insert(0, str(_HERE))
    try:
        packages = [import_module(name) for name in _TOP_LEVEL]
    finally:
        sys.path.remove(str(_HERE))
    for package in packages:
        folder = Path(next(iter(package.__path__))).resolve()
        if folder.parent != _HERE:
            raise ImportError(
                f"The name {package.__name__!r} is taken by {folder}, so that Trimtab's package of "
                f"that name cannot be imported; rename that folder."
            )


def _public_names() -> dict[str, str]:
    """Return {name: package} of everything that the packages export."""
    _import_own_packages()
    names: dict[str, str] = {}
    for package in _PACKAGES:
        names |= dict.fromkeys(import_module(package).__all__, package)
    return names


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("trimtab")
    if not name.startswith("_"):
        _import_own_packages()
        for package in map(import_module, _PACKAGES):
            if name in package.__all__:
                return getattr(package, name)
        from framework.utilities.nearest_names import nearest

        raise AttributeError(f"trimtab has no {name!r}{nearest(name, _public_names())}.")
    raise AttributeError(f"trimtab has no {name!r}.")


def __dir__() -> list[str]:
    return sorted({"__version__", "load", "main", *_public_names()})


def load(
    checkpoint: str | Path, allow: Sequence[str] = (), model: EvaluationModule | None = None
) -> EvaluationModule:
    """Return the module of a checkpoint, ready to predict; see ``framework.command.load``.

    Args:
        checkpoint: Checkpoint in a run folder, or the run folder: its best checkpoint, else its
            last.
        allow: Packages beside Trimtab's whose classes the run's config may name.
        model: Module that takes the state of the checkpoint, whose config is not read then.

    Example:
        >>> trimtab.load("runs/classifier/2026-01-01_12-00-00").predict(images)  # doctest: +SKIP
        {'prediction': tensor([3, 1]), 'probability': tensor([[...]])}
    """
    _import_own_packages()
    from framework.command.load import load

    return load(checkpoint, allow, model)


def import_configurable_classes() -> None:
    """Import the classes that configs name, so that their short names resolve."""
    _import_own_packages()
    for package in map(import_module, _CONFIGURABLE):
        for name in package.__all__:
            getattr(package, name)


def main(args: Sequence[str] | None = None) -> None:
    """Run one of the commands that ``framework.command.commands`` lists."""
    arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
    if arguments == ["--version"]:
        sys.stdout.write(f"trimtab {__getattr__('__version__')}\n")
        return
    try:
        _import_own_packages()
    except ImportError as error:
        sys.stderr.write(f"trimtab: {error}\n")
        raise SystemExit(1) from error
    from framework.command import commands

    # what needs no torch is answered at once
    try:
        commands.check_command(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"trimtab: {error}\n")
        raise SystemExit(2) from error
    if arguments[0] in ("--help", "-h"):
        sys.stdout.write(commands.overview())
        raise SystemExit(0)
    if commands.asks_for_configs(arguments):
        sys.stdout.write(commands.list_of_configs())
        return
    if arguments[0] == "report":
        from framework.command import cli, report

        with cli.error_messages():
            report.main(arguments[1:])
    elif arguments[0] == "new":
        from framework.command import cli, new

        with cli.error_messages():
            new.main(arguments[1:])
    else:
        from framework.runs.stop_signals import taken_signals

        with taken_signals(is_program=args is None):
            if arguments[0] == "tune":
                _tune(arguments[1:])
            else:
                _check_job()
                _run(arguments)


def _tune(arguments: list[str]) -> None:
    """Search for the settings of a fit; its config is read here, and run by other processes."""
    import_configurable_classes()
    from framework.command import cli, tune

    with cli.error_messages():
        tune.main(arguments)


def _check_job() -> None:
    """Refuse a job that Lightning would refuse, before the imports."""
    from framework.runs import slurm_job

    try:
        with slurm_job.said_once():
            slurm_job.check_tasks()
    except RuntimeError as error:
        sys.stderr.write(f"trimtab: {error}\n")
        raise SystemExit(1) from error


def _run(arguments: list[str]) -> None:
    """Run a command of the Trainer; the imports alone take seconds."""
    import_configurable_classes()
    from callbacks import for_every_run
    from framework.command import cli

    cli.main(arguments, for_every_run())


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a loading process that was spawned
    _import_own_packages()
