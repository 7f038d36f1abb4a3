"""The bound step and the energy on worked numbers: iterates, limits, oscillation and its cure."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from framework.ops.kernels import squared_distances
from framework.solvers import least_psd_shift
from framework.solvers.bound_step import bound_step, laplacian_assignments, laplacian_energy
from framework.solvers.neighbor_affinity import kernel_bandwidth, neighbor_affinity


def doubles(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


UNARY = doubles([0, 1], [0.4, 0.6], [0.9, 0.3], [0.55, 0.5])
EDGES = ((0, 1), (1, 3), (2, 3))
LAM = 0.5


@pytest.fixture
def affinity() -> Tensor:
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    for p, q in EDGES:
        matrix[p, q] = matrix[q, p] = 1
    return matrix


def iterates(affinity: Tensor, steps: int) -> list[Tensor]:
    found = [(-UNARY).softmax(-1)]
    for _ in range(steps):
        found.append(bound_step(UNARY, affinity @ found[-1], LAM))
    return found


def limit(affinity: Tensor, fixed: Tensor | None = None, hold: bool = True) -> tuple[Tensor, float]:
    z, energy = laplacian_assignments(
        UNARY[None], affinity[None], LAM, fixed=fixed, hold=hold, max_inner=500, tol=0.0
    )
    return z[0], float(energy)


def close(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, doubles([*expected])[0], atol=6e-7, rtol=0)


def test_the_iterates_are_the_worked_ones(affinity: Tensor) -> None:
    start, first, second = iterates(affinity, 2)
    close(start[:, 0], 0.731059, 0.549834, 0.354344, 0.487503)
    close(first[:, 0], 0.740743, 0.603139, 0.351490, 0.463609)
    close(second[:, 0], 0.750848, 0.599733, 0.346063, 0.476175)


def test_the_limit_is_the_worked_one(affinity: Tensor) -> None:
    found, _ = limit(affinity)
    close(found[:, 0], 0.751238, 0.605225, 0.348883, 0.476045)
    torch.testing.assert_close(bound_step(UNARY, affinity @ found, LAM), found, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("half", "expected", "last"),
    [
        (True, [-1.580060, -1.586634, -1.587166, -1.587234], -1.587245),
        (False, [-2.342772, -2.363116, -2.363475, -2.364742], -2.364781),
    ],
)
def test_the_energies_are_the_worked_ones(
    affinity: Tensor, half: bool, expected: list[float], last: float
) -> None:
    found = [*iterates(affinity, 3), limit(affinity)[0]]
    energy = [float(laplacian_energy(z, UNARY, affinity @ z, LAM, half=half)) for z in found]
    assert energy == pytest.approx([*expected, last], abs=6e-7)


def test_the_solver_returns_the_energy_of_its_assignments(affinity: Tensor) -> None:
    found, energy = limit(affinity)
    same = laplacian_energy(found, UNARY, affinity @ found, LAM)
    assert energy == pytest.approx(float(same), abs=1e-12)
    assert energy == pytest.approx(-1.587245, abs=6e-7)


def test_a_support_is_held_at_every_iteration(affinity: Tensor) -> None:
    fixed = doubles([1, 0])[None]
    found, _ = limit(affinity, fixed)
    close(found[:, 0], 1, 0.666470, 0.352575, 0.492262)
    start = torch.cat([fixed[0], iterates(affinity, 0)[0][1:]])
    first = bound_step(UNARY, affinity @ start, LAM)
    close(first[1:, 0], 0.665411, 0.351490, 0.463609)


def test_a_support_that_is_not_held_loses_its_class(affinity: Tensor) -> None:
    freed, _ = limit(affinity, doubles([1, 0])[None], hold=False)
    torch.testing.assert_close(freed, limit(affinity)[0], atol=1e-6, rtol=0)


def test_without_the_laplacian_term_one_step_is_the_softmax(affinity: Tensor) -> None:
    for hold in (True, False):
        found, _ = laplacian_assignments(UNARY[None], affinity[None], 0.0, hold=hold)
        torch.testing.assert_close(found[0], (-UNARY).softmax(-1), atol=1e-12, rtol=0)


def test_parallel_updates_can_oscillate() -> None:
    unary, pair = torch.zeros(2, 2, dtype=torch.float64), doubles([0, 1], [1, 0])
    z = doubles([0.9, 0.1], [0.1, 0.9])
    expected = [(0.017986, 0.982014), (0.991999, 0.008001), (0.007246, 0.992754)]
    for first in expected:
        z = bound_step(unary, pair @ z, 5.0)
        close(z[:, 0], *first)
    for _ in range(1000):
        z = bound_step(unary, pair @ z, 5.0)
    assert (bound_step(unary, pair @ z, 5.0) - z).abs().max() > 0.9


def test_a_positive_semi_definite_matrix_does_not_oscillate() -> None:
    unary, pair = torch.zeros(2, 2, dtype=torch.float64), doubles([0, 1], [1, 0])
    shift = least_psd_shift(pair)
    assert shift == pytest.approx(1.0, abs=1e-12)
    z, pair = doubles([0.9, 0.1], [0.1, 0.9]), pair + shift * torch.eye(2, dtype=torch.float64)
    for _ in range(50):
        z = bound_step(unary, pair @ z, 5.0)
    torch.testing.assert_close(z, torch.full_like(z, 0.5), atol=1e-12, rtol=0)


def test_the_energy_never_rises_where_the_matrix_is_positive_semi_definite() -> None:
    generator = torch.Generator().manual_seed(0)
    for lam in (0.3, 1.0, 3.0):
        x = torch.rand(12, 3, generator=generator, dtype=torch.float64)
        unary = torch.rand(12, 4, generator=generator, dtype=torch.float64)
        w = neighbor_affinity(x, knn=4, symmetrize=True)
        w += least_psd_shift(w) * torch.eye(12, dtype=torch.float64)
        z = torch.rand(12, 4, generator=generator, dtype=torch.float64).softmax(-1)
        energy = []
        for _ in range(20):
            energy.append(float(laplacian_energy(z, unary, w @ z, lam)))
            z = bound_step(unary, w @ z, lam)
        assert all(b <= a + 1e-12 for a, b in pairwise(energy))


def test_a_constant_of_a_row_changes_nothing(affinity: Tensor) -> None:
    constant = doubles([3, -2, 0.5, 7]).T
    z = iterates(affinity, 1)[-1]
    torch.testing.assert_close(
        bound_step(UNARY + constant, affinity @ z, LAM),
        bound_step(UNARY, affinity @ z, LAM),
        atol=1e-14,
        rtol=0,
    )


def test_the_order_of_classes_is_that_of_columns(affinity: Tensor) -> None:
    found, energy = limit(affinity)
    turned, same = laplacian_assignments(
        UNARY.flip(-1)[None], affinity[None], LAM, max_inner=500, tol=0.0
    )
    torch.testing.assert_close(turned[0], found.flip(-1), atol=1e-9, rtol=0)
    assert float(same) == pytest.approx(energy, abs=1e-12)


def test_a_converged_task_rests(affinity: Tensor) -> None:
    unary = torch.stack([UNARY, 5 * UNARY, UNARY.flip(0)])
    tasks = affinity.expand(3, -1, -1)
    together, energy = laplacian_assignments(unary, tasks, 1.2)
    for number in range(3):
        alone, same = laplacian_assignments(unary[[number]], tasks[[number]], 1.2)
        torch.testing.assert_close(together[[number]], alone, atol=1e-14, rtol=0)
        torch.testing.assert_close(energy[[number]], same, atol=1e-13, rtol=0)


def test_neighbors_are_the_nearest_others() -> None:
    x = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
    found = neighbor_affinity(x, knn=3)
    assert found.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]]
    both = neighbor_affinity(x, knn=3, symmetrize=True)
    assert both.tolist() == [[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]]
    assert neighbor_affinity(x, knn=1).sum() == 0


def test_equal_rows_are_neighbors_and_none_is_its_own() -> None:
    found = neighbor_affinity(torch.zeros(3, 2), knn=3)
    assert torch.equal(found, 1 - torch.eye(3))


def test_the_bandwidth_divides_by_five_times_the_rows() -> None:
    x = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
    squares = (1 + 2.25) + (1 + 0.25) + (2.25 + 0.25) + (64 + 56.25)
    found = kernel_bandwidth(squared_distances(x, x), neighbor_affinity(x, knn=3))
    assert float(found) == pytest.approx(squares / 20, rel=1e-6)
    twice = squared_distances(2 * x, 2 * x)
    found = kernel_bandwidth(twice, neighbor_affinity(x, knn=3))
    assert float(found) == pytest.approx(squares / 5, rel=1e-6)


@pytest.mark.parametrize("knn", [0, 5])
def test_neighbors_that_there_are_not_are_refused(knn: int) -> None:
    with pytest.raises(ValueError, match=r"knn.*\[1, 4\]"):
        neighbor_affinity(torch.zeros(4, 1), knn=knn)
