"""Settings as points that a Gaussian process can compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from framework.tuning.unit_cube import from_unit, to_unit


class EncodedSpace:
    """Turns settings into rows of numbers in [0, 1], and any such row back into settings.

    A number has one column, in which its steps, or its ratios where it is logarithmic, have equal
    lengths. A choice has one column for each value, 1 for the one that is taken, so that all of
    them are equally far apart. A fidelity is divided by its highest value, which is 1.

    Args:
        space: Optuna's distributions by the names of the parameters.
        fidelity: Name of the parameter that is the fidelity, if there is one.

    Raises:
        ValueError: The fidelity is no parameter, not a number or not positive.

    Example:
        >>> from optuna.distributions import CategoricalDistribution, FloatDistribution
        >>> kinds = CategoricalDistribution(["a", "b", "c"])
        >>> space = EncodedSpace({"kind": kinds, "lr": FloatDistribution(1e-4, 1.0, log=True)})
        >>> [round(place, 6) for place in space.encode({"kind": "b", "lr": 0.01})]
        [0.0, 1.0, 0.0, 0.5]
        >>> space.decode([0.2, 0.1, 0.9, 0.0])["kind"]
        'c'
    """

    def __init__(self, space: Mapping[str, BaseDistribution], fidelity: str | None = None) -> None:
        self.space = dict(space)
        self.fidelity = fidelity
        self.fidelity_column: int | None = None
        self.columns = 0
        for name, kind in self.space.items():
            if name == fidelity:
                self.fidelity_column = self.columns
            self.columns += len(kind.choices) if isinstance(kind, CategoricalDistribution) else 1
        if fidelity is None:
            return
        found = self.space.get(fidelity)
        if found is None or isinstance(found, CategoricalDistribution) or found.low <= 0:
            raise ValueError(
                f"The fidelity {fidelity} must be a number that varies and is above 0 in the "
                "search space, such as the epochs from 1 to 20."
            )

    @property
    def bounds(self) -> tuple[list[float], list[float]]:
        """Lowest and highest value of every column."""
        low = [0.0] * self.columns
        if self.fidelity_column is not None:
            kind = self.space[str(self.fidelity)]
            low[self.fidelity_column] = kind.low / kind.high
        return low, [1.0] * self.columns

    def encode(self, params: Mapping[str, Any]) -> list[float]:
        """Return the row of some settings."""
        row: list[float] = []
        for name, kind in self.space.items():
            value = params[name]
            if isinstance(kind, CategoricalDistribution):
                taken = kind.to_internal_repr(value)
                row += [float(i == taken) for i in range(len(kind.choices))]
            elif name == self.fidelity:
                row.append(value / kind.high)
            else:
                row.append(to_unit(kind, value))
        return row

    def decode(self, row: Sequence[float]) -> dict[str, Any]:
        """Return the settings that are nearest to a row."""
        params: dict[str, Any] = {}
        rest = list(row)
        for name, kind in self.space.items():
            if isinstance(kind, CategoricalDistribution):
                count = len(kind.choices)
                places, rest = rest[:count], rest[count:]
                params[name] = kind.choices[max(range(count), key=places.__getitem__)]
                continue
            place = rest.pop(0)
            if name == self.fidelity:
                # half a step or less away from the value, on the scale of the parameter
                place = to_unit(kind, min(max(place * kind.high, kind.low), kind.high))
            params[name] = from_unit(kind, place)
        return params
