"""One-line messages for errors: the path in the config, the value, the nearest names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from framework.command.accepted_classes import TRUSTED, is_ours
from framework.command.commands import EXAMPLE
from framework.command.jsonargparse_internals import (
    Place,
    accepted_arguments,
    arguments_of,
    nested_argument,
    option_strings,
    path_of_what_failed,
    place_of,
)
from framework.command.known_classes import (
    SECTIONS,
    SLOTS,
    all_classes,
    class_at,
    holders,
    subclasses,
)
from framework.command.system_errors import own_words
from framework.command.type_names import alternatives, classes_in, type_in_words
from framework.runs.config_files import config_paths
from framework.utilities.console import plain
from framework.utilities.nearest_names import nearest

LONGEST = 300
"""Letters of a message."""
_LIGHTNING = {
    "No supported gpu backend found": "trainer.accelerator: this machine has no GPU that torch can "
    "use; leave the option out, or give cpu",
    "You restored a checkpoint with current_epoch": "trainer.max_epochs is less than the "
    "epochs that the checkpoint's run has trained; give more of them to go on",
    "Trying to restore optimizer state but checkpoint contains only the model": "the checkpoint "
    "holds the weights alone, as save_weights_only asked for; test and predict take it, fit does "
    "not",
    "Found more than one stateful callback": "trainer.callbacks: a callback that is in a run once "
    "is given twice, as by a config and an overlay; leave one of them out, or give one of them the "
    "arguments of both",
}
"""What is said where Lightning's words do not name the option, by the beginning of its words."""
# what jsonargparse says of every type that a value is not
_NO_CAUSE = re.compile(
    r"Expected an? |Does not validate|Problem with given class_path|Not a valid subclass|"
    r"Import path|Not of type|an? (?:class path|dict) "
)

_PROBLEM = re.compile(r"Problem with given class_path '[^']+':\n +(\S.+)")
"""What a constructor said, inside jsonargparse's list of all types that it tried."""


def describe(error: BaseException) -> str:
    """Return a one-line message about an error of a run.

    An error of a loading process arrives with that process's traceback, an error of a constructor
    inside jsonargparse's list of all types that it tried; only the cause is kept.
    """
    text = own_words(error) or _text(error) or type(error).__name__
    if "in DataLoader worker process" in text:
        lines = text.rstrip().splitlines()
        last_frame = max(i for i, line in enumerate(lines) if line.startswith("  "))
        text = " ".join(lines[last_frame + 1 :]).partition(": ")[2]
    if causes := _causes(text) or _PROBLEM.findall(text):
        text = causes[0]
    path = path_of_what_failed(error)
    if text.startswith("Error(s) in loading state_dict for "):
        text = _misfit(text)
    for words, better in _LIGHTNING.items():
        text = better if text.startswith(words) else text
    # of a class that could not be made; what is built needs no path
    where = f"{path}: " if path and not text.startswith((path, "trainer.")) else ""
    return _shortened(_finished(one_line(f"{where}{text}")))


def one_line(text: str) -> str:
    r"""Return a text in one line, in which what a terminal would take for a command is spelled out.

    Example:
        >>> one_line("a\nb \x1b[31mc")
        'a b \\x1b[31mc'
    """
    return plain(" ".join(text.split()))


def _text(error: BaseException) -> str:
    """Return the text of an error; that of a missing key would be in quotation marks."""
    if isinstance(error, KeyError) and error.args and " " in str(error.args[0]):
        return str(error.args[0])
    return str(error)


def _shortened(text: str) -> str:
    """Leave out the middle of a message that is too long: its beginning and end say most."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST * 2 // 3]} ... {text[-LONGEST // 3 + 5 :]}"


def _misfit(text: str) -> str:
    """Return what torch says of weights that do not fit a model, with the first of them only."""
    model = re.findall(r"state_dict for (\w+)", text)[0]
    name = re.findall(r"size mismatch for ([\w.]+):", text)
    shapes = re.findall(r"torch\.Size\((\[[\d, ]*\])\)", text)
    absent = re.findall(r"(Missing|Unexpected) key\(s\) in state_dict: \"([\w.]+)\"", text)
    if absent:
        kind, key = absent[0]
        found = f"it {'lacks' if kind == 'Missing' else 'also holds'} {key}"
    elif name and len(shapes) > 1:
        found = f"{name[0]} has the shape {shapes[0]} in it and {shapes[1]} in the model"
    else:
        return text
    return (
        f"The checkpoint does not fit this {model}: {found}; build the model as its run did, by "
        "the config beside it and no other options of the model"
    )


def _causes(message: str) -> list[str]:
    """Return the points of jsonargparse's list that say more than that a type did not fit."""
    points = re.findall(r"^ *- (.+)$", message, re.M) if "Does not validate" in message else []
    return [point for point in points if not _NO_CAUSE.match(point)]


def _finished(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def format_parser_error(
    message: str, parser: ArgumentParser, error: BaseException | None = None
) -> str:
    """Return a one-line message about a wrong command line or config.

    Args:
        message: Message of jsonargparse, possibly of many lines.
        parser: Parser that refused, whose options are known.
        error: What the parser caught, if anything.
    """
    return _shortened(_finished(" ".join(_said(message, parser, place_of(error)).split())))


def _said(message: str, parser: ArgumentParser, place: Place) -> str:
    where = f"{place.path}: " if place.path else ""
    if place.path and place.kind is None and nested_argument(place.value):
        return f"{where}{_misfit_value(place, message)}"
    if denied := re.search(r"'([\w.]+)' is not among the classes that a config may", message):
        return f"{where}{_not_accepted(denied.group(1), place.hint)}"
    if plain := re.search(r"only plain values are taken here .+ if you trust it", message):
        return f"{where}{plain.group()}"
    if name := re.search(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)", message):
        return _unknown_argument(name.group(1), place)
    if name := re.search(r"[Uu]nrecognized arguments?: (\S+)", message):
        return _unknown_option(name.group(1).split("=")[0], parser, place)
    if name := re.search(r"(?:Subcommand|Group) '([\w.]+)' does not accept option '(.+)'", message):
        return _unknown_setting(name.group(2), name.group(1), place)
    if 'expected "subcommand"' in message:
        return f"give a command, for example: {EXAMPLE}"
    if named := re.search(r"Multiple subclasses with name (\w+)\..+ambiguity: (.+)\.", message):
        known = sorted(path.strip() for path in named.group(2).split(","))
        return (
            f"{where}there are {len(known)} classes {named.group(1)}; give the whole path, "
            f"{alternatives(known)}"
        )
    if file := re.search(r'"(\w+)": Unable to load config "(.+)"', message):
        return (
            f"{file.group(1)}: there is no file {file.group(2)!r} that its options could be read "
            f"from; give --{file.group(1)}.NAME VALUE"
        )
    if missing := re.search(r"arguments are required: (.+)", message):
        return _missing(missing.group(1), place)
    if message.startswith("Unexpected config"):
        return "a config must be a mapping, with keys such as model, data and trainer"
    if "Problems parsing config" in message:
        return f"a config is not valid YAML: {message}"
    if option := re.match(r"argument (\S+): expected one argument", message):
        return _without_value(option.group(1).rpartition("/")[2], place)
    if causes := _causes(message):
        return f"{where}{causes[0]}"
    if place.path:
        return f"{where}{_misfit_value(place, message)}"
    return [line.strip(" -") for line in message.strip().splitlines() if line.strip()][-1]


def _not_accepted(path: str, hint: Any) -> str:
    """Say that a config may not name a path, what fits there, and how a package is trusted."""
    package = path.split(".")[0]
    kinds = alternatives([kind.__name__ for kind in classes_in(hint)])
    if package not in TRUSTED:
        reason = "is not in a trusted package"
    else:
        reason = f"is no {kinds or 'class'} that a config may name"
    return f"{path} {reason} and was not imported; use --allow {package} if you trust it"


def _missing(keys: str, place: Place) -> str:
    """Name the arguments that must be given, and how."""
    names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", keys)
    if place.kind is None:
        command = next(iter(place.args), "fit")
        run = f", or a run: trimtab {command} --ckpt_path RUN" if command != "fit" else ""
        return f"{names} must be given: name a config, for example: {EXAMPLE}{run}"
    first = names.split(",")[0]
    return (
        f"{place.path}: {place.kind.__name__} needs {names}; give "
        f"--{place.path}.{first} VALUE after its name, or init_args in a config"
    )


def _without_value(option: str, place: Place) -> str:
    """Name the option that a value is missing after; argparse names its parent."""
    values = [*place.args[1:], "--"]
    for argument, value in zip(place.args, values, strict=False):
        ours = argument == option or argument.startswith(f"{option}.")
        if ours and "=" not in argument and value.startswith("--"):
            option = argument
    return f"{option} needs a value"


def _unknown_option(flag: str, parser: ArgumentParser, place: Place) -> str:
    if not flag.startswith("-"):
        if flag in config_paths() or flag.endswith((".yaml", ".yml")):
            return f"{flag!r} is no option; a config is named by --config {flag}"
        return f"{flag!r} is no option, which begin with --, and no config"
    name = flag.lstrip("-")
    if place.kind is not None:
        return _unknown_argument(name.partition(".")[0], place)
    found = dict.fromkeys(f"--{path}.{name}" for path, _ in holders(_sections(place), name))
    known = f"; it is an argument of the model, data or trainer: {alternatives(list(found))}"
    return f"there is no option {flag!r}{known if found else nearest(flag, option_strings(parser))}"


def _sections(place: Place) -> Any:
    """Return the config that was read so far, without the name of the command around it."""
    config = place.config
    command = getattr(config, "subcommand", None)
    return getattr(config, command, config) if isinstance(command, str) else config


def _unknown_setting(path: str, group: str, place: Place) -> str:
    """Say what is near to a path of a config that nothing stands at."""
    if place.kind is not None:
        hints = [one.hint for one in arguments_of(place.kind) if one.name == group]
        kinds = [kind for hint in hints for kind in classes_in(hint)]
        known = [argument for kind in kinds for argument in accepted_arguments(kind)]
        return f"{place.path}: {group} has no argument {path!r}; it takes {', '.join(known)}"
    section, _, name = path.partition(".")
    if section in SECTIONS:
        known = [f"{section}.{argument}" for argument in accepted_arguments(SECTIONS[section])]
        return f"there is no setting '{section}.{name.partition('.')[0]}'{nearest(path, known)}"
    return f"a config has no section {section!r}{nearest(section, [*SLOTS, *SECTIONS])}"


def _unknown_argument(name: str, place: Place) -> str:
    """Say which class has no such argument, and where else one is or which are near."""
    name = name.rpartition("init_args.")[2]
    if place.kind is None:
        near = nearest(name, vars(place.config) if place.config is not None else ())
        return f"{f'{place.path}: ' if place.path else ''}there is no setting {name!r} here{near}"
    known = accepted_arguments(place.kind)
    kind = place.kind.__name__
    said = f"{place.path}: {kind} has no argument {name!r}"
    if near := nearest(name, known):
        return f"{said}{near}"
    for path, owner in holders(_sections(place), name):
        if path != place.path:
            return f"{said}, but {path}, which is {owner.__name__}, has: give --{path}.{name}"
    if not known and place.kind in classes_in(place.hint):
        return f"{place.path}: {_no_class(name, place.path)}"
    if len(known) <= 5:
        return f"{said}; it takes {', '.join(known) or 'none'}"
    return f"{said}; its arguments are listed by --{place.path}.help {kind}"


def _no_class(argument: str, path: str) -> str:
    return (
        f"no class is chosen here that {argument!r} could be an argument of; give --{path} NAME "
        "before it"
    )


def _misfit_value(place: Place, message: str) -> str:
    """Say what was given and what is asked for."""
    if argument := nested_argument(place.value):
        return _no_class(argument, place.path)
    kinds = classes_in(place.hint)
    name = place.value.get("class_path") if hasattr(place.value, "get") else place.value
    if isinstance(name, list) and (item := re.search(r"import path string: ([\w.]+)", message)):
        name = item.group(1)
    # a value such as 3 can be no name
    if kinds and isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.]*", name):
        return _misfit_class(name, kinds, place, message)
    value = str(place.value) if isinstance(place.value, Mapping) else repr(place.value)
    wanted = type_in_words(place.hint)
    return f"{value} is {'not' if not kinds or wanted.startswith('a list') else 'no'} {wanted}"


def _misfit_class(name: str, kinds: tuple[type, ...], place: Place, message: str) -> str:
    """Say that there is no such class, or that it is of another kind."""
    wanted = alternatives([kind.__name__ for kind in kinds])
    short = name.rpartition(".")[2]
    fitting = subclasses(kinds)
    # one name may stand for classes of several kinds
    known = fitting.get(name) or class_at(name)
    if known is not None and issubclass(known, kinds):
        if inspect.isabstract(known):
            return f"{name} is a base; --{place.path}.help lists the classes that derive from it"
        if "Expected a <class 'list'>" in message:
            return f"a list is wanted; give --{place.path}+ {name}"
    if known is not None or (name == short and short in all_classes()):
        ours = [kind.__name__ for kind in kinds if is_ours(kind)]
        theirs = name.partition(".")[0] not in TRUSTED and name != short
        advice = f"; derive it from {ours[-1]}, see CONTRIBUTING.md" if ours and theirs else ""
        return f"{name} is no {wanted}{advice}"
    absent = re.search(r"No module named '([\w.]+)'", message)
    if absent and absent.group(1).partition(".")[0] not in TRUSTED:
        return f"there is no package {absent.group(1)!r}, where {name} should be"
    near = nearest(short, fitting) or f"; --{place.path}.help lists those that there are"
    return f"there is no class {short!r}{near}"
