"""Sharpness: the largest eigenvalues of the Hessian of a loss, by Lanczos iteration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from framework.distributed.averages import average_over_ranks
from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.utilities.checks import check_at_least, check_one_of, check_positive

Loss = Tensor | Callable[[], Iterable[Tensor]]
Which = Literal["algebraic", "magnitude"]
SMALL = 20
"""Largest number of entries whose Hessian is written out, which Lanczos vectors would span."""


def hessian_top_eigenvalues(
    loss: Loss,
    params: Iterable[Tensor],
    k: int = 1,
    iterations: int = 20,
    tolerance: float = 1e-3,
    which: Which = "algebraic",
    seed: int = 0,
) -> Tensor:
    """Return the k top eigenvalues (k,) of the Hessian of a loss, float64 on the CPU.

    Implicitly restarted Lanczos (ARPACK) on Hessian-vector products by two backward passes, which
    run where the parameters lie; its 20 or so vectors are kept on the CPU, float64 where a
    parameter is and float32 elsewhere. The parameters' ``grad`` stays as it is, and no global
    random number is drawn.

    Collective: every rank gives the loss of its own rows, scaled so that the *mean* over ranks is
    the loss of all rows. Rank 0 iterates, so that all ranks return the same values.

    Where the iteration does not converge, the estimates of one pass of 20 vectors are returned
    with a warning; those of the algebraically largest eigenvalues are lower bounds. A Hessian that
    is not finite has the eigenvalue NaN.

    Args:
        loss: Scalar with a graph; or a function that returns the parts, which are summed, one
            after the other, so that the graph of only one is held and attention is computed by
            operations that can be differentiated twice.
        params: Parameters in whose entries the loss is differentiated twice.
        k: Number of eigenvalues.
        iterations: Largest number of restarts; each costs up to 20 products.
        tolerance: Relative accuracy of the eigenvalues.
        which: Order of the eigenvalues: ``'algebraic'`` finds the largest (sharpness), and
            ``'magnitude'`` those furthest from zero, which may be negative.
        seed: Seed of the first vector.

    Raises:
        ValueError: An argument is out of range, or there are fewer than k entries.

    Example:
        >>> w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
        >>> loss = 0.5 * (torch.tensor([3.0, -7.0, 1.0]) * w**2).sum()
        >>> hessian_top_eigenvalues(loss, [w], k=2).tolist()
        [3.0, 1.0]
        >>> hessian_top_eigenvalues(loss, [w], which="magnitude").tolist()
        [-7.0]
    """
    check_at_least(1, k=k, iterations=iterations)
    check_positive(tolerance=tolerance)
    check_one_of(get_args(Which), which=which)
    parameters = [p for p in params if p.numel()]
    size = sum(p.numel() for p in parameters)
    if k > size:
        raise ValueError(f"A Hessian of {size} entries has no {k} eigenvalues: lower k.")
    kind = np.float64 if any(p.dtype == torch.float64 for p in parameters) else np.float32

    def gradients() -> Iterator[tuple[Tensor, ...]]:
        for part in [loss] if isinstance(loss, Tensor) else loss():
            yield _gradient(part, parameters)

    # that of one graph serves every product
    kept = list(gradients()) if isinstance(loss, Tensor) else None

    def product(vector: np.ndarray) -> np.ndarray:
        found = _product(kept or gradients(), parameters, torch.from_numpy(vector))
        return found.numpy().astype(kind)

    def solve(product: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if size <= max(SMALL, k + 1):
            dense = np.stack([product(row) for row in np.eye(size, dtype=kind)])
            found = _eigenvalues(dense.astype(np.float64))
        else:
            start = np.random.default_rng(seed).standard_normal(size).astype(kind)
            found = _lanczos(product, start, k, iterations, tolerance, which)
        order = np.argsort(-(np.abs(found) if which == "magnitude" else found), kind="stable")
        return found[order[:k]]

    # the fused kernels of attention have no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        found = _on_rank_0(solve, product, size, k, kind) if world_size() > 1 else solve(product)
    return torch.from_numpy(found.astype(np.float64))


def hessian_top_eigenvalue(
    loss: Loss,
    params: Iterable[Tensor],
    iterations: int = 20,
    tolerance: float = 1e-3,
    which: Which = "algebraic",
    seed: int = 0,
) -> float:
    """Return the top eigenvalue of the Hessian of a loss: see ``hessian_top_eigenvalues``.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_top_eigenvalue((w**2).sum() + w.prod(), [w])
        3.0
    """
    return float(hessian_top_eigenvalues(loss, params, 1, iterations, tolerance, which, seed))


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient with its graph; zeros without one where the loss is constant."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    with torch.enable_grad():
        return torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)


def _product(
    gradients: Iterable[Sequence[Tensor]], parameters: Sequence[Tensor], vector: Tensor
) -> Tensor:
    """Return the Hessian over all ranks times a vector (d,), (d,) on the CPU."""
    parts = vector.split([p.numel() for p in parameters])
    along = [v.view_as(p).to(p) for v, p in zip(parts, parameters, strict=True)]
    total = [torch.zeros_like(p) for p in parameters]
    for gradient in gradients:
        # a loss that is linear in some parameters has gradients without a graph
        curved = [(g, v) for g, v in zip(gradient, along, strict=True) if g.requires_grad]
        if not curved:
            continue
        value = torch.autograd.grad(
            [g for g, _ in curved],
            parameters,
            grad_outputs=[v for _, v in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        torch._foreach_add_(total, value)
    return torch.cat([x.flatten().cpu() for x in average_over_ranks(total)])


def _eigenvalues(dense: np.ndarray) -> np.ndarray:
    if not np.isfinite(dense).all():
        return np.full(len(dense), np.nan)
    return np.linalg.eigvalsh((dense + dense.T) / 2)


def _lanczos(
    product: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    k: int,
    iterations: int,
    tolerance: float,
    which: Which,
) -> np.ndarray:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    first = product(start)
    # ARPACK takes the zero matrix for a bad start, and is not made for NaN
    if not np.any(first):
        return np.zeros(k)
    if not np.isfinite(first).all():
        return np.full(k, np.nan)
    operator = LinearOperator((len(start), len(start)), matvec=product, dtype=start.dtype)
    settings = {
        "k": k,
        "which": "LM" if which == "magnitude" else "LA",
        "v0": start,
        "return_eigenvectors": False,
    }
    try:
        return eigsh(operator, maxiter=iterations, tol=tolerance, **settings)
    except ArpackNoConvergence:
        warnings.warn(
            f"The top eigenvalues of the Hessian did not converge to a tolerance of {tolerance} "
            f"in {iterations} iterations; those of one pass are returned.",
            stacklevel=3,
        )
        return eigsh(operator, tol=1.0, **settings)


def _on_rank_0(
    solve: Callable[[Callable[[np.ndarray], np.ndarray]], np.ndarray],
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    k: int,
    kind: type[np.floating],
) -> np.ndarray:
    """Return what ``solve`` finds on rank 0, where every rank takes part in each product.

    How often the iteration asks may hang on the last bit of a sum, which ranks on different
    processors round otherwise: they would then wait for one another in vain.
    """

    def share(vector: np.ndarray, going: bool) -> np.ndarray:
        sent = np.append(vector, going).astype(kind) if rank() == 0 else np.zeros(size + 1, kind)
        return all_reduce_sum(torch.from_numpy(sent)).numpy()

    if rank() == 0:
        found = solve(lambda vector: product(share(vector, True)[:-1]))
        # as the others receive it
        return share(np.pad(found, (0, size - k)), False)[:k]
    while (received := share(np.empty(0), True))[-1]:
        product(received[:-1])
    return received[:k]
