"""The command ``trimtab``: sees every room, so that class names resolve, and hands over."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run ``trimtab fit|validate|test|predict ...``."""
    # imported for the class names that configs then know
    import datamodules  # noqa: F401
    import framework.losses
    import framework.optim
    import framework.run_logger
    import framework.schedules
    import framework.wandb_logger
    import modules  # noqa: F401
    from framework import cli

    import callbacks

    cli.main(sys.argv[1:] if args is None else args, callbacks.for_every_run)


if __name__ == "__main__":
    main()
