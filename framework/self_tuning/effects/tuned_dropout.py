"""Dropout of a network's layers at a tuned rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout
from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.dropping import drop
from framework.self_tuning.effects.layer_effect import LayerEffect
from framework.self_tuning.hyperparameter import HyperParameter
from framework.utilities.checks import check_one_of

RATE = HyperParameter(init=0.05, low=0.0, high=0.9)
"""Range of a rate: one near 1 is unstable."""

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, GlobalDropout)
"""Layers that set a share of their input to 0."""

CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Those that drop whole channels."""


class TunedDropout(LayerEffect):
    """Drops elements of activations at a rate that each row of the batch has for itself.

    Dropout layers get the rate in the place of their own and drop what they would: elements, or
    whole channels. A pattern that matches no dropout layer stands for the layers whose output, or
    input, is dropped. One rate counts for all of them; take several effects for several rates.
    Masks do not depend on the number of ranks. What an LSTM or an attention drops inside itself is
    no layer and keeps its rate.

    Shapes: activations (B, ...), of an LSTM its output.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088.

    Args:
        layers: Pattern or patterns of the layers' dotted names, such as ``features.*``; ``*`` means
            every dropout layer.
        name: Prefix of the hyperparameter's name, ``NAME.rate``.
        rate: Rate, within (0, 1).
        where: Whether layers that are no dropout have their ``'output'`` or their ``'input'``
            dropped.
        locked: Whether all positions of a sequence (B, T, D) have one mask.

    Raises:
        ValueError: An argument out of its range; in ``attach``, a pattern that matches nothing.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Draws, TunedDropout
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
        >>> dropout = TunedDropout()
        >>> dropout.attach(model)
        >>> with dropout.at({"rate": torch.tensor([0.0, 0.8])}, Draws(seed=0, step=0)):
        ...     dropped = model(torch.ones(2, 4)) == 0
        >>> dropped.any(1)
        tensor([False,  True])
    """

    def __init__(
        self,
        layers: str | list[str] = "*",
        name: str = "dropout",
        rate: HyperParameter = RATE,
        where: str = "output",
        locked: bool = False,
    ) -> None:
        super().__init__(layers, name, {"rate": rate.within(f"{name}.rate", RATE, low=0, high=1)})
        check_one_of(("output", "input"), where=where)
        self.where = where
        self.locked = locked

    def attach(self, model: nn.Module) -> None:
        """Find the layers and hook into them.

        Raises:
            ValueError: A pattern matches nothing, or ``*`` no dropout layer.
        """
        super().attach(model)
        for name, layer in self._attached.items():
            if self.where == "input" and not isinstance(layer, DROPOUTS):
                self._handles.append(layer.register_forward_pre_hook(self._before(name)))
            else:
                self._handles.append(layer.register_forward_hook(self._after(name)))

    def chosen(
        self, model: nn.Module, pattern: str, found: dict[str, nn.Module]
    ) -> dict[str, nn.Module]:
        """Return the dropout layers or, where there is none, all."""
        dropouts: dict[str, nn.Module] = {
            name: one for name, one in found.items() if isinstance(one, DROPOUTS)
        }
        if not dropouts and pattern == "*":
            raise ValueError(
                f"{self.name}: {type(model).__name__} has no dropout layer; name in `layers` the "
                f"layers whose {self.where} is to be dropped."
            )
        return dropouts or found

    @contextmanager
    def at(self, values: Mapping[str, Tensor], draws: Draws) -> Iterator[None]:
        """Let it act inside the block, where dropout layers do not drop by themselves."""
        dropouts = [layer for layer in self._attached.values() if isinstance(layer, DROPOUTS)]
        own = [(layer, layer.p) for layer in dropouts]
        for layer, _ in own:
            layer.p = 0.0
        try:
            with super().at(values, draws):
                yield
        finally:
            for layer, rate in own:
                layer.p = rate

    def _before(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        def drop_input(layer: nn.Module, inputs: tuple[Any, ...]) -> Any:
            return self._first_dropped(layer, name, inputs)

        return drop_input

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def drop_output(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple):
                return self._first_dropped(layer, name, output)
            return self._dropped(layer, name, output)

        return drop_output

    def _first_dropped(self, layer: nn.Module, name: str, values: tuple[Any, ...]) -> Any:
        return (self._dropped(layer, name, values[0] if values else None), *values[1:])

    def _dropped(self, layer: nn.Module, name: str, x: Any) -> Any:
        if self.active is None or not layer.training:
            return x
        if not isinstance(x, Tensor):
            raise ValueError(
                f"{self.name} drops elements of a tensor, but the {self.where} of the layer "
                f"{name!r} is {type(x).__name__}."
            )
        assert self.draws is not None
        rate = self.value_for("rate", x, f"the activation of the layer {name!r}")
        shape = list(x.shape[1:])
        if isinstance(layer, CHANNELS):
            shape[1:] = [1] * (x.ndim - 2)
        elif self.locked:
            shape[:-1] = [1] * (x.ndim - 2)
        # a rate that rows share is no promise that they are those of the batch
        stream, of_batch = self.stream(name), rate.ndim > 0
        noise = self.draws.uniform(stream, len(x), *shape, device=x.device, of_batch=of_batch)
        return drop(x, rate, noise)
