"""Settings by their places in a config, and configs that set some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import combinations
from typing import Any

from framework.utilities.nearest_names import nearest


def laid_over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that is laid over another and sets some of its settings.

    Args:
        base: Whole config of a fit.
        values: Values by their dotted places; a text at the place of an object is its class.

    Raises:
        ValueError: The config has no such setting, or two of them are one or lie in one another.

    Example:
        >>> base = {"model": {"loss": {"class_path": "A", "init_args": {"weight": 1.0}}}}
        >>> laid_over(base, {"model.loss": "B", "model.loss.weight": 0.5})
        {'model': {'loss': {'class_path': 'B', 'init_args': {'weight': 0.5}}}}
    """
    places = {key: _place(base, key, value) for key, value in values.items()}
    for one, other in combinations(sorted(places, key=lambda key: len(places[key])), 2):
        if places[other][: len(places[one])] == places[one]:
            raise ValueError(
                f"tune.space names {one} and {other}, which set the same: leave out one of them."
            )
    laid: dict[str, Any] = {}
    for key, value in values.items():
        _lay(laid, base, places[key], value)
    # a class comes before its arguments, whatever the order of the settings
    return _classes_first(laid)


def _place(base: Mapping[str, Any], key: str, value: Any) -> list[str | int]:
    """Return the parts of a key, with ``init_args`` and ``class_path`` where it leaves them out."""
    found: Any = base
    place: list[str | int] = []
    for part in key.split("."):
        if isinstance(found, Mapping) and part not in found and "init_args" in found:
            place.append("init_args")
            found = found["init_args"]
        if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            place.append(int(part))
            found = found[int(part)]
        elif isinstance(found, Mapping) and part in found:
            place.append(part)
            found = found[part]
        else:
            known = [name.replace(".init_args.", ".") for name in _keys(base)]
            near = nearest(key.replace(".init_args.", "."), known)
            raise ValueError(f"tune.space names {key}, which is no setting of this fit{near}.")
    if isinstance(value, str) and isinstance(found, Mapping) and "class_path" in found:
        place.append("class_path")
    return place


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all values of a config."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _keys(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(config, list) and any(isinstance(value, Mapping) for value in config):
        for number, value in enumerate(config):
            yield from _keys(value, f"{prefix}.{number}")
    else:
        yield prefix


def _lay(laid: dict[str, Any], base: Any, place: Sequence[str | int], value: Any) -> None:
    """Put a value at a place; a list on the way is taken over whole, as configs replace lists."""
    into: Any = laid
    for part, following in zip(place, [*place[1:], None], strict=True):
        if following is None:
            into[part] = value
            return
        base = base[part]
        if isinstance(into, dict) and part not in into:
            into[part] = deepcopy(base) if isinstance(base, list) else {}
        into = into[part]


def _classes_first(config: Any) -> Any:
    if isinstance(config, dict):
        names = sorted(config, key=lambda name: name != "class_path")
        return {name: _classes_first(config[name]) for name in names}
    return [_classes_first(value) for value in config] if isinstance(config, list) else config
