"""One place where hyperparameters act in a training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from framework.objectives.objectives import Objectives
from framework.self_tuning.draws import Draws
from framework.self_tuning.hyperparameter import HyperParameter
from framework.utilities.nearest_names import nearest


class Effect(ABC):
    """What some hyperparameters do to a training step: to layers, to the batch or to the loss.

    It acts inside ``at`` only, so that evaluation and the steps that tune see the plain network.
    Values carry no gradient: what tunes them is the response of the weights. A copy of a network
    keeps the effect of the original.

    Class attributes:
        needs: Optional fields of ``Objectives`` that it reads.
        per_batch: Whether it acts on the batch as a whole, so that all rows share its values.

    Args:
        name: Prefix of the names of its hyperparameters.
        hyperparameters: Hyperparameters by their names without the prefix.

    Attributes:
        active: Values by name without the prefix inside ``at``, (B,) or (); None outside.
        draws: Random numbers of the step inside ``at``; None outside.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    per_batch: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, name: str, hyperparameters: Mapping[str, HyperParameter]) -> None:
        self.name = name
        self.hyperparameters = {
            key: replace(one, shared=True) if self.per_batch else one
            for key, one in hyperparameters.items()
        }
        self.active: dict[str, Tensor] | None = None
        self.draws: Draws | None = None
        self._calls: Counter[str] = Counter()
        self._handles: list[RemovableHandle] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Effect:
        return self

    def attach(self, model: nn.Module) -> None:
        """Find the layers that it acts on and hook into them; called again, begin anew.

        Raises:
            ValueError: The model has no such layer.
        """
        self.detach(model)

    def detach(self, model: nn.Module) -> None:
        """Undo ``attach``."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def at(self, values: Mapping[str, Tensor], draws: Draws) -> Iterator[None]:
        """Let it act inside the block.

        Args:
            values: Values by name without the prefix, (B,) or ().
            draws: Random numbers of the step.
        """
        before = self.active, self.draws, self._calls
        self.active = {key: values[key].detach() for key in self.hyperparameters}
        self.draws, self._calls = draws, Counter()
        try:
            yield
        finally:
            self.active, self.draws, self._calls = before

    def change_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch of this rank, on its device, as the step is to see it."""
        return batch

    def change_objectives(  # noqa: B027  (most effects leave the terms alone)
        self, objectives: Objectives, batch: Mapping[str, Any], model: nn.Module
    ) -> None:
        """Change the terms of the step in place, before they are reduced."""

    def stream(self, place: str) -> str:
        """Return the name of a place's random numbers, another one for each call of a step."""
        self._calls[place] += 1
        return f"{self.name}.{place}.{self._calls[place]}"

    def value_for(self, key: str, x: Tensor, place: str) -> Tensor:
        """Return a value in a shape that multiplies ``x``: (B, 1, ...), or () if it is shared.

        Args:
            key: Name of the hyperparameter without the prefix.
            x: (B, ...).
            place: What ``x`` is, for the message.

        Raises:
            ValueError: ``x`` has other rows than the batch.
        """
        assert self.active is not None
        value = self.active[key]
        if value.ndim == 0:
            return value
        if x.ndim == 0 or len(value) != len(x):
            raise ValueError(
                f"{self.name}.{key} has one value for each of the {len(value)} rows of the batch, "
                f"but {place} has the shape {tuple(x.shape)}: its first axis must be that of the "
                f"batch, or the hyperparameter be `shared: true`."
            )
        return value.view(-1, *[1] * (x.ndim - 1))

    def field_of(self, batch: Mapping[str, Any], key: str) -> Tensor:
        """Return a floating-point field of the batch.

        Raises:
            ValueError: The batch has no such field, or it holds no floating-point numbers.
        """
        found = batch.get(key)
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
        kind = f"holds {found.dtype}" if isinstance(found, Tensor) else "is no tensor"
        reason = kind if key in batch else f"is not among {', '.join(batch)}{nearest(key, batch)}"
        raise ValueError(
            f"{self.name} changes the field {key!r} of a batch, which {reason}; it must hold "
            "floating-point numbers."
        )


def hyperparameters_of(effects: Iterable[Effect]) -> dict[str, HyperParameter]:
    """Return the hyperparameters of several effects by their whole names, such as ``dropout.rate``.

    Raises:
        ValueError: Two effects have one name.
    """
    found: dict[str, HyperParameter] = {}
    names: set[str] = set()
    for effect in effects:
        if effect.name in names:
            raise ValueError(
                f"Two effects have the name {effect.name!r}: give one of them another."
            )
        names.add(effect.name)
        found |= {f"{effect.name}.{key}": one for key, one in effect.hyperparameters.items()}
    return found


@contextmanager
def acting(effects: Iterable[Effect], values: Mapping[str, Tensor], draws: Draws) -> Iterator[None]:
    """Let several effects act inside the block.

    Args:
        effects: Effects.
        values: Values by whole names, as ``HyperSpace.values`` returns them.
        draws: Random numbers of the step.
    """
    with ExitStack() as stack:
        for effect in effects:
            own = {key: values[f"{effect.name}.{key}"] for key in effect.hyperparameters}
            stack.enter_context(effect.at(own, draws))
        yield
