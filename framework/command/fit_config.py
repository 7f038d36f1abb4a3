"""The whole config of a fit, of which nothing is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from framework.command.argument_values import check_values
from framework.command.class_paths import set_up_parsing, take_allowed
from framework.command.cli import NOT_SAVED, TrimtabCLI
from framework.command.lightning_messages import choose_messages
from framework.runs.checkpoint_argument import resolve_configs
from framework.runs.version_0_1 import current_arguments
from framework.utilities.yaml_files import load_yaml


class _Parsed(Exception):  # noqa: N818 - it is no error
    """What a command line stands for was read, and no more is to be done."""


class _FitConfig(TrimtabCLI):
    """The command ``fit`` up to the moment in which it would choose a run folder."""

    text = ""

    def before_instantiate_classes(self) -> None:
        """Keep the config, and go no further."""
        check_values(self.config[self.subcommand])
        for name in NOT_SAVED:
            self.config[self.subcommand].pop(name, None)
        raise _Parsed(self.parser.dump(self.config, skip_none=False, skip_validation=True))


def fit_config(args: Sequence[str]) -> dict[str, Any]:
    """Return what ``trimtab fit`` would write as the ``config.yaml`` of its run.

    Args:
        args: Command line after ``fit``.

    Raises:
        SystemExit: With code 2 and a message, where ``fit`` would refuse the command line.
        FileNotFoundError: There is no such config.
    """
    choose_messages()
    arguments, allowed = take_allowed(["fit", *args])
    set_up_parsing(allowed)
    try:
        _FitConfig(current_arguments(resolve_configs(arguments)), [])
    except _Parsed as parsed:
        return load_yaml(str(parsed), "the config")["fit"]
    raise AssertionError("a fit chooses its folder before it begins")
