"""The convex functions K of Lion-K, their gradients, conjugates and constraint sets.

Each is even, so that a step against ``grad(c)`` needs no care about signs. Weight decay lambda then
solves ``min f(x) + conjugate(lambda x) / lambda``: where the conjugate is infinite outside a set,
that is a constraint on ``lambda x``.

Paper: Chen et al., Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts, ICLR 2024,
arXiv:2310.05898. ``group`` and ``nuclear`` are further members by the same rule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least
from framework.utilities.nearest_names import nearest


class Kappa(ABC):
    """A closed, convex, even function K of one tensor."""

    elementwise = False
    """Whether the gradient of an entry depends on that entry alone."""

    @abstractmethod
    def grad_(self, c: Tensor) -> Tensor:
        """Overwrite ``c`` by a subgradient of K at ``c`` and return it."""

    def grad(self, c: Tensor) -> Tensor:
        """Return a subgradient of K at ``c``; 0 at 0."""
        return self.grad_(c.clone())

    @abstractmethod
    def value(self, c: Tensor) -> Tensor:
        """Return K(c), a scalar."""

    def gauge(self, y: Tensor) -> Tensor:
        """Return a scalar that is at most 1 exactly where the conjugate is finite."""
        return y.new_zeros(())

    def penalty(self, y: Tensor) -> Tensor:
        """Return the conjugate at ``y`` inside its domain, a scalar."""
        return y.new_zeros(())

    def conjugate(self, y: Tensor) -> Tensor:
        """Return ``sup_x <x, y> - K(x)``, a scalar, infinite outside the constraint set."""
        return torch.where(self.gauge(y) <= 1 + 1e-6, self.penalty(y), math.inf)

    def support(self, weight_decay: float) -> float:
        """Return the largest multiple r of the unit ball of ``gauge`` that weights can reach.

        It is ``1 / weight_decay``: weights end with ``gauge(x) <= r``.
        """
        return 1 / weight_decay if weight_decay > 0 else math.inf


class Sign(Kappa):
    """K(x) = |x|_1: Lion. Constraint ``max |x| <= 1 / lambda``."""

    elementwise = True

    def grad_(self, c: Tensor) -> Tensor:
        """Return sign(c)."""
        return _sign_(c)

    def value(self, c: Tensor) -> Tensor:
        """Return the sum of absolute values."""
        return c.abs().sum()

    def gauge(self, y: Tensor) -> Tensor:
        """Return max |y|."""
        return y.abs().amax()


class LpNorm(Kappa):
    """K(x) = |x|_p. Constraint ``|x|_q <= 1 / lambda`` with 1/p + 1/q = 1.

    Args:
        p: Order of the norm, above 1 and finite.
        rms_scale: Whether to multiply K, and with it the gradient and the radius of the constraint,
            by the square root of the size d, so that one learning rate serves every p.
    """

    def __init__(self, p: float, rms_scale: bool = False) -> None:
        if not 1 < p < math.inf:
            raise ValueError(f"kappa='lp' needs a finite p > 1, got {p}; p = 1 is kappa='sign'.")
        self.p = p
        self.rms_scale = rms_scale

    def grad_(self, c: Tensor) -> Tensor:
        """Return sign(c) |c|**(p-1) / norm**(p-1)."""
        # divided by the largest entry first, so that no power over- or underflows
        c.div_(_largest(c))
        norm = torch.linalg.vector_norm(c, self.p)
        norm = torch.where(norm > 0, norm, 1)
        scale = self._scale(c)
        if self.p == 2:
            return c.mul_(scale / norm)
        sign = c.sign()
        return c.abs_().pow_(self.p - 1).mul_(sign).mul_(scale / norm ** (self.p - 1))

    def value(self, c: Tensor) -> Tensor:
        """Return the p-norm, scaled."""
        return self._scale(c) * _norm(c, self.p)

    def gauge(self, y: Tensor) -> Tensor:
        """Return the dual norm over the scale."""
        return _norm(y, self.p / (self.p - 1)) / self._scale(y)

    def _scale(self, c: Tensor) -> float:
        return math.sqrt(c.numel()) if self.rms_scale else 1.0


class Threshold(Kappa):
    """K(x) = sum max(|x| - e, 0). Adds e |x|_1 to the objective; ``max |x| <= 1 / lambda``.

    Args:
        e: Threshold, at least 0.
    """

    elementwise = True

    def __init__(self, e: float) -> None:
        check_at_least(0, e=e)
        self.e = e

    def grad_(self, c: Tensor) -> Tensor:
        """Return sign(c) where |c| > e, else 0."""
        return _sign_(torch.hardshrink(c, self.e, out=c) if self.e else c)

    def value(self, c: Tensor) -> Tensor:
        """Return what is above the threshold, summed."""
        return (c.abs() - self.e).clamp_min(0).sum()

    def gauge(self, y: Tensor) -> Tensor:
        """Return max |y|."""
        return y.abs().amax()

    def penalty(self, y: Tensor) -> Tensor:
        """Return e |y|_1."""
        return self.e * y.abs().sum()


class TopK(Kappa):
    """K(x) = the sum of the k largest |x|.

    Constraints ``|x|_1 <= k / lambda`` and ``max |x| <= 1 / lambda``.

    Args:
        k: Entries that move at a step, at least 1; of equal ones any.
    """

    def __init__(self, k: float) -> None:
        if k < 1 or k != int(k):
            raise ValueError(f"kappa='topk' needs a whole number k >= 1, got {k}.")
        self.k = int(k)

    def grad_(self, c: Tensor) -> Tensor:
        """Return sign(c) at the k largest |c|, else 0."""
        if self.k >= c.numel():
            return _sign_(c)
        flat = c.flatten()
        chosen = flat.abs().topk(self.k, sorted=False).indices
        kept = torch.zeros_like(flat).scatter_(0, chosen, _sign_(flat[chosen]))
        return c.copy_(kept.view_as(c))

    def value(self, c: Tensor) -> Tensor:
        """Return the sum of the k largest absolute values."""
        return c.flatten().abs().topk(min(self.k, c.numel())).values.sum()

    def gauge(self, y: Tensor) -> Tensor:
        """Return the larger of max |y| and |y|_1 / k."""
        return torch.maximum(y.abs().amax(), y.abs().sum() / self.k)


class Huber(Kappa):
    """K(x) = sum of x**2 / (2 e) if |x| <= e else |x| - e / 2.

    Adds (e lambda / 2) |x|_2**2 to the objective; ``max |x| <= 1 / lambda``.

    Args:
        e: Bound of the quadratic part, positive.
    """

    elementwise = True

    def __init__(self, e: float) -> None:
        if not e > 0:
            raise ValueError(f"kappa='huber' needs e > 0, got {e}; e = 0 is kappa='sign'.")
        self.e = e

    def grad_(self, c: Tensor) -> Tensor:
        """Return clip(c, -e, e) / e."""
        return c.div_(self.e).clamp_(-1, 1)

    def value(self, c: Tensor) -> Tensor:
        """Return the sum of Huber's function."""
        size = c.abs()
        return torch.where(size <= self.e, size**2 / (2 * self.e), size - self.e / 2).sum()

    def gauge(self, y: Tensor) -> Tensor:
        """Return max |y|."""
        return y.abs().amax()

    def penalty(self, y: Tensor) -> Tensor:
        """Return e |y|_2**2 / 2."""
        return self.e / 2 * y.square().sum()


class Square(Kappa):
    """K(x) = |x|_2**2 / 2: momentum, with ordinary weight decay (lambda / 2) |x|_2**2."""

    elementwise = True

    def grad_(self, c: Tensor) -> Tensor:
        """Return c."""
        return c

    def value(self, c: Tensor) -> Tensor:
        """Return half the squared norm."""
        return c.square().sum() / 2

    def penalty(self, y: Tensor) -> Tensor:
        """Return half the squared norm."""
        return y.square().sum() / 2


class GroupNorm(Kappa):
    """K(x) = the sum of the 2-norms of the rows. Constraint: every row at most 1 / lambda.

    A row is a tensor's slice along its first axis; a vector is one row.
    """

    def grad_(self, c: Tensor) -> Tensor:
        """Return every row divided by its norm."""
        rows = _as_matrix(c)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return c.copy_((rows / torch.where(norm > 0, norm, 1)).view_as(c))

    def value(self, c: Tensor) -> Tensor:
        """Return the sum of the rows' norms."""
        return torch.linalg.vector_norm(_as_matrix(c), dim=1).sum()

    def gauge(self, y: Tensor) -> Tensor:
        """Return the largest norm of a row."""
        return torch.linalg.vector_norm(_as_matrix(y), dim=1).amax()


class Nuclear(Kappa):
    """K(X) = the sum of the singular values: Muon. Constraint: spectral norm at most 1 / lambda.

    A tensor counts as the matrix of its rows, a vector as one row. The factors are computed exactly
    by a singular value decomposition, where ``torch.optim.Muon`` iterates towards them.
    """

    def grad_(self, c: Tensor) -> Tensor:
        """Return U V^T over the non-zero singular values."""
        u, s, vh = torch.linalg.svd(_as_matrix(c), full_matrices=False)
        keep = s > s.amax() * max(_as_matrix(c).shape) * torch.finfo(c.dtype).eps
        return c.copy_(((u * keep) @ vh).view_as(c))

    def value(self, c: Tensor) -> Tensor:
        """Return the nuclear norm."""
        return torch.linalg.svdvals(_as_matrix(c)).sum()

    def gauge(self, y: Tensor) -> Tensor:
        """Return the spectral norm."""
        return torch.linalg.svdvals(_as_matrix(y)).amax()


def _sign_(c: Tensor) -> Tensor:
    """Overwrite ``c`` by its signs and return it; NaN, which torch gives the sign 0, stays NaN.

    An infinite entry becomes NaN as well: as with Adam, the step shows what is wrong.
    """
    # on a CPU it costs less to look; a sum that only overflows changes nothing
    if c.device.type == "cpu" and math.isfinite(c.sum().item()):
        return c.sign_()
    return c.copy_(c.sign().add_(c, alpha=0))


def _largest(x: Tensor) -> Tensor:
    """Return max |x|, or 1 where that is 0."""
    largest = x.abs().amax()
    return torch.where(largest > 0, largest, 1)


def _norm(x: Tensor, p: float) -> Tensor:
    """Return the p-norm; for large p the powers of ``vector_norm`` over- or underflow."""
    largest = _largest(x.detach())
    return largest * torch.linalg.vector_norm(x / largest, p)


def _as_matrix(x: Tensor) -> Tensor:
    return x.reshape(1, -1) if x.ndim <= 1 else x.reshape(x.shape[0], -1)


# name: class and the arguments that it must be given
_MEMBERS: dict[str, tuple[type[Kappa], tuple[str, ...]]] = {
    "sign": (Sign, ()),
    "lp": (LpNorm, ("p",)),
    "threshold": (Threshold, ("e",)),
    "topk": (TopK, ("k",)),
    "huber": (Huber, ("e",)),
    "square": (Square, ()),
    "group": (GroupNorm, ()),
    "nuclear": (Nuclear, ()),
}


def make_kappa(
    name: str, arguments: Mapping[str, float] | None = None, rms_scale: bool = False
) -> Kappa:
    """Return the member of the family with this name.

    Args:
        name: Name of the function: sign, lp, threshold, topk, huber, square, group or nuclear.
        arguments: Arguments of the function: ``p`` of lp, ``e`` of threshold and huber, ``k`` of
            topk.
        rms_scale: Whether lp is multiplied by the square root of the size.

    Raises:
        ValueError: unknown name, or arguments that the member does not take or lacks.
    """
    if name not in _MEMBERS:
        raise ValueError(f"There is no kappa {name!r}{nearest(name, _MEMBERS)}.")
    kind, needed = _MEMBERS[name]
    given = dict(arguments or {})
    if set(given) != set(needed):
        takes = f"exactly {', '.join(needed)}" if needed else "nothing"
        raise ValueError(f"kappa={name!r} takes {takes} in kappa_kwargs, got {given}.")
    if rms_scale:
        if kind is not LpNorm:
            raise ValueError(f"rms_scale belongs to kappa='lp', not to {name!r}.")
        return LpNorm(given["p"], rms_scale=True)
    return kind(**given)
