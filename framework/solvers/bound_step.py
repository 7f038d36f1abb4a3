"""Soft assignments that agree between neighbors, by a bound on the Laplacian term."""

from __future__ import annotations

import torch
from torch import Tensor

FREE_ITERATIONS = 2
"""Iterations before the first test of convergence."""


def bound_step(unary: Tensor, neighbors: Tensor, lam: float) -> Tensor:
    """Return softmax_k(-a_pk + lam sum_q w_pq z_qk), the minimizer of the linearized energy.

    Args:
        unary: Cost a of every row and class (..., N, K).
        neighbors: Sum over the neighbors' assignments W Z (..., N, K).
        lam: Weight of the Laplacian term.

    Example:
        >>> bound_step(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), lam=0.5)
        tensor([[0.7311, 0.2689]])
    """
    return (lam * neighbors - unary).softmax(-1)


def laplacian_energy(
    assignment: Tensor, unary: Tensor, neighbors: Tensor, lam: float, *, half: bool = True
) -> Tensor:
    """Return sum_pk z_pk (a_pk + log z_pk) - (lam / 2) sum_k z_k^T W z_k, in float64, (...,).

    It is what ``bound_step`` cannot raise where W is symmetric and positive semi-definite.

    Args:
        assignment: Assignments Z (..., N, K).
        unary: Cost a of every row and class (..., N, K).
        neighbors: Sum over the neighbors' assignments W Z (..., N, K).
        lam: Weight of the Laplacian term.
        half: Whether the last term has the weight lam / 2; False for lam, as the authors' code
            prints it.

    Example:
        >>> half = torch.full((1, 2), 0.5)
        >>> laplacian_energy(half, torch.zeros(1, 2), torch.zeros(1, 2), lam=1.0)
        tensor(-0.6931, dtype=torch.float64)
    """
    weight = lam / 2 if half else lam
    terms = assignment * (unary - weight * neighbors) - torch.special.entr(assignment)
    return terms.sum((-2, -1), dtype=torch.float64)


def laplacian_assignments(
    unary: Tensor,
    affinity: Tensor,
    lam: float,
    *,
    fixed: Tensor | None = None,
    hold: bool = True,
    max_inner: int = 600,
    tol: float = 1e-7,
) -> tuple[Tensor, Tensor]:
    """Return assignments (T, N, K) of T tasks at which ``bound_step`` stays, and energies (T,).

    The start is softmax(-a). A task ends by itself, when its energy changes by at most ``tol``
    relative to its size, after three iterations at the earliest, so that what it comes to does not
    depend on the tasks beside it.

    Args:
        unary: Cost a of every row and class (T, N, K).
        affinity: Affinities W (T, N, N).
        lam: Weight of the Laplacian term.
        fixed: Assignments (T, S, K) of the first S rows, such as those of supports.
        hold: Whether these hold at every iteration; False for the start only.
        max_inner: Most iterations.
        tol: Relative change of the energy at which a task ends.

    Example:
        >>> unary = torch.tensor([[[0.0, 1.0], [0.6, 0.4]]])
        >>> assignment, _ = laplacian_assignments(unary, torch.ones(1, 2, 2), lam=1.0)
        >>> assignment.argmax(-1)
        tensor([[0, 0]])
    """
    supports = 0 if fixed is None else fixed.shape[-2]

    def imposed(free: Tensor, rows: Tensor | slice) -> Tensor:
        return free if fixed is None else torch.cat([fixed[rows], free[:, supports:]], dim=1)

    result = imposed((-unary).softmax(-1), slice(None))
    neighbors = affinity @ result
    energy = laplacian_energy(result, unary, neighbors, lam)
    if lam == 0 and hold:
        return result, energy
    result, energy = result.clone(), energy.clone()
    active = torch.arange(len(unary), device=unary.device)
    for iteration in range(max_inner):
        if not len(active):
            break
        new = bound_step(unary[active], neighbors, lam)
        new = imposed(new, active) if hold else new
        neighbors = affinity[active] @ new
        value = laplacian_energy(new, unary[active], neighbors, lam)
        before = energy[active]
        result[active], energy[active] = new, value
        if iteration >= FREE_ITERATIONS:
            going = (value - before).abs() > tol * before.abs()
            active, neighbors = active[going], neighbors[going]
    return result, energy
