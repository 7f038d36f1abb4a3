"""The command ``trimtab``: sees every room, so that class names resolve, and hands over."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def import_rooms() -> None:
    """Import what configs name, so that short class names resolve."""
    import callbacks  # noqa: F401
    import datamodules  # noqa: F401
    import framework.losses
    import framework.optim
    import framework.run_logger
    import framework.schedules
    import framework.wandb_logger  # noqa: F401
    import modules  # noqa: F401


def main(args: Sequence[str] | None = None) -> None:
    """Run ``trimtab fit|validate|test|predict ...``."""
    import_rooms()
    from callbacks import for_every_run
    from framework import cli

    cli.main(sys.argv[1:] if args is None else args, for_every_run())


if __name__ == "__main__":
    main()
