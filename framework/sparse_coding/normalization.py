"""Normalization of the activations given to an autoencoder, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from framework.utilities.checks import check_one_of, check_positive

Mode = Literal["none", "constant", "layernorm"]
EPS = 1e-5


@dataclass(frozen=True)
class Normalization:
    """Brings activations (..., d) to a common size, and reconstructions back.

    ``constant`` multiplies by one factor, which can be folded into an autoencoder's weights;
    ``layernorm`` takes each activation's own mean off and divides by its own standard deviation
    (unbiased, plus 1e-5), as the code of arXiv:2406.04093 does; ``none`` leaves them as they are.

    Args:
        mode: Name of one of the three.
        scale: Factor of ``constant``.

    Raises:
        ValueError: an unknown mode, or a factor that is not positive and finite.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.normalization import Normalization
        >>> x = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
        >>> unit = Normalization.fitted("constant", x)
        >>> round(float(unit(x).norm(dim=1).mean()) ** 2, 4)
        2.0
        >>> unit.restore(unit(x), x)
        tensor([[3., 4.],
                [6., 8.]])
    """

    mode: Mode = "none"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_one_of(get_args(Mode), normalization=self.mode)
        check_positive(scale=self.scale)

    @classmethod
    def fitted(cls, mode: Mode, sample: Tensor) -> Normalization:
        """Return the normalization whose constant factor makes the mean norm the root of d.

        Args:
            mode: Name of one of the three, see the class.
            sample: (N, d), read by ``constant`` only.
        """
        if mode != "constant":
            return cls(mode)
        norm = float(sample.double().norm(dim=-1).mean())
        return cls(mode, sample.shape[-1] ** 0.5 / norm if norm > 0 else 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x`` in the common size."""
        if self.mode == "constant":
            return x * self.scale
        if self.mode == "layernorm":
            return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + EPS)
        return x

    def restore(self, normalized: Tensor, original: Tensor) -> Tensor:
        """Return reconstructions in the size of the activations that they reconstruct.

        Args:
            normalized: (..., d) in the common size.
            original: (..., d) before ``__call__``.
        """
        if self.mode == "constant":
            return normalized / self.scale
        if self.mode == "layernorm":
            spread = original.std(-1, keepdim=True) + EPS
            return normalized * spread + original.mean(-1, keepdim=True)
        return normalized
