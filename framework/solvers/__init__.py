"""Problems that are solved rather than learned: estimators in scikit-learn's form."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.solvers.agglomerative_path_integral import AgglomerativePathIntegral
    from framework.solvers.aggregate_ridge import (
        AggregateRidge,
        aggregate_risk,
        bag_size_risks,
        optimal_bag_size,
    )
    from framework.solvers.normalized_logistic import NormalizedLogisticRegression

__all__ = [
    "AgglomerativePathIntegral",
    "AggregateRidge",
    "NormalizedLogisticRegression",
    "aggregate_risk",
    "bag_size_risks",
    "optimal_bag_size",
]

_HOMES = {
    "AgglomerativePathIntegral": "agglomerative_path_integral",
    "NormalizedLogisticRegression": "normalized_logistic",
}


def __getattr__(name: str) -> Any:
    # importing scikit-learn takes a second, which a run that needs no solver should not pay
    if name in __all__:
        home = _HOMES.get(name, "aggregate_ridge")
        return getattr(import_module(f"framework.solvers.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
