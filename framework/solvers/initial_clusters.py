"""The clusters that a deep clustering starts from, found once and the same on every rank."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import rank, world_size
from framework.utilities.checks import check_one_of
from framework.utilities.precision import at_least_float32

InitKind = Literal["kmeans", "acpic"]
KMEANS = {"n_init": 40, "max_iter": 300}


def initial_clusters(
    x: Tensor, num_clusters: int, kind: InitKind, seed: int, **options: Any
) -> Tensor:
    """Return the cluster of every row.

    Rank 0 computes and broadcasts: two ranks on their own might number clusters differently.

    Args:
        x: Points (N, D), the same on every rank.
        num_clusters: Number K of clusters.
        kind: Method: ``kmeans`` for scikit-learn's k-means++ with 40 starts, ``acpic`` for
            ``AgglomerativePathIntegral``.
        seed: Seed of k-means.
        **options: Arguments of the estimator, in place of the defaults.

    Returns:
        Clusters (N,) int64 in 0..K-1, on the device of ``x``.

    Raises:
        ValueError: The method or an option is unknown, values are not finite, or there are fewer
            than K clusters.

    Example:
        >>> import torch
        >>> from framework.solvers.initial_clusters import initial_clusters
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> label = initial_clusters(x, num_clusters=2, kind="kmeans", seed=0)
        >>> bool(label[0] == label[1] != label[2] == label[3])
        True
    """
    check_one_of(get_args(InitKind), init=kind)
    # (labels, what went wrong): a rank that failed alone would leave the others waiting
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = _fit(x.double().cpu().numpy(), num_clusters, kind, seed, options)
        except Exception as error:
            answer[1] = f"The initial clusters by {kind} were not found: {error}"
    if world_size() > 1:
        dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise ValueError(answer[1])
    return torch.from_numpy(np.asarray(answer[0], dtype=np.int64)).to(x.device)


def check_options(kind: InitKind, num_clusters: int, options: dict[str, Any]) -> None:
    """Raise ``ValueError`` for options that the estimator does not have, before the training."""
    try:
        _estimator(kind, num_clusters, 0, options)
    except TypeError as error:
        raise ValueError(f"model.init_options does not fit {kind}: {error}.") from None


def _estimator(kind: InitKind, num_clusters: int, seed: int, options: dict[str, Any]) -> Any:
    if kind == "kmeans":
        from sklearn.cluster import KMeans

        return KMeans(num_clusters, random_state=seed % 2**32, **KMEANS | options)
    from framework.solvers.agglomerative_path_integral import AgglomerativePathIntegral

    return AgglomerativePathIntegral(num_clusters, **options)


def _fit(
    x: np.ndarray, num_clusters: int, kind: InitKind, seed: int, options: dict[str, Any]
) -> np.ndarray:
    estimator = _estimator(kind, num_clusters, seed, options)
    if len(x) < num_clusters:
        raise ValueError(f"{num_clusters} clusters need as many samples, and there are {len(x)}.")
    with warnings.catch_warnings():
        # that there are fewer clusters is no warning here, but the error below
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        labels: np.ndarray = estimator.fit_predict(x)
    found = len(np.unique(labels))
    if found < num_clusters:
        raise ValueError(
            f"only {found} of {num_clusters} clusters have a sample. If the samples do differ, the "
            "code has collapsed: lower the learning rate."
        )
    return labels


def centroids(x: Tensor, label: Tensor, num_clusters: int) -> Tensor:
    """Return the mean of every cluster's rows, (K, D), in float32 at least; 0 where none is."""
    # a product, as adding up by index has no fixed order on a GPU
    members = F.one_hot(label, num_clusters).double()
    sizes = members.sum(0).clamp(min=1)
    return (members.T @ x.double() / sizes[:, None]).to(at_least_float32(x).dtype)
