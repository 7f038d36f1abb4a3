"""Problems that are solved rather than learned: estimators in scikit-learn's form."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.solvers.aggregate_ridge import (
        AggregateRidge,
        aggregate_risk,
        bag_size_risks,
        optimal_bag_size,
    )
    from framework.solvers.normalized_logistic import NormalizedLogisticRegression

__all__ = [
    "AggregateRidge",
    "NormalizedLogisticRegression",
    "aggregate_risk",
    "bag_size_risks",
    "optimal_bag_size",
]


def __getattr__(name: str) -> Any:
    # importing scikit-learn takes a second, which a run that needs no solver should not pay
    if name in __all__:
        home = "normalized_logistic" if name.startswith("Normalized") else "aggregate_ridge"
        return getattr(import_module(f"framework.solvers.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
