"""Temperatures of samples, and of classes against how frequent they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from framework.figures.score_table import Table

PERCENTILES = (10, 50, 90)


class ClassTemperatures(NamedTuple):
    """Temperatures of the samples of every class.

    Args:
        samples: Samples of each class (K,) int64.
        mean: Their mean temperature (K,); NaN of a class without samples.
        low: Their 10th percentile (K,).
        high: Their 90th percentile (K,).
        correlation: Spearman's rank correlation of mean temperature and frequency over the classes;
            NaN where all are equally frequent, or there is one class.
    """

    samples: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    correlation: Tensor


def class_temperatures(temperature: Tensor, label: Tensor) -> ClassTemperatures:
    """Return what temperature the samples of each class have.

    In iSogCLR temperatures rise with the number of similar samples, so that the correlation tells
    whether frequent classes were found, though no label was seen.

    Args:
        temperature: Temperatures (N,); NaN of samples that were never visited, which do not count.
        label: Classes (N,) int64 from 0; negative ones do not count.

    Example:
        >>> import torch
        >>> found = class_temperatures(torch.tensor([0.5, 0.7, 0.1]), torch.tensor([0, 0, 1]))
        >>> found.mean, round(float(found.correlation), 4)
        (tensor([0.6000, 0.1000]), 1.0)
    """
    known = ~temperature.isnan() & (label >= 0)
    temperature, label = temperature[known], label[known]
    count = label.bincount()
    summary = temperature.new_full((3, len(count)), torch.nan)
    for k in count.nonzero().flatten().tolist():
        members = temperature[label == k]
        summary[0, k] = members.mean()
        summary[1:, k] = members.quantile(members.new_tensor([0.1, 0.9]))
    present = count > 0
    found, frequency = summary[0, present], count[present]
    correlation = temperature.new_full((), torch.nan)
    if len(frequency) > 1 and int(frequency.min()) < int(frequency.max()):
        correlation = spearman_corrcoef(found.double(), frequency.double()).to(temperature.dtype)
    return ClassTemperatures(count, summary[0], summary[1], summary[2], correlation)


def temperature_table(found: ClassTemperatures, class_names: Sequence[str] | None = None) -> Table:
    """Return the temperatures of the classes that have samples.

    Args:
        found: Temperatures of K classes.
        class_names: Names of the classes; default 0..K-1.

    Example:
        >>> found = class_temperatures(torch.tensor([0.5, 0.75]), torch.tensor([1, 1]))
        >>> [row[:3] for row in temperature_table(found, ["cat", "dog"]).rows]
        [('dog', 2, 0.625)]
    """
    parts = (part.tolist() for part in (found.samples, found.mean, found.low, found.high))
    rows = [
        (str(k) if class_names is None else class_names[k], *row)
        for k, row in enumerate(zip(*parts, strict=True))
        if row[0]
    ]
    columns = ("class", "samples", "mean", "10th percentile", "90th percentile")
    return Table("Temperatures of the classes", columns, rows)


def temperature_summary(temperature: Tensor) -> dict[str, Tensor]:
    """Return percentiles and the mean of temperatures (N,), one of them at least.

    Example:
        >>> temperature_summary(torch.tensor([0.25, 1.0, 0.5]))["p50"]
        tensor(0.5000)
    """
    # torch's quantile takes 16 million numbers at most
    ordered = temperature.sort().values
    last = len(ordered) - 1
    found = {f"p{p}": ordered[round(p / 100 * last)] for p in PERCENTILES}
    return found | {"mean": temperature.mean()}
