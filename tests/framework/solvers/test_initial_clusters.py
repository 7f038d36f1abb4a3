"""The first clusters: one answer for all ranks, an error for all ranks, and exact centroids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from framework.distributed.collectives import rank
from framework.solvers.initial_clusters import centroids, initial_clusters
from modules.depict.network import DEPICTNetwork, MultiLayerDenoisingAE


def noise(rows: int = 60, seed: int = 0) -> Tensor:
    """Points without clusters, of which other starts make other clusters."""
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))


def blobs(per_cluster: int = 12) -> tuple[Tensor, Tensor]:
    """Points around the corners of a lopsided triangle, and their corner."""
    corners = torch.tensor([[0.1, 0.9, -0.2], [0.3, -0.5, 0.8], [0.9, 0.2, -0.6]])
    corner = torch.arange(3).repeat(per_cluster)
    return corners[corner] + 0.05 * noise(len(corner)), corner


def partition(label: Tensor) -> set[frozenset[int]]:
    return {frozenset((label == k).nonzero().flatten().tolist()) for k in label.unique()}


# ---- what is found ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kmeans", "acpic"])
def test_separate_blobs_are_found(kind: Any) -> None:
    x, corner = blobs()
    label = initial_clusters(x, 3, kind, seed=0)
    assert label.dtype == torch.int64
    assert label.shape == (36,)
    # the released code shifts them by one
    assert label.unique().tolist() == [0, 1, 2]
    assert partition(label) == partition(corner)


def test_kmeans_is_scikit_learns_with_forty_starts() -> None:
    x = noise()
    expected = KMeans(7, n_init=40, max_iter=300, random_state=42).fit_predict(x.double().numpy())
    assert initial_clusters(x, 7, "kmeans", seed=42).tolist() == expected.tolist()
    one = KMeans(7, n_init=1, max_iter=300, random_state=42).fit_predict(x.double().numpy())
    assert initial_clusters(x, 7, "kmeans", seed=42, n_init=1).tolist() == one.tolist()
    assert one.tolist() != expected.tolist()


def test_only_the_seed_matters() -> None:
    state = np.random.get_state()[1].copy()
    first = initial_clusters(noise(), 7, "kmeans", seed=3, n_init=1)
    assert (np.random.get_state()[1] == state).all()
    np.random.seed(1)
    assert torch.equal(initial_clusters(noise(), 7, "kmeans", seed=3, n_init=1), first)
    other = initial_clusters(noise(), 7, "kmeans", seed=4, n_init=1)
    assert partition(other) != partition(first)
    # larger than what scikit-learn takes
    assert torch.equal(initial_clusters(noise(), 7, "kmeans", seed=3 + 2**32, n_init=1), first)


def test_half_precision_and_gradients_are_left_behind() -> None:
    x, corner = blobs()
    label = initial_clusters(x.bfloat16().requires_grad_().detach(), 3, "kmeans", seed=0)
    assert partition(label) == partition(corner)


# ---- ranks --------------------------------------------------------------------------------------


def find_on_rank(kind: Any, x: Tensor, clusters: int) -> Tensor:
    # on its own the other rank would find other clusters
    mine = x if rank() == 0 else x.flip(0) + 1
    return initial_clusters(mine, clusters, kind, seed=0)


@pytest.mark.parametrize("kind", ["kmeans", "acpic"])
def test_all_ranks_get_what_one_process_finds(two_ranks: Any, kind: Any) -> None:
    here = find_on_rank(kind, noise(), 7)
    for there in two_ranks(find_on_rank, kind, noise(), 7):
        assert there.dtype == torch.int64
        assert torch.equal(there, here)


def fail_on_rank_0() -> str:
    x = noise()
    if rank() == 0:
        x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="not found") as caught:
        initial_clusters(x, 7, "kmeans", seed=0)
    # the pair goes on together
    assert initial_clusters(noise(), 7, "kmeans", seed=0).shape == (60,)
    return str(caught.value)


def test_an_error_on_rank_0_reaches_every_rank(two_ranks: Any) -> None:
    zero, one = two_ranks(fail_on_rank_0)
    assert zero == one
    assert zero.startswith("The initial clusters by kmeans were not found: Input X contains NaN.")


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(3, 2), {}, "7 clusters need as many samples, and there are 3."),
        (torch.eye(5).repeat(9, 1), {}, "only 5 of 7 clusters have a sample."),
        (torch.full((9, 2), torch.inf), {}, "Input X contains infinity"),
        (noise(), {"starts": 3}, "unexpected keyword argument 'starts'"),
        (noise(), {"n_init": -1}, "'n_init' parameter of KMeans must be"),
        (noise(), {"random_state": 0}, "multiple values for keyword argument 'random_state'"),
    ],
)
def test_what_goes_wrong_is_one_sentence(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(
        ValueError, match="The initial clusters by kmeans were not found: "
    ) as caught:
        initial_clusters(x, 7, "kmeans", seed=0, **options)
    assert message in str(caught.value)


def test_too_little_memory_is_an_error_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(self: Any, x: Any) -> None:
        raise MemoryError("Unable to allocate 36.5 GiB")

    monkeypatch.setattr(KMeans, "fit_predict", allocate)
    with pytest.raises(ValueError, match="were not found: Unable to allocate"):
        initial_clusters(noise(), 7, "kmeans", seed=0)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"init must be one of kmeans, acpic, got 'dbscan'"):
        initial_clusters(noise(), 7, "dbscan", seed=0)  # type: ignore[arg-type]


# ---- centroids ----------------------------------------------------------------------------------


def test_centroids_are_the_means_of_their_rows() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 10.0], [0.0, 4.0]])
    found = centroids(x, torch.tensor([2, 0, 2, 0]), 4)
    # nobody is in 1 and 3
    assert found.tolist() == [[1.5, 2], [0, 0], [3, 6], [0, 0]]


def test_centroids_are_summed_in_float64() -> None:
    # in float32 a sum of 2^24 no longer changes by 1
    x = torch.cat([torch.tensor([[2.0**24]]), torch.ones(64, 1)])
    label = torch.zeros(65, dtype=torch.int64)
    found = centroids(x, label, 1)
    assert found.dtype == torch.float32
    assert found.item() == float(np.float32((2**24 + 64) / 65))
    generator = torch.Generator().manual_seed(0)
    x, label = noise(1000), torch.randint(5, (1000,), generator=generator)
    expected = torch.stack([x[label == k].double().mean(0) for k in range(5)]).float()
    torch.testing.assert_close(centroids(x, label, 5), expected, rtol=1e-7, atol=0)


def test_the_head_gives_every_sample_its_first_label() -> None:
    x, corner = blobs()
    network = DEPICTNetwork(MultiLayerDenoisingAE((1, 28, 28), code_size=3), 3)
    # in the released code labels are shifted by one against the head
    for label in (initial_clusters(x, 3, "kmeans", seed=0), corner):
        network.place_clusters(centroids(x, label, 3))
        assert torch.equal(network.logits(x).argmax(1), label)
    # and after AC-PIC the centroids are transposed, which this order of the corners would show
    network.head.weight.data = network.head.weight.data.T
    assert not torch.equal(network.logits(x).argmax(1), corner)
