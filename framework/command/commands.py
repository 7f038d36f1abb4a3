"""The commands, their overview, and what is answered before anything large is imported."""

from __future__ import annotations

from collections.abc import Sequence

from framework.runs.config_files import CONFIG_FLAGS, config_paths, find_config, option
from framework.utilities.nearest_names import nearest

COMMANDS = {
    "fit": "Train a model, or go on with a run: --ckpt_path RUN.",
    "validate": "Evaluate a checkpoint on the validation part of its data.",
    "test": "Evaluate a checkpoint on the test part.",
    "predict": "Write the predictions of a checkpoint.",
    "tune": "Search for the settings of a fit; each trial is a fit of its own.",
    "report": "Show what a run came to, or compare several, and write it as a page.",
    "new": "Write the files of a new method into a checkout.",
    "configs": "List the configs that came with Trimtab.",
}
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
_WITH_CONFIGS = (*TRAINER_COMMANDS, "tune")
EXAMPLE = "trimtab fit --config classifier"
OVERVIEW = """\
usage: trimtab COMMAND [OPTION ...]

Published training methods for PyTorch Lightning, each of them one line of YAML.

commands:
{commands}

options:
  --allow PACKAGE   Let configs name all classes and functions of a package that you trust.
  --version         Show the version.
  --help            Show this page, or after a command what it takes.

examples:
  trimtab configs                                        the configs, one per line
  trimtab fit --config classifier --config with/saf      a run, with a method laid over it
  trimtab tune --config classifier --config tune/classifier   a search for the best settings
  trimtab fit --help                                     the options of a run
  trimtab fit --model.help                               the models; --data.help: the kinds of data
  trimtab fit --trainer.callbacks.help                   the methods that are callbacks
  trimtab fit --config classifier --model.criterion.help the losses that fit this model
"""


def overview() -> str:
    """Return the help page of ``trimtab`` itself."""
    lines = [f"  {name:<18}{text}" for name, text in COMMANDS.items()]
    return OVERVIEW.format(commands="\n".join(lines))


def config_texts() -> dict[str, str]:
    """Return {name: first line of its comment} of every config that came with the installation."""
    texts = {}
    for name, path in config_paths().items():
        with path.open() as file:
            first = file.readline().strip()
        texts[name] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return texts


def list_of_configs(width: int = 100) -> str:
    """Return the names of the configs with the beginning of what each says of itself."""
    texts = config_texts()
    longest = max(map(len, texts), default=0)
    lines = []
    for name, text in texts.items():
        line = f"{name:<{longest}}  {text}"
        lines.append(line if len(line) <= width else f"{line[: width - 4].rstrip()} ...")
    use = f"Use one by name: {EXAMPLE} [--config with/NAME]; tune/NAME is for trimtab tune."
    return "\n".join([*lines, "", use, ""])


def trainer_command(args: Sequence[str]) -> str | None:
    """Return the first word that is a command of the Trainer; options may stand before it."""
    return next((argument for argument in args if argument in TRAINER_COMMANDS), None)


def check_command(args: Sequence[str]) -> None:
    """Refuse a command line whose first word is no command, or that names no config of ours.

    Raises:
        ValueError: There is no such command.
        FileNotFoundError: There is no such config.
    """
    word = args[0]
    if word in _WITH_CONFIGS:
        for name in option(args, *CONFIG_FLAGS):
            find_config(name)
    if word in COMMANDS or word.startswith("-"):
        return
    near = nearest(word, COMMANDS) or nearest(word, ("--version", "--help", "--allow"))
    raise ValueError(f"there is no command {word!r}{near}; the commands are {', '.join(COMMANDS)}.")


def asks_for_configs(args: Sequence[str]) -> bool:
    """Return whether a command line asks which configs there are, by no name of one."""
    return args[0] == "configs" or (args[-1] in CONFIG_FLAGS and args[0] in _WITH_CONFIGS)
