"""PamC: the worked example, its special cases and its invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.graphs import (
    FullNegativeLoss,
    PamCLoss,
    adjacency_powers,
    meta_nodes,
    neighbor_similarity,
    node_similarity,
)
from framework.graphs.node_similarity import unit_rows

Z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
ASSIGN = torch.tensor([0, 0, 1, 1])
PATH = torch.tensor([[0, 1, 2], [1, 2, 3]])


def gamma(order: int) -> tuple[Tensor, Tensor]:
    """Return how near nodes of a path are, by the sum of the powers up to ``order``."""
    return adjacency_powers(PATH, 4, torch.ones(3, dtype=torch.float64), order=order)


def close(value: Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(value, torch.tensor(expected, dtype=value.dtype), atol=atol, rtol=0)


def positive(order: int) -> Tensor:
    return -neighbor_similarity(unit_rows(Z), *gamma(order), tau=0.5).log().mean()


def test_the_parts_of_the_example() -> None:
    close(positive(2), -0.905345)
    close(positive(1), -0.233583)
    close(meta_nodes(Z, ASSIGN, 2), [[1.8, 0.6], [-0.6, 1.8]])
    close(PamCLoss().negative(Z, ASSIGN, 2), 0.693147)


@pytest.mark.parametrize(("order", "value"), [(1, 0.459564), (2, -0.212198)])
def test_the_loss_of_the_example(order: int, value: float) -> None:
    close(PamCLoss(tau=0.5)(Z, *gamma(order), ASSIGN), value)


def test_the_gradient_of_the_example() -> None:
    z = Z.clone().requires_grad_()
    PamCLoss(tau=0.5)(z, *gamma(2), ASSIGN).backward()
    assert z.grad is not None
    close(z.grad[:2], [[-0.041667, 0.041679], [-0.038709, 0.121057]])
    torch.autograd.gradcheck(lambda z: PamCLoss()(z, *gamma(2), ASSIGN), z)


def test_a_cluster_of_a_node_each_is_the_full_loss() -> None:
    every = torch.arange(4)
    close(PamCLoss().negative(Z, every, 4), 1.510045)
    loss = PamCLoss()(Z, *gamma(2), every)
    torch.testing.assert_close(loss, FullNegativeLoss()(Z, *gamma(2)), atol=1e-9, rtol=0)
    close(loss, 0.604700)


@pytest.mark.parametrize("order", [1, 3])
def test_without_a_factor_only_counts_are_left(order: int) -> None:
    z = Z.clone().requires_grad_()
    loss = PamCLoss(tau=0)(z, *gamma(order), ASSIGN)
    close(loss, math.log(2) - math.log(order))
    loss.backward()
    assert z.grad is not None
    assert not z.grad.any()


def test_the_scale_of_all_embeddings_does_not_matter() -> None:
    loss, graph = PamCLoss(), gamma(2)
    torch.testing.assert_close(loss(7 * Z, *graph, ASSIGN), loss(Z, *graph, ASSIGN))


def test_the_scale_of_a_row_moves_the_clusters_alone() -> None:
    scale = torch.tensor([[1.0], [3.0], [0.5], [2.0]], dtype=torch.float64)
    apart = PamCLoss(reduction="none")
    negatives = [apart.negative(z, ASSIGN, 2) for z in (Z, scale * Z)]
    values = [apart(z, *gamma(2), ASSIGN) for z in (Z, scale * Z)]
    assert abs(negatives[0] - negatives[1]) > 5e-3
    torch.testing.assert_close(values[0] - negatives[0], values[1] - negatives[1])


def test_one_cluster_has_nothing_to_be_apart_from() -> None:
    close(PamCLoss().negative(Z, torch.zeros(4, dtype=torch.int64), 1), 0.0, atol=1e-9)


@pytest.mark.parametrize("size_weighted", [False, True])
def test_clusters_without_a_node_do_not_count(size_weighted: bool) -> None:
    loss = PamCLoss(size_weighted=size_weighted)
    z = Z.clone().requires_grad_()
    value = loss(z, *gamma(2), torch.tensor([1, 1, 4, 4]), num_clusters=7)
    torch.testing.assert_close(value, loss(Z, *gamma(2), ASSIGN))
    value.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_an_embedding_of_zeros_has_no_direction_and_no_gradient() -> None:
    z = torch.cat([torch.zeros(1, 2, dtype=torch.float64), Z[1:]]).requires_grad_()
    for loss in (
        PamCLoss()(z, *gamma(2), torch.tensor([0, 1, 2, 2])),
        FullNegativeLoss()(z, *gamma(2)),
    ):
        (gradient,) = torch.autograd.grad(loss, z)
        assert loss.isfinite()
        assert not gradient[0].any()
        assert gradient[1:].isfinite().all()


def test_weights_of_sizes_are_exact_where_a_cluster_has_one_direction() -> None:
    z = Z[[0, 0, 2, 2, 2]] * torch.tensor([[1.0], [2.0], [1.0], [3.0], [0.5]], dtype=torch.float64)
    edges, weights = torch.arange(5).expand(2, 5), torch.ones(5)
    loss = PamCLoss(zero_diagonal=False, size_weighted=True)
    full = FullNegativeLoss(zero_diagonal=False)
    assign = torch.tensor([0, 0, 1, 1, 1])
    torch.testing.assert_close(
        loss(z, edges, weights, assign), full(z, edges, weights), atol=1e-9, rtol=0
    )


def test_the_reductions_agree() -> None:
    rows = PamCLoss(reduction="none")(Z, *gamma(2), ASSIGN)
    assert rows.shape == (4,)
    torch.testing.assert_close(PamCLoss(reduction="sum")(Z, *gamma(2), ASSIGN), rows.sum())
    torch.testing.assert_close(PamCLoss()(Z, *gamma(2), ASSIGN), rows.mean())


def test_the_full_loss_in_parts_is_that_in_one() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(23, 3, generator=generator, dtype=torch.float64).requires_grad_()
    edges = torch.stack([torch.arange(23), (torch.arange(23) + 1) % 23])
    weights = torch.rand(23, generator=generator, dtype=torch.float64)
    results = []
    for pairs in (1, 23 * 5, 10**6):
        loss = FullNegativeLoss(tau=1.5, pairs=pairs)(z, edges, weights)
        results.append((loss, torch.autograd.grad(loss, z)[0]))
    for loss, gradient in results[:2]:
        torch.testing.assert_close(loss, results[2][0])
        torch.testing.assert_close(gradient, results[2][1])


def test_neighbors_in_parts_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    z = Z.clone().requires_grad_()
    results = []
    for entries in (node_similarity.ENTRIES, 5):
        monkeypatch.setattr(node_similarity, "ENTRIES", entries)
        loss = PamCLoss(tau=1.5)(z, *gamma(2), ASSIGN)
        results.append((loss, *torch.autograd.grad(loss, z)))
    torch.testing.assert_close(results[0], results[1])


def test_half_precision_is_computed_in_float32() -> None:
    edges, weights = gamma(2)
    for loss in (
        PamCLoss()(Z.bfloat16(), edges, weights.float(), ASSIGN),
        FullNegativeLoss()(Z.bfloat16(), edges, weights.float()),
    ):
        assert loss.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    edges, weights = gamma(1)
    with pytest.raises(ValueError, match="tau must be at least 0"):
        PamCLoss(tau=-1)
    with pytest.raises(ValueError, match="reduction must be one of"):
        FullNegativeLoss(reduction="median")
    with pytest.raises(ValueError, match=r"PamCLoss takes embeddings \(N, d\), edges"):
        PamCLoss()(Z, edges.T, weights, ASSIGN)
    with pytest.raises(ValueError, match="FullNegativeLoss takes embeddings"):
        FullNegativeLoss()(Z[0], edges, weights)
