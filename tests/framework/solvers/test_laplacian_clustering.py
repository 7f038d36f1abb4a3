"""Transductive clustering of few-shot tasks: limits, constraints, batches of tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from framework.solvers import (
    LaplacianClustering,
    LaplacianShot,
    NearestPrototype,
    bound_step,
    centered_unit_norm,
    cluster_prototypes,
    shift_queries,
)
from framework.solvers.cluster_prototypes import PrototypeKind, centered_rows, cluster_modes
from framework.solvers.few_shot_baselines import rectified_prototypes

WAYS = 3
KINDS: tuple[PrototypeKind, ...] = ("mean", "mode", "medoid")


def tasks(
    number: int, *, shots: int = 1, queries: int = 6, spread: float = 0.7
) -> tuple[Tensor, Tensor]:
    """Return features (T, N, 4) of overlapping classes, in float64, and support labels."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(number, WAYS, 4, generator=generator, dtype=torch.float64)
    label = torch.arange(WAYS).repeat_interleave(shots)
    label = torch.cat([label, torch.arange(WAYS).repeat_interleave(queries)])
    noise = torch.randn(number, len(label), 4, generator=generator, dtype=torch.float64)
    return centers[:, label] + spread * noise, label[: WAYS * shots]


def lloyd(x: Tensor, support: Tensor) -> Tensor:
    """Return the labels of k-means that starts at supports, which keep their class."""
    means = torch.stack([x[: len(support)][support == k].mean(0) for k in range(WAYS)])
    label = torch.cdist(x, means).argmin(1)
    label[: len(support)] = support
    while True:
        means = torch.stack([x[label == k].mean(0) for k in range(WAYS)])
        new = torch.cdist(x, means).argmin(1)
        new[: len(support)] = support
        if torch.equal(new, label):
            return label
        label = new


@pytest.mark.parametrize("shots", [1, 3])
def test_without_the_laplacian_term_it_is_k_means(shots: int) -> None:
    x, support = tasks(8, shots=shots, spread=1.5)
    found = LaplacianClustering(lam=0, tol=0).fit(x, support, WAYS)
    for labels, task in zip(found.labels, x, strict=True):
        assert torch.equal(labels, lloyd(task, support))
    assert found.rounds.min() < found.rounds.max() < 100


def test_hard_labels_are_the_nearest_prototypes_without_the_laplacian_term() -> None:
    x, support = tasks(5)
    found = LaplacianClustering(lam=0, tol=0).fit(x, support, WAYS)
    nearest = torch.cdist(x, found.prototypes).argmin(-1)
    assert torch.equal(nearest[:, len(support) :], found.labels[:, len(support) :])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", [True, False])
def test_tasks_together_are_what_they_are_alone(kind: PrototypeKind, hold: bool) -> None:
    x, support = tasks(12, shots=2, spread=2.0)
    solver = LaplacianClustering(kind, lam=0.6, hold_supports=hold)
    together = solver.fit(x, support, WAYS)
    # a medoid is mostly its own successor
    assert kind == "medoid" or len(together.rounds.unique()) > 1
    for number, task in enumerate(x):
        alone = solver.fit(task, support, WAYS)
        assert torch.equal(together.labels[number], alone.labels[0])
        assert together.rounds[number] == alone.rounds[0]
        for name in ("assignments", "prototypes", "energy"):
            torch.testing.assert_close(
                getattr(together, name)[number], getattr(alone, name)[0], atol=1e-10, rtol=0
            )


@pytest.mark.parametrize("kind", KINDS)
def test_how_often_convergence_is_asked_for_does_not_matter(
    kind: PrototypeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, support = tasks(12, shots=2, spread=2.0)
    solver = LaplacianClustering(kind, lam=0.6)
    often = solver.fit(x, support, WAYS)
    for module in (bound_step, cluster_prototypes):
        monkeypatch.setattr(module, "asks_after", lambda iteration, _: iteration % 7 == 6)
    rarely = solver.fit(x, support, WAYS)
    assert torch.equal(often.labels, rarely.labels)
    assert torch.equal(often.rounds, rarely.rounds)
    for name in ("assignments", "prototypes", "energy"):
        torch.testing.assert_close(getattr(often, name), getattr(rarely, name), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_supports_keep_their_class_whatever_they_lie_near(kind: PrototypeKind) -> None:
    x, support = tasks(6, shots=2)
    x[:, 0] = x[:, -1]
    found = LaplacianClustering(kind, lam=2.0).fit(x, support, WAYS)
    assert torch.equal(found.labels[:, : len(support)], support.expand(6, -1))
    expected = torch.nn.functional.one_hot(support, WAYS).double().expand(6, -1, -1)
    assert torch.equal(found.assignments[:, : len(support)], expected)
    assert found.labels.shape == (6, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_told_by_their_supports_alone(kind: PrototypeKind) -> None:
    x, support = tasks(6)
    solver = LaplacianClustering(kind)
    order = torch.tensor([2, 0, 1])
    found = solver.fit_predict(x, support, WAYS)
    assert torch.equal(order[found], solver.fit_predict(x, order[support], WAYS))


def test_labels_may_differ_between_tasks() -> None:
    x, support = tasks(2)
    own = torch.stack([support, support.flip(0)])
    found = LaplacianClustering().fit_predict(x, own, WAYS)
    assert torch.equal(found[0], LaplacianClustering().fit_predict(x[0], own[0], WAYS))
    assert torch.equal(found[1], LaplacianClustering().fit_predict(x[1], own[1], WAYS))


def test_neighbors_decide_where_distances_do_not() -> None:
    # a chain from the first support to beside the second one, and a loose group at the second
    chain = [0.0, 0.15, 0.3, 0.45, 0.55]
    x = torch.tensor([[0.0], [1.2], *([v] for v in chain), [1.0], [1.1], [1.25]])
    near = NearestPrototype().fit_predict(x, torch.tensor([0, 1]), 2)
    assert near.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    x[6] = 0.65
    assert NearestPrototype().fit_predict(x, torch.tensor([0, 1]), 2)[4] == 1
    assert LaplacianClustering(lam=1.0).fit_predict(x, torch.tensor([0, 1]), 2)[4] == 0


def test_the_energy_falls_from_round_to_round_where_it_must() -> None:
    x, support = tasks(10)
    energy = []
    for rounds in (1, 2, 4, 8):
        solver = LaplacianClustering(
            lam=0.5, symmetrize=True, psd_shift=8.0, max_outer=rounds, tol=0, inner_tol=1e-12
        )
        energy.append(solver.fit(x, support, WAYS).energy)
    assert (energy[-1] <= energy[0] + 1e-9).all()


def test_a_class_that_loses_all_rows_ends_its_task_at_the_round_before() -> None:
    # freed, the only support of class 1 goes to the class around it
    x = torch.tensor([[0.0], [0.1], [0.0], [0.05], [0.1], [0.12]], dtype=torch.float64)
    support = torch.tensor([0, 1])
    solver = LaplacianClustering(lam=50.0, knn=6, hold_supports=False)
    found = solver.fit(x, support, 2)
    assert found.rounds.item() == 0
    assert found.labels[0].tolist() == [0, 1, 0, 0, 1, 1]
    held = LaplacianClustering(lam=50.0, knn=6).fit(x, support, 2)
    assert held.rounds.item() > 0
    assert held.labels[0, :2].tolist() == [0, 1]


def test_a_mode_is_where_mean_shift_rests() -> None:
    x, _ = tasks(3)
    rows = centered_rows(x + 5)

    def modes(member: Tensor, start: Tensor, variance: float) -> Tensor:
        spread = torch.full((3,), variance, dtype=torch.float64)
        return cluster_modes(rows, member, start + 5 - rows.origin, spread) + rows.origin - 5

    member = torch.ones(3, x.shape[1], 1, dtype=torch.bool)
    start = x.mean(1, keepdim=True)
    found = modes(member, start, 0.3)
    density = (-torch.cdist(x, found).square() / 0.6).exp()
    assert (density.sum(1) > (-torch.cdist(x, start).square() / 0.6).exp().sum(1)).all()
    shifted = (density * x).sum(1) / density.sum(1)
    torch.testing.assert_close(shifted, found[:, 0], atol=1e-3, rtol=0)
    # one member is its own mode, and a wide kernel has the mean
    alone = member.clone()
    alone[:, 1:] = False
    torch.testing.assert_close(modes(alone, start, 0.3)[:, 0], x[:, 0])
    torch.testing.assert_close(modes(member, x[:, :1], 3e8), start)


def test_equal_rows_give_no_nan() -> None:
    x = torch.zeros(1, 8, 2)
    for kind in KINDS:
        found = LaplacianClustering(kind).fit(x, torch.tensor([0, 1]), 2)
        assert torch.isfinite(found.prototypes).all()
        assert torch.isfinite(found.assignments).all()


def test_half_precision_is_computed_in_single() -> None:
    x, support = tasks(2)
    found = LaplacianClustering().fit(x.to(torch.bfloat16), support, WAYS)
    assert found.assignments.dtype == torch.float32


def test_no_task_is_no_error() -> None:
    for solver in (LaplacianClustering(), LaplacianShot(), NearestPrototype()):
        found = solver.fit_predict(torch.zeros(0, 9, 4), torch.arange(3), 3)
        assert found.shape == (0, 6)


def test_laplacian_shot_without_neighbors_is_the_nearest_prototype() -> None:
    x, support = tasks(6)
    plain = LaplacianShot(lam=0, rectify=False).fit_predict(x, support, WAYS)
    assert torch.equal(plain, NearestPrototype().fit_predict(x, support, WAYS))


def test_rectified_prototypes_are_weighted_means_and_keep_the_supports() -> None:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.0], [0.1, 0.8]]).double()
    support = torch.eye(2, dtype=torch.float64)[[0, 1, 1]][None]
    found = rectified_prototypes(x[None], support)[0].numpy()
    rows = x.numpy()
    means = np.stack([rows[0], (rows[1] + rows[2]) / 2])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    weight = np.exp(10 * cosine) / np.exp(10 * cosine).sum(1, keepdims=True)
    for k, members in enumerate([[0, 3], [1, 2, 4]]):
        omega = weight[members, k][:, None]
        np.testing.assert_allclose(found[k], (omega * rows[members]).sum(0) / omega.sum())


def test_features_are_centered_to_unit_norm_and_queries_shifted() -> None:
    x, support = tasks(4)
    mean = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64)
    unit = centered_unit_norm(x, mean)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(4, 21, dtype=torch.float64))
    torch.testing.assert_close(unit[0, 0], (x[0, 0] - mean) / (x[0, 0] - mean).norm())
    moved = shift_queries(unit, len(support))
    assert torch.equal(moved[:, :3], unit[:, :3])
    torch.testing.assert_close(moved[:, 3:].mean(1), unit[:, :3].mean(1))
    torch.testing.assert_close(moved[:, 3:] - moved[:, 3:4], unit[:, 3:] - unit[:, 3:4])


@pytest.mark.parametrize(
    ("x", "support", "classes", "match"),
    [
        (torch.zeros(4), torch.arange(2), 2, "Features are"),
        (torch.zeros(2, 4, 1), torch.zeros(2, 1, 1).long(), 2, "Features are"),
        (torch.zeros(2, 1), torch.arange(3), 3, "cannot have supports"),
        (torch.zeros(4, 1), torch.tensor([0, 2]), 2, r"0\.\.1, got 0 to 2"),
        (torch.zeros(4, 1), torch.tensor([0, 0]), 2, "has none"),
    ],
)
def test_what_is_no_task_is_refused(x: Tensor, support: Tensor, classes: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LaplacianClustering().fit_predict(x, support, classes)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="prototype"):
        LaplacianClustering("median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lam"):
        LaplacianClustering(lam=-1)
    with pytest.raises(ValueError, match="knn"):
        LaplacianShot(knn=0)
