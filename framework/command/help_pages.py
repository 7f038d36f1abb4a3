"""Help pages: the arguments of one class, the classes of one argument, the options of a command."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from enum import Enum
from importlib import import_module
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from framework.command.accepted_classes import is_accepted
from framework.command.commands import COMMANDS, overview, trainer_command
from framework.command.jsonargparse_internals import Argument, arguments_of, import_trusted
from framework.command.known_classes import SECTIONS, SLOTS, subclasses
from framework.command.type_names import alternatives, classes_in, given_arguments, type_in_words
from framework.runs.config_files import CONFIG_FLAGS, option
from framework.utilities.nearest_names import nearest
from framework.utilities.yaml_files import read_yaml

LINES = 100
"""Most lines of a page."""
WIDTH = 96
TRANSFORMS = "torchvision.transforms.v2"
_OPTIONS = """\
  --config NAME          Config by name or path; a further one is laid over it. trimtab configs
                         lists them.
  --model NAME           Model; --model.help lists them, --model.help NAME its arguments.
  --data NAME            Data; --data.help lists them, --data.help NAME its arguments.
  --trainer.NAME VALUE   Option of the Trainer; --trainer.help explains all of them:
{trainer}
  --checkpoint.NAME, --last_checkpoint.NAME VALUE
                         Option of the best or the last checkpoint; --checkpoint.help.
  --name NAME            Name of the run; default the time.
  --run_folder FOLDER    Folder of the run; default ROOT/CONFIG/NAME, with
                         trainer.default_root_dir, or runs, as ROOT.
  --seed_everything N    Seed of the run.
  --ckpt_path RUN        Run folder or checkpoint that is used, or that training goes on from.
  --print_config         Show the whole config instead of running.
  --allow PACKAGE        Let configs name all classes and functions of a package that you trust.

The arguments of a chosen class are options too, such as --model.optimizer.lr 0.01 or, for the
callback that was named last, --trainer.callbacks.monitor val/loss.
"""


def help_page(args: Sequence[str]) -> str | None:
    """Return the page that a command line asks for, or None where it asks for none.

    Args:
        args: Command line of fit, validate, test or predict.

    Raises:
        ValueError: There is no such argument or class.
    """
    # the last one counts: those before it may say which classes it is below
    for position, argument in reversed(list(enumerate(args))):
        name, _, value = argument.partition("=")
        if name.startswith("--") and name.endswith(".help"):
            following = args[position + 1 : position + 2]
            if not value and following and not following[0].startswith("-"):
                value = following[0]
            return _page(args, name[2 : -len(".help")], value)
    if "--help" in args or "-h" in args:
        command = trainer_command(args)
        return overview() if command is None else _command_page(command)
    return None


def _page(args: Sequence[str], path: str, name: str) -> str:
    if path in SECTIONS and not name:
        return class_page(SECTIONS[path], f"--{path}", 0)
    hint = _hint(args, path.split("."))
    kinds = classes_in(hint)
    if not kinds:
        raise ValueError(f"--{path} takes {type_in_words(hint)}, which has no help page.")
    if not name:
        return choices_page(kinds, f"--{path}")
    return class_page(find_class(name, kinds, path), f"--{path}", given_arguments(hint))


def _hint(args: Sequence[str], keys: Sequence[str]) -> Any:
    """Return the type hint of the argument at a path, below the classes that are chosen."""
    if keys[0] in SLOTS:
        hint = SLOTS[keys[0]]
        depth = 1
    elif keys[0] in SECTIONS and len(keys) > 1:
        hint = _argument(SECTIONS[keys[0]], keys[1], keys[0]).hint
        depth = 2
    else:
        raise ValueError(
            f"there is no help for '--{'.'.join(keys)}'{nearest(keys[0], [*SLOTS, *SECTIONS])}."
        )
    for end in range(depth, len(keys)):
        path = ".".join(keys[:end])
        name = _chosen(args, keys[:end])
        kinds = classes_in(hint)
        if name is None:
            example = next(iter(subclasses(kinds)), "NAME")
            raise ValueError(
                f"which --{path}? Name it first, as in --{path} {example} --{'.'.join(keys)}.help."
            )
        hint = _argument(find_class(name, kinds, path), keys[end], path).hint
    return hint


def _argument(kind: type, name: str, path: str) -> Argument:
    arguments = {argument.name: argument for argument in arguments_of(kind)}
    if name not in arguments:
        raise ValueError(
            f"{path}: {kind.__name__} has no argument {name!r}{nearest(name, arguments)}."
        )
    return arguments[name]


def _chosen(args: Sequence[str], keys: Sequence[str]) -> str | None:
    """Return the name of the class at a path, by the options and then by the configs."""
    path = f"--{'.'.join(keys)}"
    given = option(args, path, f"{path}+", f"{path}.help", f"{path}.class_path")
    names = [name for name in given if not name.startswith("-")]
    if names:
        return names[-1]
    for config in reversed(option(args, *CONFIG_FLAGS)):
        node = read_yaml(config)
        for key in keys:
            node = node[-1] if isinstance(node, list) and node else node
            inside = node.get("init_args", node) if isinstance(node, dict) else {}
            node = inside.get(key, inside.get(f"{key}+")) if isinstance(inside, dict) else None
        node = node[-1] if isinstance(node, list) and node else node
        found = node.get("class_path") if isinstance(node, dict) else node
        if isinstance(found, str):
            return found
    return None


def find_class(name: str, kinds: tuple[type, ...], path: str) -> type:
    """Return the class that a name or a path of a config means.

    Args:
        name: Short name or dotted path.
        kinds: Classes of which it must be one or a subclass.
        path: Dotted path of the argument, for the message.

    Raises:
        ValueError: There is no such class, or it is of another kind.
    """
    known = subclasses(kinds)
    found = import_trusted(name) if "." in name else known.get(name)
    wanted = alternatives([kind.__name__ for kind in kinds])
    if found is None:
        raise ValueError(f"{path}: there is no {wanted} {name!r}{nearest(name, known)}.")
    if not isinstance(found, type) or not issubclass(found, kinds):
        raise ValueError(f"{path}: {name} is no {wanted}.")
    return found


def choices_page(kinds: tuple[type, ...], flag: str) -> str:
    """Return the page that lists the classes of an argument.

    Args:
        kinds: Classes of which it takes an object.
        flag: Option of the argument.
    """
    known = subclasses(kinds)
    names = list(known)
    if nn.Module in kinds:
        # of modules there are hundreds; where any of them fits, it changes images
        transforms = vars(import_module(TRANSFORMS)).items()
        named = {f"{TRANSFORMS}.{n}": kind for n, kind in transforms if isinstance(kind, type)}
        accepted = {name: kind for name, kind in named.items() if is_accepted(kind)}
        known = {name: kind for name, kind in accepted.items() if issubclass(kind, nn.Module)}
        names = sorted(known)
    longest = max(map(len, names), default=0)
    lines = [
        _cut(f"  {name:<{longest}}  {_sentence(_first_paragraph(known[name]))}") for name in names
    ]
    room = LINES - 6
    if len(lines) > room:
        lines = [*lines[: room - 1], f"  ... and {len(lines) - room + 1} more"]
    if nn.Module in kinds:
        lines.append(
            "  and every other class of torch.nn and torchvision.transforms, by its whole path"
        )
    what = alternatives([kind.__name__ for kind in kinds])
    return "\n".join(
        [f"{flag} NAME takes a {what}; {flag}.help NAME shows its arguments:", "", *lines, ""]
    )


def class_page(kind: type, flag: str, given: int) -> str:
    """Return the page of the arguments of a class.

    Args:
        kind: Class.
        flag: Option of the argument that takes it.
        given: Number of first arguments that the program gives.
    """
    arguments = arguments_of(kind)[given:]
    choice = "" if flag[2:] in SECTIONS else f"{flag} {kind.__name__} "
    head = [f"usage: trimtab fit {choice}[{flag}.ARGUMENT VALUE ...]", ""]
    if text := _first_paragraph(kind):
        head += [*textwrap.wrap(text, WIDTH), ""]
    head.append("arguments:" if arguments else "It takes no arguments.")
    for lines_of in (_whole_text, _first_sentence, _two_lines, _one_line):
        lines = [line for one in arguments for line in lines_of(*_texts(one, flag))]
        if len(head) + len(lines) < LINES:
            break
    return "\n".join([*head, *lines][: LINES - 1]) + "\n"


def _texts(argument: Argument, flag: str) -> tuple[str, str]:
    """Return the option with its type and default, and what it is for."""
    option = f"{flag}.{argument.name}"
    words = type_in_words(argument.hint) if argument.hint is not None else "any value"
    default = "required" if argument.required else f"default {_shown(argument.default)}"
    more = f"; {option}.help lists them" if classes_in(argument.hint) else ""
    return f"{option}: {words}, {default}{more}", _plain(argument.text)


def _whole_text(option: str, text: str) -> list[str]:
    lines = textwrap.wrap(option, WIDTH, initial_indent="  ", subsequent_indent="    ")
    indent = " " * 6
    return [*lines, *textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)]


def _first_sentence(option: str, text: str) -> list[str]:
    return _whole_text(option, _sentence(text))


def _two_lines(option: str, text: str) -> list[str]:
    return [_cut(f"  {option}"), *([_cut(f"      {_sentence(text)}")] if text else [])]


def _one_line(option: str, text: str) -> list[str]:
    return [_cut(f"  {option}")]


def _shown(default: Any) -> str:
    """Return a default as a config says it."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, type):
        return default.__name__
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, tuple | list):
        return f"[{', '.join(map(_shown, default))}]"
    return default if isinstance(default, str) and re.match(r"\w", default) else repr(default)


def _command_page(command: str) -> str:
    """Return the page of fit, validate, test or predict."""
    names = ", ".join(argument.name for argument in arguments_of(Trainer))
    indent = " " * 27
    trainer = textwrap.fill(names, WIDTH, initial_indent=indent, subsequent_indent=indent)
    usage = f"usage: trimtab {command} --config NAME [--config with/NAME ...] [--OPTION VALUE ...]"
    return "\n".join(
        [usage, "", COMMANDS[command], "", "options:", _OPTIONS.format(trainer=trainer)]
    )


def _first_paragraph(kind: type) -> str:
    # what a class does not say is not said of its base
    text = inspect.cleandoc(vars(kind).get("__doc__") or "").partition("\n\n")[0]
    return _plain(text)


def _plain(text: str) -> str:
    """Return a text on one line, without the marks of links and of code."""
    text = re.sub(r"`([^`<]+?) ?<[^`>]*>`_+", r"\1", " ".join(text.split()))
    text = re.sub(r":[a-z:]+:`~?([^`<]+?)(?: ?<[^`>]*>)?`", r"\1", text)
    return text.replace("``", "")


def _sentence(text: str) -> str:
    return re.split(r"(?<=[^.][.]) (?=[A-Z])", text, maxsplit=1)[0]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 4].rstrip()} ..."
