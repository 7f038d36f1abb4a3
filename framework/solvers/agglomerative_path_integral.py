"""Agglomerative clustering of a nearest neighbor graph by the paths that lead back to clusters."""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import validate_data

Array = NDArray[Any]

# of what a series of paths leaves out; a margin below float64's precision, because what ends in one
# sample may be the sum over thousands
TOLERANCE = 1e-20


class AgglomerativePathIntegral(ClusterMixin, BaseEstimator):
    r"""Merges the clusters whose union has the most paths from a cluster back to itself.

    The graph has an edge to each sample's ``n_neighbors`` nearest others, of weight
    :math:`\exp(-D / \sigma^2)` for a squared distance D, and one to itself of weight 1; W are these
    weights with rows that sum to 1. :math:`\sigma^2` is a times the mean D to the nearest
    ``max(n_neighbors, 3)``, doubled while the weight of any sample's nearest neighbor is below
    1e-5. A path of k steps counts :math:`z^k` times its weights:

    .. math:: S(A) = \frac{1}{|A|^2} 1^\top (I - z W_A)^{-1} 1, \qquad
              S(A \mid A \cup B) = \frac{1}{|A|^2} 1_A^\top (I - z W_{A \cup B})^{-1} 1_A

    From the connected components of the nearest neighbors (or, if these are fewer than
    ``n_clusters``, from single samples), the pair is merged that has the largest affinity
    :math:`S(A | A \cup B) + S(B | A \cup B) - S(A) - S(B)`, until ``n_clusters`` are left. As
    :math:`z \to 0`, affinity over :math:`z^2` becomes that of graph degree linkage
    (arXiv:1208.5092).

    There is no randomness. Affinities that agree in 12 digits are a tie, which the pair with the
    lowest samples wins. Duplicates are neighbors of weight 1; a sample with more of them than
    ``n_neighbors`` is linked to some of them only, and if all neighbors of all samples are
    duplicates, all weights are equal. A pair without a path out of one cluster through the other
    and back has the affinity 0, as have outliers that are no other sample's neighbors and stay a
    cluster of their own; if only such pairs are left, those with the lowest samples are merged,
    with a warning.

    Shapes: X (n, d) numbers, computed in float64.

    Paper: Zhang, Zhao and Wang, *Agglomerative Clustering via Maximum Incremental Path Integral*,
    Pattern Recognition 46(11), 2013. Followed is the authors' toolbox, as DEPICT (arXiv:1704.06327)
    runs it; there the mean D is over all neighbors, in the paper over three. The toolbox refuses
    fewer first clusters than ``n_clusters``.

    Cost: O(n n_neighbors) memory and seconds for 10,000 samples. Time grows as z nears 1, and with
    clusters of uneven size.
    Use it for: clusters of any shape, and to start DEPICT.

    Args:
        n_clusters: Number of clusters, from 1 to n.
        n_neighbors: Number of edges per sample; with fewer other samples, all of them.
        a: Factor of :math:`\sigma^2`, above 0.
        z: Discount of a path, in (0, 1); the larger, the more long paths count.

    Attributes:
        labels_: (n,) integers, numbered in the order of each cluster's first sample.
        n_features_in_: d.

    Raises:
        ValueError: an argument out of its range, or more clusters than samples.

    Example:
        >>> from framework.solvers import AgglomerativePathIntegral
        >>> X = [[0.0], [9.0], [0.3], [9.2], [0.4], [9.9]]
        >>> AgglomerativePathIntegral(n_clusters=2, n_neighbors=2).fit(X).labels_
        array([0, 1, 0, 1, 0, 1])
    """

    def __init__(
        self, n_clusters: int, n_neighbors: int = 20, a: float = 1.0, z: float = 0.01
    ) -> None:
        self.n_clusters = n_clusters
        self.n_neighbors = n_neighbors
        self.a = a
        self.z = z

    def fit(self, X: Any, y: Any = None) -> AgglomerativePathIntegral:  # noqa: N803
        """Cluster samples X (n, d); y is not used."""
        for name in ("n_clusters", "n_neighbors"):
            value = getattr(self, name)
            if not (isinstance(value, Integral) and int(value) >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        if not (isinstance(self.a, Real) and 0 < self.a < math.inf):
            raise ValueError(f"a must be a finite number above 0, got {self.a!r}.")
        if not (isinstance(self.z, Real) and 0 < self.z < 1):
            raise ValueError(f"z must be a number between 0 and 1, got {self.z!r}.")
        X = validate_data(self, X, dtype=np.float64)
        n = len(X)
        if self.n_clusters > n:
            raise ValueError(f"n_clusters must be at most n_samples={n}, got {self.n_clusters}.")
        if self.n_clusters == n:
            self.labels_ = np.arange(n)
            return self
        nearest, W = _graph(X, self.n_neighbors, self.a)
        names = _lowest_connected(nearest)
        if len(np.unique(names)) < self.n_clusters:
            names = np.arange(n)
        clusters = _Clusters(W, self.z, names)
        merges = len(clusters.members) - self.n_clusters
        unconnected = _merge_until(clusters, self.n_clusters)
        if unconnected:
            warnings.warn(
                f"{unconnected} of {merges} merges had to join clusters without paths to each "
                "other, and took the first in the order of the samples: increase n_neighbors.",
                stacklevel=2,
            )
        self.labels_ = np.unique(clusters.name, return_inverse=True)[1]
        return self


def _graph(X: Array, n_neighbors: int, a: float) -> tuple[Array, csr_array]:  # noqa: N803
    """Return the nearest neighbor of every sample, (n,), and W, (n, n)."""
    n = len(X)
    X = X - X.mean(0)
    count = min(max(n_neighbors, 3), n - 1)
    neighbors = NearestNeighbors(n_neighbors=count).fit(X).kneighbors(return_distance=False)
    # the search may round so that duplicates are apart
    squared = np.stack([((X - X[column]) ** 2).sum(1) for column in neighbors.T], axis=1)
    order = np.lexsort((neighbors, squared))
    neighbors = np.take_along_axis(neighbors, order, axis=1)
    squared = np.take_along_axis(squared, order, axis=1)
    # where all distances are 0 any variance gives the weight 1
    variance = a * squared.mean() or 1.0
    while squared[:, 0].max() > variance * math.log(1e5):
        variance *= 2
    weights = np.column_stack([np.ones(n), np.exp(-squared[:, :n_neighbors] / variance)])
    weights /= weights.sum(1, keepdims=True)
    ends = np.column_stack([np.arange(n), neighbors[:, :n_neighbors]])
    row_starts = np.arange(n + 1) * ends.shape[1]
    W = csr_array((weights.ravel(), ends.ravel(), row_starts), shape=(n, n))
    W.eliminate_zeros()
    return neighbors[:, 0], W


def _lowest_connected(nearest: Array) -> Array:
    """Return the lowest sample that each is connected to by nearest neighbors, (n,)."""
    n = len(nearest)
    links = csr_array((np.ones(n), nearest, np.arange(n + 1)), shape=(n, n))
    component = connected_components(links, directed=False)[1]
    return np.unique(component, return_index=True)[1][component]


def _sum_over_paths(W: Any, x: Array, z: float) -> Array:  # noqa: N803
    """Return (I - zW)^-1 x, which is the sum of all (zW)^k x."""
    terms = math.ceil(math.log(TOLERANCE * (1 - z)) / math.log(z))
    if terms > max(64, len(x)):  # a factorization is quicker
        # without pivoting nothing is ever subtracted in an M-matrix: no path, exactly 0
        return splu(
            csc_array(eye_array(len(x)) - z * W),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        ).solve(x)
    total = x
    for _ in range(terms):
        total = x + z * (W @ total)
    return total


class _Clusters:
    """A partition of the samples, and sums over the paths that stay inside a cluster.

    A cluster is named by its lowest sample. Per sample there are ``beginning``, the sum over the
    paths from it, ``ending``, over those to it, and ``straying``, an upper bound on the sum over
    those from it that step inside the cluster first and end outside.
    """

    def __init__(self, W: csr_array, z: float, names: Array) -> None:  # noqa: N803
        self.W, self.W_T, self.z = W, W.T.tocsr(), z
        self.name = names
        self.beginning, self.ending, self.straying = np.zeros((3, len(names)))
        self.size = np.zeros(len(names), dtype=int)
        self.members: dict[int, Array] = {}
        by_name = np.argsort(names, kind="stable")
        for rows in np.split(by_name, np.flatnonzero(np.diff(names[by_name])) + 1):
            self._set(rows)

    def _set(self, rows: Array) -> None:
        name, ones = int(rows[0]), np.ones(len(rows))
        self.members[name] = rows
        self.name[rows] = name
        self.size[name] = len(rows)
        inside = self.W[rows][:, rows]
        self.beginning[rows] = _sum_over_paths(inside, ones, self.z)
        self.ending[rows] = _sum_over_paths(inside.T, ones, self.z)
        # with rows of W that sum to 1, all paths from a sample sum to 1 / (1 - z)
        self.straying[rows] = inside @ (1 / (1 - self.z) - self.beginning[rows])

    def merge(self, a: int, b: int) -> None:
        """Replace two clusters by their union, whose name is that of the lower one."""
        self._set(np.sort(np.concatenate([self.members.pop(a), self.members.pop(b)])))

    def affinity(self, a: int, b: int) -> float:
        r"""Return the affinity of two clusters, to 12 digits.

        With :math:`M = I - zW` in blocks, :math:`(M^{-1})_{AA} = M_A^{-1} + z^2 M_A^{-1} W_{AB}
        (M^{-1})_{BB} W_{BA} M_A^{-1}`. The second term is all that is left of S(A | A u B) - S(A).
        """
        rows = np.concatenate([self.members[a], self.members[b]])
        W = self.W[rows][:, rows]
        own = np.zeros((len(rows), 2))
        own[: self.size[a], 0] = own[self.size[a] :, 1] = 1
        arriving = (1 - own) * (W.T @ (own * self.ending[rows, None]))
        returning = (1 - own) * (W @ (own * self.beginning[rows, None]))
        paths = (arriving * _sum_over_paths(W, returning, self.z)).sum(0) / own.sum(0) ** 2
        # equal affinities are to tie, whatever the order of their sums was
        return float(f"{self.z**2 * paths.sum():.11e}")

    def affinity_bounds(self, a: int) -> Iterator[tuple[int, float]]:
        """Return the clusters with edges to and from one, each with an upper bound on the affinity.

        A gains the paths that step out into B (after ``ending``) and from there lead back. Those
        that step back at once go on by at most 1 / (1 - z), the sum over all paths from a sample;
        the others step inside B first and end outside (``straying``). B gains alike.
        """
        rows, n = self.members[a], len(self.name)
        out, into = self.W[rows], self.W_T[rows]
        returning = into.sum(0) / (1 - self.z) + self.straying
        from_a = np.bincount(self.name, (self.ending[rows] @ out) * returning, n) / len(rows) ** 2
        # from B through A, by the sample of A and the cluster B
        shape = (len(rows), n)
        ending = into.data * self.ending[into.indices]
        arriving = csr_array((ending, self.name[into.indices], into.indptr), shape)
        direct = csr_array((out.data / (1 - self.z), self.name[out.indices], out.indptr), shape)
        from_b = arriving.multiply(direct).sum(0) + self.straying[rows] @ arriving
        others = np.flatnonzero((arriving.sum(0) > 0) & (direct.sum(0) > 0))
        others = others[others != a]
        bounds = self.z**2 * (from_a[others] + from_b[others] / self.size[others] ** 2)
        # above rounding errors
        return zip(others.tolist(), (bounds * (1 + 1e-9)).tolist(), strict=True)


def _merge_until(clusters: _Clusters, n_clusters: int) -> int:
    """Merge pairs of largest affinity, and return how many merges were of pairs without any.

    The heap holds bounds, which are replaced by affinities when they come first, so that few are
    computed. Entries older than the last change of one of their clusters are void.
    """
    changed = np.zeros(len(clusters.name))
    heap = [
        (-bound, False, other, name, 0)
        for name in clusters.members
        for other, bound in clusters.affinity_bounds(name)
        if other < name
    ]
    heapq.heapify(heap)
    merges = unconnected = 0
    while len(clusters.members) > n_clusters:
        while heap:
            _, exact, a, b, age = heapq.heappop(heap)
            if max(changed[a], changed[b]) > age:
                continue
            if exact:
                break
            affinity = clusters.affinity(a, b)
            if affinity > 0:
                heapq.heappush(heap, (-affinity, True, a, b, age))
        else:
            a, b = heapq.nsmallest(2, clusters.members)
            unconnected += 1
        clusters.merge(a, b)
        merges += 1
        changed[a], changed[b] = merges, math.inf
        for other, bound in clusters.affinity_bounds(a):
            heapq.heappush(heap, (-bound, False, min(a, other), max(a, other), merges))
    return unconnected
