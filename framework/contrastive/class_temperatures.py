"""Temperatures of samples against how frequent their class is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef


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
