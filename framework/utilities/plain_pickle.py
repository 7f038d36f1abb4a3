"""Pickles read as data: plain values, and calls of listed constructors only."""

from __future__ import annotations

import codecs
import pickletools
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from framework.utilities.limits import check_size

OP_BYTES = 256
"""Memory that one operation of a pickle takes at most, beside what its argument stores."""
_TEXTS: dict[type, int] = {str: 1, bytes: 1, bytearray: 1}
ITEM_BYTES = _TEXTS | dict.fromkeys((list, tuple, dict), OP_BYTES)
"""Memory that a constructor takes at most for each item of an argument, as it makes a copy."""
MAX_INT_BITS = 512
CHECKED_BYTES = 1 << 16
_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}


class MoreThanDataError(ValueError):
    """A pickle names what is no data; the message is that name."""


@dataclass(frozen=True)
class Constructor:
    """What a name in a pickle stands for; the pickle may call it and hand it to others.

    Args:
        build: Function that makes a value of the arguments in the pickle, and checks them.
        kind: Class that the name stands for.
        new: Function that makes an object whose state follows, where there is such a class.
    """

    build: Callable[..., Any]
    kind: type | None = None
    new: Callable[..., Any] | None = None


def read_plain_pickle(
    file: IO[bytes],
    path: str | Path,
    names: Mapping[str, Any],
    *,
    states: Mapping[type, Callable[[Any, Any], None]] | None = None,
    persistent: Callable[[Any], Any] | None = None,
    encoding: str = "latin1",
) -> Any:
    """Return what a pickle holds, without Python's unpickler: nothing is imported or called by it.

    It takes at most the memory of the file, or the limit of ``framework.utilities.limits``.

    Args:
        file: Binary file at the start of the pickle; it is left at the pickle's end.
        path: File in messages.
        names: What each full name in the pickle stands for: a ``Constructor`` or a value.
        states: Setters of the state that the pickle gives to an object, by its class.
        persistent: Function that returns the value of a persistent id.
        encoding: Encoding of byte strings written by Python 2; ``"bytes"`` keeps them as bytes.

    Raises:
        MoreThanDataError: The pickle names what is not in ``names``.
        ValueError: The pickle would take too much memory.
        Exception: The pickle is damaged.
    """
    return _Machine(names, states or {}, persistent, encoding).run(_Within(file), path)


def shown(name: str) -> str:
    r"""Return a name out of a file as a message may show it.

    Example:
        >>> shown("os.system"), shown("two\nlines")
        ('os.system', "'two\\nlines'")
    """
    return name if re.fullmatch(r"[\w./-]{1,100}", name, re.ASCII) else ascii(name[:100])


class _Within:
    """A file that is not asked for more than there is: Python takes the memory before it reads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.readline, self.tell = file.readline, file.tell
        position = file.tell()
        self.size = file.seek(0, 2)
        file.seek(position)

    def read(self, count: int) -> bytes:
        if count > CHECKED_BYTES and count > self.size - self.tell():
            raise ValueError("it ends inside a value")
        return self._file.read(count)


def _operations(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each operation of a pickle."""
    while True:
        code = file.read(1)
        operation = _OPERATIONS.get(code.decode("latin1"))
        if operation is None:
            raise ValueError(f"the operation {code!r} is not known" if code else "it has no end")
        if operation.name == "STRING":  # any bytes of Python 2, which pickletools takes for ASCII
            value: Any = codecs.escape_decode(pickletools.read_stringnl(file, decode=False))[0]
            value = value.decode("latin1")
        else:
            value = None if operation.arg is None else operation.arg.reader(file)
        yield operation.name, value
        if operation.name == "STOP":
            return


@dataclass
class _Machine:
    names: Mapping[str, Any]
    states: Mapping[type, Callable[[Any, Any], None]]
    persistent: Callable[[Any], Any] | None
    encoding: str
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    path: str | Path = ""
    stored: int = 0
    copied: int = 0

    def run(self, file: Any, path: str | Path) -> Any:
        self.path, self.stored = path, file.size
        for count, (name, value) in enumerate(_operations(file)):
            if count % 2**16 == 0:
                self.take(0, count)
            if name in _VALUES:
                self.stack.append(value)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _STEPS:
                _STEPS[name](self, value)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"the operation {name} is not known")
        (result,) = self.stack
        return result

    # ---- the memo, and parts of the stack ------------------------------------------------------

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"its value {index} is used and not there")
        self.stack.append(self.memo[index])

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("values are missing")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    # ---- values --------------------------------------------------------------------------------

    def integer(self, value: int) -> None:
        if value.bit_length() > MAX_INT_BITS:
            raise ValueError(f"an integer has {value.bit_length():,} bits")
        self.stack.append(value)

    def byte_string(self, value: str) -> None:
        # pickletools decodes by latin1, byte by byte
        if self.encoding == "bytes":
            self.stack.append(value.encode("latin1"))
        elif self.encoding == "latin1":
            self.stack.append(value)
        else:
            self.stack.append(value.encode("latin1").decode(self.encoding))

    # ---- containers ----------------------------------------------------------------------------

    def make_tuple(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def make_list(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def make_dict(self, _: Any) -> None:
        pairs = self.pop_mark()
        self.stack.append({})
        self._set(pairs)

    def make_frozenset(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(checked_keys(items)))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("values are appended to what is no list")
        self.stack[-1].extend(items)

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict, Counter, defaultdict):
            raise TypeError("values are set in what is no dict")
        target.update(zip(checked_keys(pairs[::2]), pairs[1::2], strict=True))

    def append(self, _: Any) -> None:
        self._extend(self.pop(1))

    def appends(self, _: Any) -> None:
        self._extend(self.pop_mark())

    def set_item(self, _: Any) -> None:
        self._set(self.pop(2))

    def set_items(self, _: Any) -> None:
        self._set(self.pop_mark())

    def add_items(self, _: Any) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise TypeError("values are added to what is no set")
        self.stack[-1].update(checked_keys(items))

    # ---- names and calls -----------------------------------------------------------------------

    def find(self, name: str) -> None:
        if name not in self.names:
            raise MoreThanDataError(shown(name))
        self.stack.append(self.names[name])

    def named(self, value: str) -> None:
        self.find(".".join(value.split(" ", 1)))

    def stack_named(self, _: Any) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name is no text")
        self.find(f"{module}.{name}")

    def take(self, size: int, operations: int = 0) -> None:
        """Count memory that a copy takes: one value may be copied by any number of calls."""
        self.copied += size
        taken = self.copied + operations * OP_BYTES
        check_size(self.path, taken, "what its pickle builds", stored=self.stored)

    def take_copies(self, parts: tuple[Any, ...]) -> None:
        sized = [part for part in parts if type(part) in ITEM_BYTES]
        self.take(sum(len(part) * ITEM_BYTES[type(part)] for part in sized))

    def _call(self, pick: Callable[[Constructor], Callable[..., Any] | None]) -> None:
        called, arguments = self.pop(2)
        function = pick(called) if type(called) is Constructor else None
        if function is None or type(arguments) is not tuple:
            raise TypeError("a call is not of a constructor with its arguments")
        self.take_copies(arguments)
        self.stack.append(function(*arguments))

    def call(self, _: Any) -> None:
        self._call(lambda called: called.build)

    def new(self, _: Any) -> None:
        self._call(lambda called: called.new)

    def build(self, _: Any) -> None:
        (state,) = self.pop(1)
        target = self.stack[-1]
        for kind, set_state in self.states.items():
            if isinstance(target, kind):
                self.take_copies(state if type(state) is tuple else ())
                set_state(target, state)
                return
        if type(target) is not OrderedDict:
            raise TypeError(f"a state is given to a {type(target).__name__}")
        # versions of the modules in a state_dict
        if type(state) is not dict or [*state] != ["_metadata"]:
            raise ValueError("an OrderedDict has attributes")
        target._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def load_persistent(self, _: Any) -> None:
        if self.persistent is None:
            raise ValueError("it refers to what lies outside of it")
        self.stack.append(self.persistent(self.pop(1)[0]))


_VALUES = {
    *("BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": _Machine.memoize,
    "MARK": _Machine.mark,
    **dict.fromkeys(("INT", "LONG", "LONG1", "LONG4"), _Machine.integer),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.byte_string),
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop(3))),
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "FROZENSET": _Machine.make_frozenset,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.stack_named,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
}


# ---- constructors of plain values ----------------------------------------------------------------

_KEYS: dict[type, int] = {str: 0, bytes: 0, int: 2**61 - 1, float: 0, bool: 0, type(None): 0}
_PARTS = {**_KEYS, int: 2**31}
del _PARTS[float]


def checked_keys(keys: list[Any]) -> list[Any]:
    """Return keys of a dict or a set, each of them a plain value or a short flat tuple of some.

    Hashing deep tuples would overflow the stack of the process. Longer integers, complex numbers
    and tuples of any numbers can be chosen to have one hash, so that a dict of them is not built
    in a lifetime.
    """
    for key in keys:
        is_tuple = type(key) is tuple
        known = _PARTS if is_tuple else _KEYS
        if is_tuple and len(key) > 8:
            raise TypeError(f"a key is a tuple of {len(key)} values")
        for part in key if is_tuple else (key,):
            kind = type(part)
            if kind not in known or (kind is int and abs(part) >= known[int]):
                raise TypeError(f"a key is a {kind.__name__} that is none")
    return keys


def encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {ascii(encoding)[:100]}")
    return text.encode("latin1")


def _bytearray(content: Any = b"", *encoding: Any) -> bytearray:
    # of an integer Python would make that many zeros
    return bytearray(encoded(content, *encoding) if type(content) is str else _bytes(content))


def _bytes(content: Any) -> bytes:
    if type(content) is not bytes:
        raise TypeError(f"bytes are made of a {type(content).__name__}")
    return content


def _complex(real: Any, imaginary: Any) -> complex:
    return complex(float(real), float(imaginary))


def _items(items: Any = ()) -> list[Any]:
    if type(items) not in (list, tuple):
        raise TypeError(f"a container is made of a {type(items).__name__}")
    return list(items)


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    keys, values = [], []
    for pair in _items(pairs):
        key, value = _items(pair)
        keys.append(key)
        values.append(value)
    return OrderedDict(zip(checked_keys(keys), values, strict=True))


def _counter(counts: Any) -> Counter[Any]:
    if type(counts) is not dict:
        raise TypeError(f"a Counter is made of a {type(counts).__name__}")
    return Counter(counts)


def _defaultdict(factory: Any = None) -> defaultdict[Any, Any]:
    kind = factory.kind if type(factory) is Constructor else factory
    if kind not in (None, list, dict, set, int, float):
        raise TypeError("a defaultdict has a factory of another kind")
    return defaultdict(kind)


def no_call(*_: Any) -> Any:
    """Refuse the call of a name that is handed to others only."""
    raise TypeError("a name is called that is no constructor")


PLAIN: dict[str, Any] = {
    **{
        f"{module}.{kind.__name__}": Constructor(build, kind)
        for module in ("builtins", "__builtin__")
        for kind, build in (
            (list, no_call),
            (dict, no_call),
            (int, no_call),
            (float, no_call),
            (set, lambda items=(): set(checked_keys(_items(items)))),
            (frozenset, lambda items=(): frozenset(checked_keys(_items(items)))),
            (bytearray, _bytearray),
            (complex, _complex),
        )
    },
    "__builtin__.bytes": Constructor(lambda: b"", bytes),
    "builtins.bytes": Constructor(lambda: b"", bytes),
    "collections.OrderedDict": Constructor(_ordered_dict),
    "collections.Counter": Constructor(_counter),
    "collections.defaultdict": Constructor(_defaultdict),
    "_codecs.encode": Constructor(encoded),
}
"""Names of plain containers and values, as pickles of each protocol write them."""
