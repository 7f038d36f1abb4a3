"""What a type hint asks for, in words that a message and a help page share."""

from __future__ import annotations

import collections.abc
from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor

_PLAIN = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
    timedelta: "a time span",
    Tensor: "a list of numbers",
    Any: "any value",
}
_PLURAL = {
    "an integer": "integers",
    "a number": "numbers",
    "a text": "texts",
    "a path": "paths",
    "a list of numbers": "lists of numbers",
}
_ITERABLES = (collections.abc.Sequence, collections.abc.Iterable, list, tuple, set)


def type_in_words(hint: Any) -> str:
    """Return what a type hint asks for, such as ``'an integer or a list of integers'``.

    That nothing may be given is left out, and a class stands for itself.

    Example:
        >>> type_in_words(int | Sequence[int] | None)
        'an integer or a list of integers'
        >>> type_in_words(Literal["mean", "sum"])
        'one of mean, sum'
    """
    words = dict.fromkeys(word for part in _members(hint) for word in _words(part))
    if "a number" in words:
        # a tensor beside a number is one that holds a number
        for narrower in ("an integer", "a list of numbers"):
            words.pop(narrower, None)
    # the longest at the end, as in "an integer or true or false"
    return alternatives(sorted(words, key=lambda word: " or " in word)) or "nothing"


def _members(hint: Any) -> list[Any]:
    """Return the members of a union, its literals as one."""
    if get_origin(hint) not in (Union, UnionType):
        return [hint]
    members = [part for inner in get_args(hint) for part in _members(inner)]
    literals = [value for part in members for value in _literal(part)]
    rest = [part for part in members if part is not NoneType and get_origin(part) is not Literal]
    return [*rest, Literal[tuple(literals)]] if literals else rest


def _literal(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _words(hint: Any) -> Iterator[str]:
    origin = get_origin(hint) or hint
    if hint is NoneType or hint is None:
        return
    if hint in _PLAIN:
        yield _PLAIN[hint]
    elif origin is Literal:
        yield f"one of {', '.join(dict.fromkeys(str(value) for value in get_args(hint)))}"
    elif isinstance(origin, type) and issubclass(origin, Enum):
        yield f"one of {', '.join(str(member.value) for member in origin)}"
    elif origin is collections.abc.Callable and get_args(hint)[-1:] == (Tensor,):
        return  # a function of tensors, which only Python can give
    elif origin is collections.abc.Callable:
        yield type_in_words(get_args(hint)[-1]) if get_args(hint) else "a function"
    elif origin in _ITERABLES:
        inner = [part for part in get_args(hint) if part is not Ellipsis]
        yield f"a list of {_plural(inner[0])}" if inner else "a list"
    elif isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        yield "a mapping"
    else:
        yield getattr(origin, "__name__", str(origin))


def _plural(hint: Any) -> str:
    words = [word for part in _members(hint) for word in _words(part)]
    several = [_PLURAL.get(word, word if " " in word else f"{word}s") for word in words]
    if "numbers" in several:
        several = [word for word in several if word not in ("integers", "lists of numbers")]
    return alternatives(list(dict.fromkeys(several)))


def alternatives(words: Sequence[str]) -> str:
    """Return ``'a, b or c'``."""
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def classes_in(hint: Any) -> tuple[type, ...]:
    """Return the classes of which a type hint takes an object, without plain values.

    Example:
        >>> from torch.optim import Optimizer
        >>> classes_in(list[Optimizer] | int | None)
        (<class 'torch.optim.optimizer.Optimizer'>,)
    """
    found: list[type] = []
    for part in _members(hint):
        origin = get_origin(part) or part
        inner = [value for value in get_args(part) if value is not Ellipsis]
        if part in _PLAIN or part in (None, NoneType) or origin is Literal:
            continue
        if origin is collections.abc.Callable:
            found += classes_in(inner[-1]) if inner else ()
        elif origin in _ITERABLES:
            found += classes_in(inner[0]) if inner else ()
        elif (
            isinstance(origin, type)
            and origin.__module__ != "builtins"
            and not issubclass(origin, Enum | collections.abc.Mapping | Path)
        ):
            found.append(origin)
    return tuple(dict.fromkeys(found))


def given_arguments(hint: Any) -> int:
    """Return how many first arguments of a class the program gives, as an optimizer's parameters.

    Example:
        >>> from torch.optim import Optimizer
        >>> given_arguments(collections.abc.Callable[[list], Optimizer])
        1
    """
    for part in _members(hint):
        if get_origin(part) is collections.abc.Callable and get_args(part):
            first = get_args(part)[0]
            return len(first) if isinstance(first, list) else 0
    return 0
