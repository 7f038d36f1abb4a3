"""All hyperparameters that are tuned together, as unconstrained numbers with names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.self_tuning.hyperparameter import HyperParameter, inverse_softplus
from framework.utilities.checks import check_interval
from framework.utilities.devices import to_device

SCALES = (1e-3, 5.0)
"""Least and largest scale: below, the response is not seen, above, bounded values saturate."""

ROUNDING = 1e-6
"""Share of a limit that float32 numbers may miss it by."""


class HyperSpace(nn.Module):
    r"""Unconstrained hyperparameters h and the scales of their perturbation, with their names.

    In training a row gets :math:`h + \sigma \odot \xi`, :math:`\xi` standard normal and
    :math:`\sigma = \mathrm{softplus}(s)` between 0.001 and 5. Both h and s are float32 in any
    precision of the run, and buffers: neither the network's optimizer nor DDP changes them.

    Shapes: n hyperparameters; a batch of B rows has h (B, n).

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, whose code does not
    limit the scales.

    Args:
        hyperparameters: Hyperparameters by their names, in the order of the columns of h.
        init_scale: Scale of the perturbation at the beginning, in [0.001, 5].

    Attributes:
        raw: (n,) float32, h.
        raw_scales: (n,) float32, s.

    Raises:
        ValueError: There is no hyperparameter, or ``init_scale`` is out of its range.

    Example:
        >>> import torch
        >>> space = HyperSpace({"dropout.rate": HyperParameter(0.05, low=0.0, high=0.9)})
        >>> space.names, space.scales()
        (('dropout.rate',), tensor([0.5000]))
        >>> space.values(space.raw)
        {'dropout.rate': tensor(0.0500)}
    """

    raw: Tensor
    raw_scales: Tensor

    def __init__(
        self, hyperparameters: Mapping[str, HyperParameter], init_scale: float = 0.5
    ) -> None:
        super().__init__()
        check_interval(f"[{SCALES[0]}, {SCALES[1]}]", init_scale=init_scale)
        if not hyperparameters:
            raise ValueError("There is no hyperparameter to tune: give at least one effect.")
        self.hyperparameters = dict(hyperparameters)
        self.names = tuple(self.hyperparameters)
        self.columns = {name: column for column, name in enumerate(self.names)}
        raw = [one.unconstrained(one.init) for one in self.hyperparameters.values()]
        self.register_buffer("raw", torch.tensor(raw, dtype=torch.float32))
        raw_scales = torch.full_like(self.raw, inverse_softplus(init_scale))
        self.register_buffer("raw_scales", raw_scales)

    @property
    def size(self) -> int:
        """Number n of hyperparameters."""
        return len(self.names)

    @property
    def is_shared(self) -> Tensor:
        """(n,) bool: which hyperparameters have one value for all rows, on the device of h."""
        shared = [one.shared for one in self.hyperparameters.values()]
        return to_device(torch.tensor(shared), self.raw.device)

    def scales(self, raw_scales: Tensor | None = None) -> Tensor:
        """Return the scales (n,), of ``raw_scales`` if given."""
        s = self.raw_scales if raw_scales is None else raw_scales
        return F.softplus(s).clamp(*SCALES)

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Bring s back to where the scales are within their limits, beyond which it would stay."""
        low, high = SCALES
        # at a limit that rounding had passed there would be no gradient that leads back
        self.raw_scales.clamp_(
            inverse_softplus(low * (1 + ROUNDING)), inverse_softplus(high * (1 - ROUNDING))
        )

    def entropy(self, raw_scales: Tensor | None = None) -> Tensor:
        r"""Return :math:`\sum_i \log(\sigma_i \sqrt{2 \pi e})`, which keeps the scales from 0."""
        constant = 0.5 * math.log(2 * math.pi * math.e)
        return (self.scales(raw_scales).log() + constant).sum()

    def perturbed(
        self, noise: Tensor, raw: Tensor | None = None, raw_scales: Tensor | None = None
    ) -> Tensor:
        """Return h of every row, differentiable in ``raw`` and ``raw_scales``.

        Args:
            noise: Standard normal numbers (B, n) or (n,), see ``Draws.perturbation``.
            raw: Other numbers in the place of ``self.raw``, (n,).
            raw_scales: Other numbers in the place of ``self.raw_scales``, (n,).

        Returns:
            The shape of ``noise``.
        """
        return (self.raw if raw is None else raw) + self.scales(raw_scales) * noise

    def values(self, h: Tensor, shared: Tensor | None = None) -> dict[str, Tensor]:
        """Return the values of all hyperparameters by name.

        Args:
            h: One number a row, (B, n), or one for all, (n,).
            shared: Numbers (n,) of the hyperparameters that all rows share; default the first row.
                A rank without rows has none, and without ``shared`` takes what is not perturbed.

        Returns:
            (B,) each, or () where ``h`` has no rows or all rows share it.
        """
        if h.ndim == 1:
            shared = h
        elif shared is None:
            shared = h[0] if len(h) else self.raw
        return {
            name: one.constrained((shared if one.shared or h.ndim == 1 else h)[..., column])
            for column, (name, one) in enumerate(self.hyperparameters.items())
        }

    def extra_repr(self) -> str:
        """Return the names."""
        return ", ".join(self.names)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HyperSpace:
        # a gate is a difference of small numbers, which half precision would round away
        for name in ("raw", "raw_scales"):
            buffer = self._buffers[name]
            assert buffer is not None
            moved = fn(buffer)
            kept = moved if moved.dtype == torch.float32 else buffer.to(moved.device)
            self._buffers[name] = kept
        return self
