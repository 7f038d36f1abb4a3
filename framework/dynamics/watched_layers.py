"""Features of layers, added up while a module is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from framework.dynamics.layer_features import LayerFeatures
from framework.objectives.errors import IncompatibleError


class WatchedLayer(NamedTuple):
    """A layer whose features are added up.

    Args:
        name: Name that follows that of a metric; none for the only layer.
        layer: Layer.
        is_input: Whether the features are its input, and not its output.
    """

    name: str
    layer: nn.Module
    is_input: bool = False


class WatchedLayers:
    """Adds up the features of layers, batch by batch, by hooks that change nothing.

    Args:
        layers: Layers, see ``find_layers``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        >>> watched = WatchedLayers(find_layers(model))
        >>> _ = model(torch.eye(4))
        >>> watched.add()
        >>> sorted(watched.compute())
        ['effective_rank', 'energy_rank', 'stable_rank']
        >>> watched.close()
    """

    def __init__(self, layers: Sequence[WatchedLayer]) -> None:
        self._features = {one.name: LayerFeatures() for one in layers}
        self._seen: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = [
            one.layer.register_forward_hook(self._hook(one)) for one in layers
        ]

    def forget(self) -> None:
        """Forget what the layers saw since the last batch was added."""
        self._seen = {}

    def add(self, label: Tensor | None = None) -> None:
        """Add what the layers saw first since the last batch, and labels (B,) of its rows."""
        for name, value in self._seen.items():
            self._features[name].add(value, label)
        self.forget()

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of ``LayerFeatures`` of each layer over all ranks. Collective."""
        found: dict[str, Tensor] = {}
        for name, features in self._features.items():
            for metric, value in features.compute().items():
                found[f"{metric}/{name}" if name else metric] = value
        return found

    def close(self) -> None:
        """Watch the layers no longer."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, one: WatchedLayer) -> Any:
        def see(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            value = next(iter(inputs), None) if one.is_input else output
            # a layer that is called several times is looked at the first time
            if isinstance(value, Tensor):
                self._seen.setdefault(one.name, value.detach())

        return see


def find_layers(module: nn.Module, patterns: Sequence[str] | None = None) -> list[WatchedLayer]:
    """Return the layers of some names, or the last linear one, whose input is looked at.

    Args:
        module: Module.
        patterns: Patterns of names such as ``network.*``; None for the last linear layer, of which
            there may be none.

    Raises:
        IncompatibleError: No layer has a name of a pattern.
    """
    if patterns is None:
        linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        return [WatchedLayer("", linear[-1], is_input=True)] if linear else []
    named = [(name, layer) for name, layer in module.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            raise IncompatibleError(
                f"No layer of {type(module).__name__} matches {pattern!r}; there are "
                f"{', '.join(name for name, _ in named[:30])}."
            )
    return [
        WatchedLayer(name, layer)
        for name, layer in named
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
