"""Nested dropout: a random prefix of the channels, so that they become ordered by importance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.distributed.collectives import shared_generator
from framework.layers.random_layer import RandomLayer
from framework.utilities.checks import check_at_least, check_interval, check_positive
from framework.utilities.graph_operation import graph_operation


class NestedDropout(RandomLayer):
    r"""Keeps the first k channels, k drawn anew in each training forward, and zeroes the others.

    One k counts for the whole global batch, with

    .. math:: P(k) \propto e^{-((k - \mu) / \sigma)^2}, \quad k = 1, \dots, \mathrm{dim},

    so that channel j is kept with probability P(k >= j), and early channels learn what matters
    most. What is kept is not rescaled: with all channels the next layer sees larger values than in
    training, so evaluate at a prefix, ``eval_k``, that validation has chosen. A channel that is
    never kept gets no gradient, but still weight decay.

    k is a function of the run's seed, ``stream`` and the number of training forwards so far: the
    same on every rank, and in a resumed run what it would have been. That number and ``eval_k`` are
    in the ``state_dict``.

    Shapes: (..., dim) to the same.

    Paper: Rippel, Gelbart, Adams, *Learning Ordered Representations with Nested Dropout*,
    ICML 2014, arXiv:1402.0915; against wrong labels Chen et al., *Compressing Features for Learning
    with Noisy Labels*, TNNLS 2022, arXiv:2206.13140. The distribution, without a factor 1/2 in the
    exponent, is that of the latter's code (yingyichen-cyy/Nested-Co-teaching).

    Args:
        dim: Number of channels H.
        sigma: Standard deviation of the distribution, above 0; about H / 5. Too small a value
            starves the later channels.
        mu: Center of the distribution.
        eval_k: Channels kept in evaluation; None keeps all.
        stream: Name of the random stream: layers of one stream draw the same k in the same forward.
            Give every such layer of a network a stream of its own, unless they are to be cut at the
            same channel.

    Attributes:
        probabilities: (dim,) float64 on the CPU, P(1), ..., P(dim).
        eval_k: may be set at any time.

    Raises:
        ValueError: an argument out of its range, or an input with other channels.

    Example:
        >>> import torch
        >>> from framework.layers import NestedDropout
        >>> layer = NestedDropout(dim=4, sigma=2.0, eval_k=2).eval()
        >>> layer(torch.ones(1, 4))
        tensor([[1., 1., 0., 0.]])
    """

    def __init__(
        self,
        dim: int,
        sigma: float,
        mu: float = 0.0,
        eval_k: int | None = None,
        stream: str = "nested_dropout",
    ) -> None:
        super().__init__(stream)
        check_at_least(1, dim=dim)
        check_positive(sigma=sigma)
        check_interval("(-inf, inf)", mu=mu)
        self.dim = dim
        self.sigma = sigma
        self.mu = mu
        self.eval_k = eval_k
        k = torch.arange(1, dim + 1, dtype=torch.float64)
        # no buffer: k is drawn on the CPU, so that a GPU need not wait for it
        self.probabilities = torch.softmax(-(((k - mu) / sigma) ** 2), dim=0)

    @property
    def eval_k(self) -> int | None:
        """Channels kept in evaluation; None keeps all."""
        return self._eval_k

    @eval_k.setter
    def eval_k(self, k: int | None) -> None:
        check_interval(f"[1, {self.dim}]", eval_k=k)
        self._eval_k = k

    def forward(self, features: Tensor) -> Tensor:
        """Return ``features`` with all channels after the k-th set to 0."""
        if features.shape[-1] != self.dim:
            raise ValueError(
                f"NestedDropout was built for {self.dim} channels, got {features.shape[-1]}."
            )
        k: Tensor | int | None = self.eval_k
        if self.training:
            k = _draw(self._count, self.seed, self.stream, self.probabilities)
            self._count += 1
        if k is None:
            return features
        # a mask, whose shape is the same for every k
        return torch.where(torch.arange(self.dim, device=features.device) < k, features, 0)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the next k and evaluation depend on."""
        return super().get_extra_state() | {"eval_k": self.eval_k}

    def set_extra_state(self, state: Any) -> None:
        """Continue from ``get_extra_state``."""
        super().set_extra_state(state)
        self.eval_k = state["eval_k"]

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{self.dim}, sigma={self.sigma}, mu={self.mu}, eval_k={self.eval_k}"


def _empty(count: Tensor, seed: int, stream: str, probabilities: Tensor) -> Tensor:
    return torch.empty_like(count)


@graph_operation(_empty)
def _draw(count: Tensor, seed: int, stream: str, probabilities: Tensor) -> Tensor:
    """Return k, on the CPU."""
    generator = shared_generator(seed, int(count), stream)
    return 1 + torch.multinomial(probabilities, 1, generator=generator).squeeze(0)
