"""The settings that a study searches over, by their places in a config."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.utilities.nearest_names import nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TYPES = ("float", "int", "categorical")
_NAMES = ("type", "low", "high", "log", "step", "choices", "fidelity")


@dataclass(frozen=True)
class Entry:
    """What one setting may be.

    Args:
        type: ``'float'``, ``'int'`` or ``'categorical'``.
        low: Smallest value of a number.
        high: Largest value of a number.
        log: Whether the logarithm is searched over evenly.
        step: Distance between the values of a number; None is any float, or every int.
        choices: Values of a categorical setting.
        fidelity: Whether the setting says how much a trial costs, such as its epochs.

    Example:
        >>> Entry("float", low=0.001, high=0.1, log=True).ends
        (0.001, 0.1)
    """

    type: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    fidelity: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all are of the type that a config asks for."""
        return self.choices if self.type == "categorical" else (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """Return the entry in Optuna's terms."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.type == "categorical":
            return CategoricalDistribution(self.choices)
        if self.type == "int":
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class SearchSpace:
    """Settings by their dotted places in a config, such as ``model.optimizer.lr``.

    ``init_args`` may be left out, as on the command line, and a number is a place in a list.

    Args:
        entries: What each setting may be.

    Example:
        >>> lr = {"type": "float", "low": "1e-4", "high": 0.1, "log": True}
        >>> space = SearchSpace.read({"model.optimizer.lr": lr})
        >>> space.entries["model.optimizer.lr"].ends
        (0.0001, 0.1)
    """

    entries: dict[str, Entry]

    @classmethod
    def read(cls, given: Any) -> SearchSpace:
        """Return what the section ``tune.space`` of a config says.

        Raises:
            ValueError: It is no such section; the message names the setting.
        """
        if not isinstance(given, Mapping) or not given:
            raise ValueError(
                "tune.space must map settings to what they may be, such as model.optimizer.lr: "
                "{type: float, low: 0.001, high: 0.1, log: true}."
            )
        entries = {str(key): _entry(f"tune.space.{key}", value) for key, value in given.items()}
        marked = [key for key, entry in entries.items() if entry.fidelity]
        if len(marked) > 1:
            raise ValueError(f"tune.space marks {' and '.join(marked)}: one fidelity is allowed.")
        return cls(entries)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the space in Optuna's terms."""
        return {key: entry.distribution() for key, entry in self.entries.items()}

    def fidelity(self) -> str | None:
        """Return the setting that says how much a trial costs; None where there is none."""
        return next((key for key, entry in self.entries.items() if entry.fidelity), None)

    def record(self) -> dict[str, Any]:
        """Return the space as plain values, to be compared with that of an earlier study."""
        return {
            key: {name: getattr(entry, name) for name in _NAMES if name != "choices"}
            | {"choices": list(entry.choices)}
            for key, entry in self.entries.items()
        }

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield points that have every end and every choice of each setting in one of them."""
        ends = {key: entry.ends for key, entry in self.entries.items()}
        for number in range(max(map(len, ends.values()))):
            yield {key: values[min(number, len(values) - 1)] for key, values in ends.items()}


def _entry(place: str, given: Any) -> Entry:
    if not isinstance(given, Mapping):
        raise ValueError(f"{place} is {given!r}: give {{type: ..., low: ..., high: ...}}.")
    for name in given:
        if name not in _NAMES:
            raise ValueError(f"{place} has no {name!r}{nearest(str(name), _NAMES)}.")
    kind = given.get("type")
    if kind not in TYPES:
        found = "missing" if kind is None else f"{kind!r}"
        raise ValueError(f"{place}.type is {found}: it must be one of {', '.join(TYPES)}.")
    if kind == "categorical":
        return _categorical(place, given)
    if "choices" in given:
        raise ValueError(f"{place}.choices is for type categorical; type {kind} takes low, high.")
    low, high = (_number(f"{place}.{name}", given.get(name), kind) for name in ("low", "high"))
    step = None if given.get("step") is None else _number(f"{place}.step", given["step"], kind)
    log = _flag(f"{place}.log", given.get("log", False))
    if low >= high:
        raise ValueError(f"{place}.low is {low} and must be less than high, which is {high}.")
    if log and low <= 0:
        raise ValueError(f"{place}.low is {low}: with log it must be greater than 0.")
    fidelity = _flag(f"{place}.fidelity", given.get("fidelity"))
    if fidelity and low <= 0:
        raise ValueError(f"{place}.low is {low}: a fidelity must be greater than 0.")
    if step is not None and (step <= 0 or step > high - low):
        raise ValueError(f"{place}.step is {step}: it must lie in (0, high - low].")
    if step is not None and log and (kind == "float" or step != 1):
        raise ValueError(f"{place} has a step and log: leave out one of them.")
    return Entry(kind, low, high, log, step, fidelity=fidelity)


def _categorical(place: str, given: Mapping[str, Any]) -> Entry:
    for name in ("low", "high", "step", "log", "fidelity"):
        if given.get(name):
            raise ValueError(f"{place}.{name} is for numbers; type categorical takes choices.")
    choices = given.get("choices")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise ValueError(f"{place}.choices must be a list of values.")
    # Optuna stores plain values, and a config takes a text for the list that it says
    values = tuple(
        json.dumps(value) if isinstance(value, list) else value
        for value in _choice(f"{place}.choices", list(choices))
    )
    if len({repr(value) for value in values}) < len(values):
        raise ValueError(f"{place}.choices names a value twice.")
    return Entry("categorical", choices=values)


def _choice(place: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} holds {value}, which is not finite.")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        # YAML takes 1e-3 for a text
        return _as_float(value) if "e" in value.lower() else value
    if isinstance(value, list):
        return [_choice(place, one) for one in value]
    raise ValueError(
        f"{place} holds {value!r}: a choice is a number, a text, true, false, null or a list."
    )


def _as_float(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _number(place: str, value: Any, kind: str) -> Any:
    if isinstance(value, str):
        value = _as_float(value)
    found = "missing" if value is None else f"{value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{place} is {found}: it must be a number.")
    if kind == "int":
        if value != int(value):
            raise ValueError(f"{place} is {found}: with type int it must be a whole number.")
        return int(value)
    return float(value)


def _flag(place: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{place} is {value!r}: it must be true or false.")
    return bool(value)
