import warnings
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from framework.solvers import AgglomerativePathIntegral
from framework.solvers.agglomerative_path_integral import (
    _Clusters,
    _graph,
    _merge_until,
    _sum_over_paths,
)

SEEDS = range(3)


def labels(X, n_clusters, **arguments) -> np.ndarray:  # noqa: N803
    return AgglomerativePathIntegral(n_clusters, **arguments).fit(X).labels_


def numbered(partition) -> np.ndarray:
    """Return labels in the order of their first appearance."""
    _, first, inverse = np.unique(partition, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def dense_graph(X, n_neighbors, a=1.0):  # noqa: N803
    """Return W and the clusters of nearest neighbors, by the definition."""
    n = len(X)
    D = cdist(X, X, "sqeuclidean")
    np.fill_diagonal(D, -1)
    order = D.argsort(1)[:, 1:]
    D = np.abs(D)
    near = np.take_along_axis(D, order, 1)
    variance = a * near[:, : max(n_neighbors, 3)].mean()
    while np.exp(-near[:, 0] / variance).min() < 1e-5:
        variance *= 2
    W = np.eye(n)
    for i in range(n):
        W[i, order[i, :n_neighbors]] = np.exp(-D[i, order[i, :n_neighbors]] / variance)
    clusters = [{i} for i in range(n)]
    for i in range(n):
        both = [c for c in clusters if i in c or order[i, 0] in c]
        clusters = [c for c in clusters if c not in both] + [set().union(*both)]
    return W / W.sum(1, keepdims=True), sorted(map(sorted, clusters))


def dense_affinity(W, a, b, z) -> float:  # noqa: N803
    """Return the affinity as the paper states it; what rounding makes of 0 is 0."""
    total = 0.0
    union = [*a, *b]
    inverse = np.linalg.inv(np.eye(len(union)) - z * W[np.ix_(union, union)])
    for own, block in ((a, inverse[: len(a), : len(a)]), (b, inverse[len(a) :, len(a) :])):
        alone = np.linalg.inv(np.eye(len(own)) - z * W[np.ix_(own, own)])
        total += (block.sum() - alone.sum()) / len(own) ** 2
    return 0.0 if total < 1e-13 else total


def dense_partitions(W, clusters, z) -> dict[int, np.ndarray]:  # noqa: N803
    """Return the labels at every number of clusters from the first to 1."""
    clusters, found = [list(c) for c in clusters], {}
    while True:
        partition = np.zeros(len(W), int)
        for label, cluster in enumerate(clusters):
            partition[cluster] = label
        found[len(clusters)] = numbered(partition)
        if len(clusters) == 1:
            return found
        pairs = list(combinations(range(len(clusters)), 2))
        affinity = [dense_affinity(W, clusters[i], clusters[j], z) for i, j in pairs]
        i, j = pairs[int(np.argmax(affinity))]
        clusters[i] = sorted(clusters[i] + clusters.pop(j))
        clusters.sort()


def random_clusters(seed, z, n=24, parts=5) -> tuple[_Clusters, np.ndarray]:
    """Return a random partition of a random graph, and W."""
    random = np.random.default_rng(seed)
    W, _ = dense_graph(random.standard_normal((n, 2)), n_neighbors=4)
    part = np.r_[np.arange(parts), random.integers(0, parts, n - parts)]
    return _Clusters(csr_array(W), z, np.arange(parts)[part]), W


# down to one cluster, some merges have no paths to go by
@pytest.mark.filterwarnings("ignore:.*merges had to join clusters")
@pytest.mark.parametrize("z", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_merge_is_the_one_of_a_dense_brute_force(seed, z):
    X = np.random.default_rng(seed).standard_normal((30, 2 + seed))
    W, first = dense_graph(X, n_neighbors=6)
    expected = dense_partitions(W, first, z)
    assert len(expected) > 5
    for n_clusters, partition in expected.items():
        assert labels(X, n_clusters, n_neighbors=6, z=z).tolist() == partition.tolist()


@pytest.mark.parametrize("z", [0.01, 0.9])
def test_more_clusters_than_nearest_neighbors_give_start_from_single_samples(z):
    X = np.random.default_rng(3).standard_normal((16, 3))
    W, first = dense_graph(X, n_neighbors=4)
    expected = dense_partitions(W, [[i] for i in range(16)], z)
    for n_clusters in range(len(first) + 1, 17):
        found = labels(X, n_clusters, n_neighbors=4, z=z)
        assert found.tolist() == expected[n_clusters].tolist()


@pytest.mark.filterwarnings("ignore:.*merges had to join clusters")
@pytest.mark.parametrize("seed", SEEDS)
def test_merges_without_paths_are_those_of_the_brute_force(seed):
    X = np.random.default_rng(seed).standard_normal((30, 2))
    W, first = dense_graph(X, n_neighbors=2)
    for n_clusters, partition in dense_partitions(W, first, z=0.5).items():
        assert labels(X, n_clusters, n_neighbors=2, z=0.5).tolist() == partition.tolist()


@pytest.mark.parametrize("z", [0.01, 0.9])
def test_small_and_far_apart_samples(z):
    """With a small ``a`` and an outlier, the variance is doubled many times."""
    X = np.random.default_rng(4).standard_normal((20, 2))
    X[7] = 30.0
    W, first = dense_graph(X, n_neighbors=5, a=1e-3)
    for n_clusters, partition in dense_partitions(W, first, z).items():
        found = labels(X, n_clusters, n_neighbors=5, a=1e-3, z=z)
        assert found.tolist() == partition.tolist()


def test_affinities_by_hand():
    half = csr_array([[0.5, 0.5], [0.5, 0.5]])
    # S = 4/3 alone and 3/2 in the union, twice
    assert _Clusters(half, 0.5, np.arange(2)).affinity(0, 1) == pytest.approx(1 / 3, abs=1e-11)
    line = csr_array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    # 13/15 - 9/11 for {0, 1}, 22/15 - 4/3 for {2}
    clusters = _Clusters(line, 0.5, np.array([0, 0, 2]))
    assert clusters.affinity(0, 2) == pytest.approx(2 / 11, abs=1e-11)


def test_weights_by_hand():
    X = np.array([[0.0], [1.0], [3.0]])
    nearest, W = _graph(X, n_neighbors=1, a=1.0)
    near, far = np.exp(-3 / 14), np.exp(-12 / 14)  # the mean of 1, 9, 1, 4, 4 and 9 is 14 / 3
    assert nearest.tolist() == [1, 0, 1]
    expected = [[1, near, 0], [near, 1, 0], [0, far, 1]] / np.array(
        [[1 + near], [1 + near], [1 + far]]
    )
    np.testing.assert_allclose(W.toarray(), expected, rtol=1e-15)
    # 0.14 / 3 is doubled three times, as exp(-4 / (0.56 / 3)) is still below 1e-5
    _, W = _graph(X, n_neighbors=1, a=0.01)
    assert W[2, 1] / W[2, 2] == pytest.approx(np.exp(-12 / 1.12))


@pytest.mark.parametrize("seed", SEEDS)
def test_small_z_is_graph_degree_linkage(seed):
    z = 1e-6
    clusters, W = random_clusters(seed, z)
    for a, b in combinations(clusters.members, 2):
        A, B = clusters.members[a], clusters.members[b]
        there, back = W[np.ix_(A, B)], W[np.ix_(B, A)]
        linkage = there.sum(0) @ back.sum(1) / len(A) ** 2
        linkage += back.sum(0) @ there.sum(1) / len(B) ** 2
        assert clusters.affinity(a, b) / z**2 == pytest.approx(linkage, rel=1e-4)


@pytest.mark.parametrize("z", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_hold_and_leave_out_only_pairs_without_paths(seed, z):
    clusters, W = random_clusters(seed, z)
    while True:
        for a in list(clusters.members):
            bounds = dict(clusters.affinity_bounds(a))
            for b in clusters.members.keys() - {a}:
                exact = dense_affinity(W, clusters.members[a], clusters.members[b], z)
                assert clusters.affinity(a, b) == pytest.approx(exact, rel=1e-8, abs=1e-13)
                assert bounds.get(b, 0.0) >= clusters.affinity(a, b)
        if len(clusters.members) == 2:
            return
        clusters.merge(*sorted(clusters.members)[-2:])


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_allow_for_rounding_where_they_are_reached(seed):
    clusters, _ = random_clusters(seed, z=1e-13)
    for a in clusters.members:
        for b, bound in clusters.affinity_bounds(a):
            affinity = clusters.affinity(a, b)
            assert affinity <= bound <= affinity * (1 + 2e-9) + 1e-38


@pytest.mark.parametrize("z", [0.01, 0.9, 0.999])
def test_pairs_without_a_way_back_have_no_affinity(z):
    one_way = csr_array([[0.5, 0.5], [0.0, 1.0]])
    assert _Clusters(one_way, z, np.arange(2)).affinity(0, 1) == 0
    # edges lead from 1 to 2 and from 3 to 0, both of which are dead ends
    dead_ends = csr_array([[1.0, 0, 0, 0], [0.3, 0.4, 0.3, 0], [0, 0, 1.0, 0], [0.3, 0, 0.4, 0.3]])
    clusters = _Clusters(dead_ends, z, np.array([0, 0, 2, 2]))
    assert clusters.affinity(0, 2) == 0
    assert _merge_until(clusters, 1) == 1


@pytest.mark.parametrize("z", [0.001, 0.01, 0.3, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("n", [3, 40, 400])
def test_sums_over_paths_are_exact(n, z):
    random = np.random.default_rng(n)
    _, W = _graph(random.standard_normal((n, 3)), n_neighbors=5, a=1.0)
    x = random.random((n, 2))
    for matrix in (W, W.T):
        exact = np.linalg.solve(np.eye(n) - z * matrix.toarray(), x)
        np.testing.assert_allclose(_sum_over_paths(matrix, x, z), exact, rtol=1e-14 / (1 - z))


@pytest.mark.parametrize("z", [0.01, 0.9])
def test_the_order_of_the_samples_only_orders_the_labels(z):
    random = np.random.default_rng(5)
    X, order = random.standard_normal((60, 3)), random.permutation(60)
    for n_clusters in (2, 5, 9):
        found = labels(X, n_clusters, n_neighbors=6, z=z)
        assert found.tolist() == numbered(found).tolist()
        shuffled = labels(X[order], n_clusters, n_neighbors=6, z=z)
        assert shuffled.tolist() == numbered(found[order]).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_equal_affinities_the_lowest_samples_go_first(seed):
    random = np.random.default_rng(seed)
    half = random.standard_normal((30, 2)) + 20
    turned = half @ np.linalg.qr(random.standard_normal((2, 2)))[0] + 50
    X = np.concatenate([half, turned])
    for n_clusters in (5, 7, 9, 11):
        found = labels(X, n_clusters, n_neighbors=10)
        assert len(np.unique(found[:30])) == n_clusters // 2
        assert len(np.unique(found[30:])) == n_clusters // 2 + 1


def test_rotation_scale_and_place_do_not_matter():
    random = np.random.default_rng(6)
    X = random.standard_normal((60, 3))
    rotation = np.linalg.qr(random.standard_normal((3, 3)))[0]
    expected = labels(X, 5, n_neighbors=6).tolist()
    assert labels(X @ rotation, 5, n_neighbors=6).tolist() == expected
    assert labels(1e-6 * X + 1.0, 5, n_neighbors=6).tolist() == expected
    assert labels(1e6 * X, 5, n_neighbors=6).tolist() == expected
    wide = random.standard_normal((60, 20))
    assert labels(wide + 1e8, 5).tolist() == labels(wide, 5).tolist()


def test_recovers_blobs():
    X, y = make_blobs([60, 120, 30, 90], 5, cluster_std=0.5, center_box=(-5, 5), random_state=0)
    assert labels(X, 4).tolist() == numbered(y).tolist()


@pytest.mark.parametrize("make", [make_moons, lambda *a, **k: make_circles(*a, factor=0.5, **k)])
def test_recovers_shapes_on_which_k_means_fails(make):
    X, y = make(300, noise=0.06, random_state=0)
    assert labels(X, 2).tolist() == numbered(y).tolist()
    assert adjusted_rand_score(y, KMeans(2, n_init=10, random_state=0).fit_predict(X)) < 0.6


@pytest.mark.parametrize("copies", [2, 5, 30])
def test_duplicates_stay_together(copies):
    site = np.tile([0, 1, 2], copies)
    X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])[site]
    assert labels(X, 3, n_neighbors=4).tolist() == site.tolist()


@pytest.mark.filterwarnings("ignore:.*merges had to join clusters")
def test_samples_that_are_all_the_same():
    for n_clusters in (1, 3, 30):
        found = labels(np.ones((30, 2)), n_clusters)
        assert np.unique(found).tolist() == list(range(n_clusters))


def test_fewer_samples_than_neighbors():
    X = np.random.default_rng(7).standard_normal((9, 2))
    W, first = dense_graph(X, n_neighbors=8)
    for n_clusters, partition in dense_partitions(W, first, z=0.01).items():
        assert labels(X, n_clusters, n_neighbors=20).tolist() == partition.tolist()
    assert labels(X[:2], 1).tolist() == [0, 0]
    assert labels(X[:1], 1).tolist() == [0]


def test_one_cluster_and_as_many_as_samples():
    X = np.random.default_rng(8).standard_normal((25, 2))
    assert labels(X, 1).tolist() == [0] * 25
    assert labels(X, 25).tolist() == list(range(25))


def test_says_so_where_clusters_without_paths_are_merged():
    random = np.random.default_rng(9)
    site = np.repeat([0, 1, 2], 10)
    X = 100.0 * site[:, None] + random.standard_normal((30, 2))
    assert labels(X, 3, n_neighbors=6).tolist() == site.tolist()
    with pytest.warns(UserWarning, match=r"^1 of \d+ merges had to join .* increase n_neighbors"):
        found = labels(X, 2, n_neighbors=6)
    assert found.tolist() == np.repeat([0, 0, 1], 10).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels(X, 2, n_neighbors=20)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer of at least 1, got 0"),
        ({"n_clusters": 2.0}, "n_clusters must be an integer"),
        ({"n_clusters": 6}, "n_clusters must be at most n_samples=5, got 6"),
        ({"n_neighbors": 0}, "n_neighbors must be an integer of at least 1"),
        ({"a": 0.0}, "a must be a finite number above 0, got 0.0"),
        ({"a": np.inf}, "a must be a finite number above 0"),
        ({"z": 0.0}, "z must be a number between 0 and 1, got 0.0"),
        ({"z": 1.0}, "z must be a number between 0 and 1"),
        ({"z": np.nan}, "z must be a number between 0 and 1"),
        ({"z": "0.01"}, "z must be a number between 0 and 1"),
    ],
)
def test_refuses_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        labels(np.arange(10.0).reshape(5, 2), **{"n_clusters": 2, **arguments})


@pytest.mark.filterwarnings("ignore:.*merges had to join clusters")
@parametrize_with_checks([AgglomerativePathIntegral(2)])
def test_is_a_clusterer_of_scikit_learn(estimator, check):
    check(estimator)
