"""From the columns of a table to numbers: categories, missing values, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.table_reader import Table
from framework.utilities.limits import check_size

Coding = Literal["refuse", "one_hot", "ordinal"]
Missing = Literal["refuse", "drop", "mean", "median"]
FEWEST = 20
"""Training rows from which a column of texts can be told to name them."""
LARGEST_SHARE = 0.9
"""Different texts in a column, as a share of the rows, above which it is said to name them."""


@dataclass
class TableEncoding:
    """How the columns of a table become inputs, as measured on the training rows.

    A category that the training rows lack, and a missing one, is 0 in all of a one-hot code's
    inputs, and -1 as an ordinal code.

    Args:
        columns: Names of the columns, in order.
        categories: Categories of each column that holds text, sorted.
        coding: What becomes of text: one input per category, or its number.
        missing: What becomes of missing numbers.
        fill_values: Number (D,) that a missing one of each input is replaced by.
    """

    columns: list[str]
    categories: dict[str, list[str]]
    coding: Coding
    missing: Missing
    fill_values: Tensor | None = None

    @classmethod
    def measured(
        cls,
        table: Table,
        columns: Sequence[int],
        rows: Sequence[int],
        coding: Coding,
        missing: Missing,
    ) -> Self:
        """Return the encoding that training rows of a table give.

        Args:
            table: Table.
            columns: Positions of the columns.
            rows: Training rows.
            coding: What becomes of text.
            missing: What becomes of missing numbers.
        """
        names = [table.names[k] for k in columns]
        categories: dict[str, list[str]] = {}
        if coding != "refuse":
            for k, name in zip(columns, names, strict=True):
                if table.is_text(k):
                    texts = table.texts(k)
                    found = {text for row in rows if (text := texts[row]) is not None}
                    categories[name] = sorted(found)
                    _warn_of_names(name, len(found), len(rows))
        made = cls(names, categories, coding, missing)
        if missing in ("mean", "median"):
            made.fill_values = made._fill_values(made._numbers(table, columns)[rows])
        return made

    @property
    def feature_names(self) -> list[str]:
        """Names of the inputs."""
        names: list[str] = []
        for column in self.columns:
            one_hot = self.coding == "one_hot" and column in self.categories
            names += [f"{column}={c}" for c in self.categories[column]] if one_hot else [column]
        return names

    def inputs(self, table: Table) -> Tensor:
        """Return the inputs (N, D) float64 of a table that has the columns.

        A warning counts the rows of categories that were not among the training rows.
        """
        for name, known in self.categories.items():
            _warn_of_unknown(name, known, table.texts(table.position(name)))
        found = self._numbers(table, [table.position(name) for name in self.columns])
        if self.fill_values is None:
            return found
        return torch.where(found.isnan(), self.fill_values, found)

    def _numbers(self, table: Table, columns: Sequence[int]) -> Tensor:
        codes = sum(map(len, self.categories.values())) if self.coding == "one_hot" else 0
        # 8 bytes for a number, once in its column and once with the others, beside what is equal
        check_size(table.source, 17 * codes * len(table), f"{codes:,} inputs of one-hot codes")
        parts = []
        for k, name in zip(columns, self.columns, strict=True):
            if name not in self.categories:
                strict = self.missing == "refuse"
                parts.append(table.numbers(k, missing=not strict)[:, None])
                continue
            known = {category: code for code, category in enumerate(self.categories[name])}
            code = np.array([known.get(str(text), -1) for text in table.texts(k)])
            one_hot = code[:, None] == np.arange(len(known))
            parts.append(one_hot if self.coding == "one_hot" else code[:, None])
        return torch.from_numpy(np.concatenate([part.astype(np.float64) for part in parts], 1))

    def _fill_values(self, found: Tensor) -> Tensor:
        values = found.nanmean(0) if self.missing == "mean" else found.nanmedian(0).values
        return values.nan_to_num(0.0)  # of a column without any number


def _warn_of_names(column: str, found: int, rows: int) -> None:
    if rows >= FEWEST and found > rows * LARGEST_SHARE:
        rank_zero_warn(
            f"The column {column!r} has {found:,} different texts in {rows:,} training rows, which "
            "tell each row from the others: if it names the rows, give it as row_names."
        )


def _warn_of_unknown(column: str, known: Sequence[str], texts: Sequence[str | None]) -> None:
    there = {*known, None}
    unknown = [text for text in texts if text not in there]
    if unknown:
        rank_zero_warn(
            f"{len(unknown):,} of {len(texts):,} rows have a category of {column!r} that the "
            f"training rows lack, such as {unknown[0]!r}, and are read as of none."
        )


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (D,) over rows; exactly 0 where all rows are equal."""
    # scaled by a power of 2, so that neither the sum nor the squares leave the range of float64
    scale = torch.as_tensor(np.ldexp(1.0, torch.frexp(values.abs().amax(0)).exponent.numpy() - 1))
    scaled = values / scale
    # compared, since rounding gives equal numbers a deviation that is small but not 0
    constant = values.amax(0) == values.amin(0)
    return scaled.mean(0) * scale, torch.where(constant, 0.0, scaled.std(0, correction=0)) * scale


def standardized(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return columns in the unit of the training rows; one that was constant there becomes 0."""
    return (values - mean) / torch.where(std > 0, std, torch.inf)
