"""What validations found at each width: numbers, budgets to draw, and the table of the last one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from framework.dynamics.random_features import peak_height
from framework.figures.score_table import Table


class Budget(NamedTuple):
    """Errors after some steps of training.

    Args:
        step: Optimizer steps so far.
        values: Errors (W, R) of each width and draw by name: ``mse``, ``error``, ``train_mse``,
            and those of the exact solutions, ``exact_mse`` and ``exact_error``.
    """

    step: int
    values: Mapping[str, Tensor]


def spread_budgets(budgets: Sequence[Budget], last: int) -> list[Budget]:
    """Return earlier budgets to draw beside the last one, about a third and a tenth of its steps.

    Args:
        budgets: Budgets in order.
        last: Steps of the last one.

    Example:
        >>> [budget.step for budget in spread_budgets([Budget(k, {}) for k in range(101)], 100)]
        [10, 32]
    """
    earlier = [budget for budget in budgets if 0 < budget.step < last]
    chosen: dict[int, Budget] = {}
    for share in (0.1, 0.1**0.5):
        if earlier:
            nearest = min(earlier, key=lambda budget: abs(math.log(budget.step / (share * last))))
            chosen[nearest.step] = nearest
    return [chosen[step] for step in sorted(chosen)]


def width_scalars(
    widths: Sequence[int], values: Mapping[str, Tensor], rows: int, chosen: int
) -> dict[str, Tensor]:
    """Return the numbers that a validation logs, means over the draws.

    Args:
        widths: Numbers of features P.
        values: Errors (W, R), see ``Budget``; without ``train_mse`` there is none.
        rows: Number of training rows N; 0 where it is not known.
        chosen: Place of the width that ``error`` is of.
    """
    scalars = {"error": values["error"][chosen].mean()}
    for name, heights in (("peak", values["mse"]), ("exact_peak", values["exact_mse"])):
        height = peak_height(widths, heights.mean(1), rows)
        if height is not None and rows:
            scalars[name] = height
    for place, width in enumerate(widths):
        scalars[f"mse_at_{width}"] = values["mse"][place].mean()
        scalars[f"error_at_{width}"] = values["error"][place].mean()
    if "train_mse" in values:
        nearest = min(range(len(widths)), key=lambda place: abs(widths[place] - rows))
        scalars["train_mse"] = values["train_mse"][nearest].mean()
    return scalars


def width_table(
    widths: Sequence[int],
    values: Mapping[str, Tensor],
    condition: Tensor,
    norms: Tensor,
    rows: int,
) -> Table:
    """Return the errors of every width as a table.

    Args:
        widths: Numbers of features P.
        values: Errors (W, R), see ``Budget``; without ``train_mse`` its column is left out.
        condition: Condition numbers (W, R).
        norms: Lengths (W, R) of the trained heads.
        rows: Number of training rows N.
    """
    columns: dict[str, Tensor] = {
        "condition number, median": condition.median(1).values,
        "MSE": values["mse"].mean(1),
        "MSE, median": values["mse"].median(1).values,
        "error": values["error"].mean(1),
        "exact MSE": values["exact_mse"].mean(1),
        "exact MSE, median": values["exact_mse"].median(1).values,
        "exact error": values["exact_error"].mean(1),
        "length of the weights": norms.mean(1),
    }
    if "train_mse" in values:
        columns["training MSE"] = values["train_mse"].mean(1)
    cells = zip(*(column.tolist() for column in columns.values()), strict=True)
    return Table(
        f"Errors by the number of features, trained on N = {rows:,} rows",
        ("features", *columns),
        [(width, *row) for width, row in zip(widths, cells, strict=True)],
    )
