"""What the command builds of a config, up to where training would start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import trimtab
from framework.command.class_paths import set_up_parsing, take_allowed
from framework.command.cli import TrimtabCLI

Section = dict[str, Any]
SIZES = {"num_classes": 10, "input_shape": [1, 8, 8], "widths": [2]}
MODEL = {"class_path": "Classifier", "init_args": SIZES}
DATA = {"class_path": "Digits", "init_args": {"batch_size": 8}}
CONFIG = {"model": MODEL, "data": DATA}


def entry(path: str, **arguments: Any) -> Section:
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}


class Built(TrimtabCLI):
    """The command up to where training would start."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def command(*args: str, **sections: Any) -> Built:
    """Return what ``trimtab fit`` builds of a config with these sections and of options."""
    trimtab.import_configurable_classes()
    Path("config.yaml").write_text(yaml.safe_dump({**CONFIG, **sections}))
    rest, allowed = take_allowed(["fit", "--config=config.yaml", *args])
    set_up_parsing(allowed)
    return Built(rest, [])
