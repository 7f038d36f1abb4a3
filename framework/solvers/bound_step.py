"""Soft assignments that agree between neighbors, by a bound on the Laplacian term."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.solvers.neighbor_affinity import neighbor_sums
from framework.solvers.task_batches import asks_after, is_worth_reducing

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
        assignment: Assignments Z (..., N, K), or each argument (..., K, N).
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
        affinity: Affinities W (T, N, N), or the numbers of neighbors (T, N, M) int64, each of
            affinity 1; where ``lam`` is 0 they do not count.
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
    # classes before rows, as a softmax over few numbers beside one another is slow
    unary = unary.mT.contiguous()
    held = None if fixed is None else fixed.mT
    log_held = None if held is None else _finite_log(held)

    def impose(values: Tensor, held: Tensor | None) -> Tensor:
        if held is not None:
            values[..., : held.shape[-1]] = held
        return values

    z = (-unary).softmax(1)
    if lam == 0:
        z = impose(z, held) if hold else z
        return z.mT.contiguous(), laplacian_energy(z, unary, torch.zeros_like(z), lam)
    z = impose(z, held)
    neighbors = neighbor_sums(affinity, z)
    energy = laplacian_energy(z, unary, neighbors, lam)
    result, energies = torch.empty_like(z), torch.empty_like(energy)
    tasks = torch.arange(len(z), device=z.device)
    going, all_going = torch.ones_like(energy, dtype=torch.bool), True
    for iteration in range(max_inner):
        log_new = (lam * neighbors - unary).log_softmax(1)
        new = log_new.exp()
        if hold:
            log_new, new = impose(log_new, log_held), impose(new, held)
        neighbors = neighbor_sums(affinity, new)
        # the energy, whose logarithms are known
        terms = torch.add(unary + log_new, neighbors, alpha=-lam / 2).mul_(new)
        value = terms.sum((-2, -1), dtype=torch.float64)
        still = going
        if iteration >= FREE_ITERATIONS:
            still = going & ((value - energy).abs() > tol * energy.abs())
        if all_going:
            z, energy = new, value
        else:
            z = torch.where(going[:, None, None], new, z)
            energy = torch.where(going, value, energy)
        going = still
        if iteration < FREE_ITERATIONS:
            continue
        all_going = False
        if not asks_after(iteration, z.device):
            continue
        left = int(going.sum())
        all_going = left == len(going)
        if not left:
            break
        if is_worth_reducing(left, going):
            result[tasks], energies[tasks] = z, energy
            unary, affinity, z, neighbors = (v[going] for v in (unary, affinity, z, neighbors))
            if held is not None and log_held is not None:
                held, log_held = held[going], log_held[going]
            tasks, energy, going = tasks[going], energy[going], going[going]
            all_going = True
    result[tasks], energies[tasks] = z, energy
    return result.mT.contiguous(), energies


def _finite_log(values: Tensor) -> Tensor:
    """Return the logarithm of what is above 0, whose product with 0 is 0."""
    return values.clamp(min=torch.finfo(values.dtype).tiny).log()
