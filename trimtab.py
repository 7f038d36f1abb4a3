"""The command ``trimtab``: sees every room, so that class names resolve, and hands over."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def import_rooms() -> None:
    """Import what configs name, so that short class names resolve."""
    import callbacks  # noqa: F401
    import datamodules  # noqa: F401
    import framework.attacks
    import framework.losses
    import framework.ops.selection
    import framework.optim
    import framework.run_logger
    import framework.schedules
    import framework.wandb_logger  # noqa: F401
    import modules  # noqa: F401


def main(args: Sequence[str] | None = None) -> None:
    """Run ``trimtab fit|validate|test|predict ...`` or ``trimtab report RUN``."""
    arguments = list(sys.argv[1:] if args is None else args)
    from framework import cli

    if not arguments:
        arguments = ["--help"]
    if arguments[:1] == ["report"]:
        from framework import report

        with cli.one_sentence():
            report.main(arguments[1:])
        return
    import_rooms()
    from callbacks import for_every_run

    cli.main(arguments, for_every_run())


if __name__ == "__main__":
    main()
