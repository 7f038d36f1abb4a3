"""Published training methods for PyTorch Lightning, each of them one line of YAML.

Every public name is here, and is imported when it is first used: ``trimtab.SAF``,
``trimtab.CompSumLoss``, ``trimtab.rotated_nms``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

_CONFIGURABLE = (
    "modules",
    "modules.domain_adaptation",
    "modules.sae",
    "datamodules",
    "callbacks",
    "framework.losses",
    "framework.optim",
    "framework.schedules",
    "framework.gradients",
    "framework.layers",
    "framework.attacks",
    "framework.sparse_coding.selection",
    "framework.runs.csv_logger",
    "framework.runs.wandb_logger",
)
"""Packages whose classes a config may name."""


def import_public_names() -> None:
    """Import what configs name, so that short class names resolve."""
    for name in _CONFIGURABLE:
        package = import_module(name)
        for public in getattr(package, "__all__", ()):
            getattr(package, public)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``trimtab fit|validate|test|predict ...``, ``trimtab report RUN`` or ``trimtab new``."""
    arguments = list(sys.argv[1:] if args is None else args)
    from framework.command import cli

    if not arguments:
        arguments = ["--help"]
    if arguments[:1] == ["report"]:
        from framework.command import report

        with cli.error_messages():
            report.main(arguments[1:])
        return
    if arguments[:1] == ["new"]:
        from framework.command import new

        with cli.error_messages():
            new.main(arguments[1:])
        return
    import_public_names()
    from callbacks import for_every_run

    cli.main(arguments, for_every_run())


if __name__ == "__main__":
    main()
