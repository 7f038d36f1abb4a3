"""The base of effects that act on the layers that patterns of names stand for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from framework.self_tuning.effect import Effect
from framework.self_tuning.hyperparameter import HyperParameter
from framework.self_tuning.layer_patterns import layers_by_pattern


class LayerEffect(Effect):
    """Acts on layers, each once however many patterns and names it has.

    Class attributes:
        kinds: Classes that a layer may have.

    Args:
        layers: Pattern or patterns of the layers' dotted names.
        name: Prefix of the names of its hyperparameters.
        hyperparameters: Hyperparameters by their names without the prefix.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)

    @abstractmethod
    def __init__(
        self, layers: str | list[str], name: str, hyperparameters: Mapping[str, HyperParameter]
    ) -> None:
        super().__init__(name, hyperparameters)
        self.layers = layers
        self._attached: dict[str, nn.Module] = {}

    def attach(self, model: nn.Module) -> None:
        """Find the layers.

        Raises:
            ValueError: A pattern matches no layer that it could act on.
        """
        super().attach(model)
        known: set[nn.Module] = set()
        for pattern, found in layers_by_pattern(model, self.layers, self.kinds).items():
            for name, layer in self.chosen(model, pattern, found).items():
                if layer not in known:
                    known.add(layer)
                    self._attached[name] = layer

    def detach(self, model: nn.Module) -> None:
        """Forget the layers."""
        super().detach(model)
        self._attached.clear()

    def chosen(
        self, model: nn.Module, pattern: str, found: dict[str, nn.Module]
    ) -> dict[str, nn.Module]:
        """Return those of the layers that a pattern matches on which it acts; default: all.

        Args:
            model: Network.
            pattern: Pattern.
            found: Layers that it matches by their names, at least one.

        Raises:
            ValueError: It acts on none of them.
        """
        return found
