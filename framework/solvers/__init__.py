"""Problems that are solved rather than learned: estimators in scikit-learn's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.solvers.normalized_logistic import NormalizedLogisticRegression

__all__ = ["NormalizedLogisticRegression"]


def __getattr__(name: str) -> Any:
    # importing scikit-learn takes a second, which a run that needs no solver should not pay
    if name in __all__:
        from framework.solvers import normalized_logistic

        return getattr(normalized_logistic, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
