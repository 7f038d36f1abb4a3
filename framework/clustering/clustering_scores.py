"""Agreement of a clustering with classes that needs no matching: NMI and ARI.

torchmetrics' metrics of these names keep every sample, count pairs in an integer that 70,000
samples in two classes overflow, and do not allow a rank without rows.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from framework.clustering.contingency_table import ContingencyTable
from framework.utilities.checks import check_one_of

AverageMethod = Literal["geometric", "arithmetic", "min", "max"]


class NormalizedMutualInfoScore(ContingencyTable):
    """Mutual information of clusters and classes, divided by a mean of their entropies.

    Published numbers use different means, so log it under the mean's name, as in
    ``nmi_geometric``. 1 means that clusters and classes are the same partition, 0 that they are
    independent.

    ``compute`` returns a float32 scalar, NaN without any sample.

    Papers: Strehl and Ghosh, Cluster Ensembles, JMLR 2002 (geometric). DEPICT, arXiv:1704.06327,
    names no mean; its code called scikit-learn when the default there was geometric. Today's
    default is arithmetic.

    Args:
        num_clusters: Number of clusters K.
        num_classes: Number of classes C.
        average_method: Mean of the two entropies: ``'geometric'``, ``'arithmetic'``, ``'min'`` or
            ``'max'``.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: another ``average_method``, or as for
            ``ContingencyTable``.

    Example:
        >>> import torch
        >>> from framework.clustering.clustering_scores import NormalizedMutualInfoScore
        >>> metric = NormalizedMutualInfoScore(num_clusters=2, num_classes=2)
        >>> metric.update(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 1]))
        >>> metric.compute()
        tensor(0.3456)
    """

    higher_is_better = True

    def __init__(
        self,
        num_clusters: int,
        num_classes: int,
        average_method: AverageMethod = "geometric",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_clusters, num_classes, **kwargs)
        check_one_of(get_args(AverageMethod), average_method=average_method)
        self.average_method = average_method

    def compute(self) -> Tensor:
        """Return the score."""
        score = normalized_mutual_info_score(self.table, self.average_method)
        return torch.tensor(score, device=self.table.device)


class AdjustedRandScore(ContingencyTable):
    """Share of pairs on which clusters and classes agree, corrected for chance.

    1 means that they are the same partition, 0 is the mean over random ones of the same sizes.

    ``compute`` returns a float32 scalar, NaN without any sample. Arguments and errors are those of
    ``ContingencyTable``.

    Paper: Hubert and Arabie, Comparing Partitions, Journal of Classification 1985.

    Example:
        >>> import torch
        >>> from framework.clustering.clustering_scores import AdjustedRandScore
        >>> metric = AdjustedRandScore(num_clusters=3, num_classes=2)
        >>> metric.update(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.5714)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the score."""
        return torch.tensor(adjusted_rand_score(self.table), device=self.table.device)


def normalized_mutual_info_score(
    table: Tensor, average_method: AverageMethod = "geometric"
) -> float:
    """Return the normalized mutual information, as scikit-learn does for labels.

    One cluster and one class are the same partition, hence 1; where only one of the two has a
    single part, they share nothing, hence 0.

    Args:
        table: (K, C) counts; rows are clusters, columns classes.
        average_method: Mean of the two entropies, as in ``NormalizedMutualInfoScore``.

    Returns:
        A number in [0, 1]; NaN without any sample.

    Raises:
        ValueError: another ``average_method``.

    Example:
        >>> import torch
        >>> from framework.clustering.clustering_scores import normalized_mutual_info_score
        >>> round(normalized_mutual_info_score(torch.tensor([[0, 2], [1, 1]])), 4)
        0.3456
    """
    check_one_of(get_args(AverageMethod), average_method=average_method)
    counts = table.cpu().double()
    total, clusters, classes = counts.sum(), counts.sum(1), counts.sum(0)
    if not total:
        return math.nan
    low, high = sorted([_entropy(clusters / total), _entropy(classes / total)])
    if low == 0:
        return float(high == 0)
    by_chance = torch.outer(clusters, classes) / total
    # 0 log 0 is 0
    inside = counts > 0
    information = float((counts * (counts / by_chance).log())[inside].sum() / total)
    mean = {
        "geometric": math.sqrt(low * high),
        "arithmetic": (low + high) / 2,
        "min": low,
        "max": high,
    }[average_method]
    # rounding alone could leave the range
    return min(max(information / mean, 0.0), 1.0)


def adjusted_rand_score(table: Tensor) -> float:
    """Return the adjusted Rand index; NaN without any sample.

    Pairs are counted in integers of any size, so that the number is exact however many samples
    there are. Two partitions in which no pair, or every pair, is together are the same, hence 1.

    Args:
        table: (K, C) integer counts; rows are clusters, columns classes.

    Example:
        >>> import torch
        >>> from framework.clustering.clustering_scores import adjusted_rand_score
        >>> adjusted_rand_score(torch.tensor([[0, 50_000], [50_000, 0]]))
        1.0
    """
    samples = int(table.sum())
    if samples == 0:
        return math.nan
    pairs = samples * (samples - 1)
    in_cluster, in_class = _ordered_pairs(table.sum(1)), _ordered_pairs(table.sum(0))
    in_both = _ordered_pairs(table.flatten())
    # index - expected over maximum - expected, each times 2 * pairs
    above_chance = 2 * (in_both * pairs - in_cluster * in_class)
    largest = (in_cluster + in_class) * pairs - 2 * in_cluster * in_class
    return above_chance / largest if largest else 1.0


def _ordered_pairs(counts: Tensor) -> int:
    return sum(n * (n - 1) for n in counts.tolist())


def _entropy(share: Tensor) -> float:
    return -float(torch.special.xlogy(share, share).sum())
