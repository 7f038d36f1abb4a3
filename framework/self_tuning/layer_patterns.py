"""The layers of a network that patterns of their names stand for."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from framework.utilities.nearest_names import nearest


def layers_by_pattern(
    model: nn.Module,
    patterns: str | Sequence[str],
    kinds: tuple[type[nn.Module], ...] = (nn.Module,),
) -> dict[str, dict[str, nn.Module]]:
    """Return for each pattern the layers that it matches, by their dotted names.

    A layer that a network holds under several names is found under the first that matches.

    Args:
        model: Network; it itself is not among its layers.
        patterns: Pattern or patterns with ``*``, ``?`` and ``[...]``, which match dots too.
        kinds: Classes that a layer may have.

    Raises:
        ValueError: A pattern matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> list(layers_by_pattern(model, "*", (nn.Linear,))["*"])
        ['0', '2']
    """
    named: dict[str, nn.Module] = {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if name and isinstance(layer, kinds)
    }
    found: dict[str, dict[str, nn.Module]] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        unique: dict[int, str] = {}
        for name, layer in named.items():
            if fnmatchcase(name, pattern):
                unique.setdefault(id(layer), name)
        if not unique:
            kind = " or ".join(sorted(one.__name__ for one in kinds))
            raise ValueError(
                f"{pattern!r} matches no {'layer' if kind == 'Module' else kind} of "
                f"{type(model).__name__}{nearest(pattern, named)}."
            )
        found[pattern] = {name: named[name] for name in unique.values()}
    return found
