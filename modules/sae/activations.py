"""Activations that decide entry by entry, and the penalties that make them sparse.

Unlike the rules of ``selection`` they fix no number of entries; the weight of the penalty decides
how many stay.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from framework.utilities.checks import check_at_least, check_interval, check_positive
from framework.utilities.precision import FullPrecision

_LARGEST_LOG = 88.0
"""Largest logarithm of a threshold that is finite in float32."""


class Dictionary(Protocol):
    """Parameters that a penalty reads: decoder (F, D), and the biases (F,) and (D,)."""

    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter


class Activation(FullPrecision):
    """Base of the activations.

    What they learn moves by small steps, and keeps its type in half precision.

    Class attributes:
        unit_norm: Whether the decoder's directions are kept at length 1.

    Args:
        weight: Weight λ of the penalty ``sparsity``.
        warmup: Share of the run over which the weight grows from 0.

    Raises:
        ValueError: An argument is out of its range.
    """

    unit_norm: ClassVar[bool] = True

    def __init__(self, weight: float, warmup: float = 0.05) -> None:
        super().__init__()
        check_at_least(0, weight=weight)
        check_interval("[0, 1]", warmup=warmup)
        self.weight = weight
        self.warmup = warmup

    def setup(self, num_features: int) -> None:
        """Allocate what depends on F; called once."""

    def forward(self, pre_acts: Tensor, bias: Tensor) -> Tensor:
        """Return the code (B, F).

        Args:
            pre_acts: Pre-activations (B, F), which include ``bias``.
            bias: Bias of the encoder, (F,).
        """
        raise NotImplementedError

    def penalties(
        self, sae: Dictionary, x: Tensor, pre_acts: Tensor, code: Tensor
    ) -> dict[str, Tensor]:
        """Return the penalty ``sparsity``, and further terms, of every token, (B,) each.

        Args:
            sae: Autoencoder.
            x: Activations to reconstruct, (B, d).
            pre_acts: Pre-activations (B, F).
            code: Code (B, F).
        """
        raise NotImplementedError

    def weight_at(self, progress: float) -> float:
        """Return the weight after a share ``progress`` of the run."""
        return self.weight * (min(1.0, progress / self.warmup) if self.warmup else 1.0)

    def as_threshold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return encoder weight, bias and thresholds (F,) of the JumpReLU that does the same."""
        return weight, bias, torch.zeros_like(bias)


class ReLUWithL1(Activation):
    """ReLU, with a penalty on the sum of the code weighted by the lengths of the directions.

    With the lengths in the penalty nothing is gained by small codes for long directions, so the
    decoder is free.

    Paper: Bricken et al., *Towards Monosemanticity*, 2023, with the weighting of Conerly et al.,
    *Update on how we train SAEs*, 2024 (transformer-circuits.pub).

    Args:
        weight: Weight λ of the penalty; 1 to 5 with activations of mean norm sqrt(d).
        warmup: Share of the run over which the weight grows from 0.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.sae.activations import ReLUWithL1
        >>> ReLUWithL1(weight=2.0)(torch.tensor([[-1.0, 3.0]]), torch.zeros(2))
        tensor([[0., 3.]])
    """

    unit_norm = False

    def __init__(self, weight: float = 2.0, warmup: float = 0.05) -> None:
        super().__init__(weight, warmup)

    def forward(self, pre_acts: Tensor, bias: Tensor) -> Tensor:
        """Return ``max(pre_acts, 0)``."""
        return pre_acts.relu()

    def penalties(
        self, sae: Dictionary, x: Tensor, pre_acts: Tensor, code: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted sum of the code."""
        return {"sparsity": code @ sae.W_dec.norm(dim=1).to(code.dtype)}


class JumpReLU(Activation):
    """The pre-activation where it exceeds a learned threshold, with a penalty on how many do.

    The thresholds get a gradient by a straight-through estimate with a rectangular kernel.

    Paper: Rajamanoharan et al., *Jumping Ahead*, 2024, arXiv:2407.14435. The estimate is the
    paper's, also where its pseudo-code writes the threshold's logarithm as the parameter.

    Args:
        weight: Weight λ of the mean number of active features.
        threshold: Threshold at the start. Its logarithm moves by about the learning rate in a step
            of Adam, so that a short run must start near where it shall end, ``sae_jumprelu.yaml``
            at 1.7.
        bandwidth: Width ε of the kernel. 0.001 is the paper's, for activations of mean square 1;
            ``sae_jumprelu.yaml`` takes 0.5.
        warmup: Share of the run over which the weight grows from 0.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.sae.activations import JumpReLU
        >>> jump = JumpReLU(threshold=0.5)
        >>> jump.setup(num_features=2)
        >>> jump(torch.tensor([[0.4, 0.6]]), torch.zeros(2)).detach()
        tensor([[0.0000, 0.6000]])
    """

    log_threshold: nn.Parameter

    def __init__(
        self,
        weight: float = 0.05,
        threshold: float = 0.001,
        bandwidth: float = 0.001,
        warmup: float = 0.05,
    ) -> None:
        super().__init__(weight, warmup)
        check_positive(threshold=threshold, bandwidth=bandwidth)
        self.initial_threshold = threshold
        self.bandwidth = bandwidth

    def setup(self, num_features: int) -> None:
        """Allocate the thresholds."""
        start = math.log(self.initial_threshold)
        self.log_threshold = nn.Parameter(torch.full((num_features,), start))

    @property
    def threshold(self) -> Tensor:
        """Thresholds (F,), positive and finite: the gradient of an infinite one would be NaN."""
        return self.log_threshold.clamp(max=_LARGEST_LOG).exp()

    def forward(self, pre_acts: Tensor, bias: Tensor) -> Tensor:
        """Return the pre-activations above their thresholds."""
        return _Jump.apply(pre_acts, self.threshold.to(pre_acts.dtype), self.bandwidth)

    def penalties(
        self, sae: Dictionary, x: Tensor, pre_acts: Tensor, code: Tensor
    ) -> dict[str, Tensor]:
        """Return the number of active features."""
        threshold = self.threshold.to(pre_acts.dtype)
        return {"sparsity": _Step.apply(pre_acts, threshold, self.bandwidth).sum(1)}

    def as_threshold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights as they are, and the learned thresholds."""
        return weight, bias, self.threshold.to(bias.dtype)


class GatedReLU(Activation):
    """One affine map decides which features are active, another, by its size, how much.

    Both share the encoder's directions: the gate is ``x @ W + gate_bias`` and the magnitude
    ``exp(log_gain) * (x @ W) + bias``. The penalty is on the gate alone, so that it does not shrink
    the code, and a reconstruction from the gate keeps it meaningful; the decoder does not learn
    from that.

    Paper: Rajamanoharan et al., *Improving Dictionary Learning with Gated Sparse Autoencoders*,
    2024, arXiv:2404.16014.

    Args:
        weight: Weight λ of the sum of the positive gates.
        warmup: Share of the run over which the weight grows from 0.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.sae.activations import GatedReLU
        >>> gated = GatedReLU()
        >>> gated.setup(num_features=2)
        >>> gated(torch.tensor([[-0.5, 0.6]]), torch.zeros(2)).detach()
        tensor([[0.0000, 0.6000]])
    """

    log_gain: nn.Parameter
    gate_bias: nn.Parameter

    def __init__(self, weight: float = 0.5, warmup: float = 0.05) -> None:
        super().__init__(weight, warmup)

    def setup(self, num_features: int) -> None:
        """Allocate gains and the gate's bias."""
        self.log_gain = nn.Parameter(torch.zeros(num_features))
        self.gate_bias = nn.Parameter(torch.zeros(num_features))

    def _gate(self, pre_acts: Tensor, bias: Tensor) -> Tensor:
        return pre_acts - bias + self.gate_bias.to(pre_acts.dtype)

    def forward(self, pre_acts: Tensor, bias: Tensor) -> Tensor:
        """Return the magnitudes where the gate is open."""
        gain = self.log_gain.exp().to(pre_acts.dtype)
        magnitude = gain * (pre_acts - bias) + bias
        return torch.where(self._gate(pre_acts, bias) > 0, magnitude.relu(), 0.0)

    def penalties(
        self, sae: Dictionary, x: Tensor, pre_acts: Tensor, code: Tensor
    ) -> dict[str, Tensor]:
        """Return the sum of the positive gates, and the error of the reconstruction from them."""
        gate = self._gate(pre_acts, sae.b_enc.to(pre_acts.dtype)).relu()
        decoder, bias = sae.W_dec.detach(), sae.b_dec.detach()
        rebuilt = gate @ decoder.to(gate.dtype) + bias.to(gate.dtype)
        return {"sparsity": gate.sum(1), "gate": (x - rebuilt).square().sum(1)}

    def as_threshold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the magnitude's map; the gate opens where it exceeds a threshold."""
        gain = self.log_gain.exp().to(bias.dtype)
        threshold = bias - gain * self.gate_bias.to(bias.dtype)
        return gain[:, None] * weight, bias, threshold.clamp(min=0)


class _Jump(torch.autograd.Function):
    """The function ``z * 1[z > θ]``, with an estimate of its gradient by θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        near = _kernel(z, threshold, ctx.bandwidth)
        # in this order, as a large threshold over a small bandwidth would not be finite
        of_threshold = -threshold * ((near * grad).sum(0) / ctx.bandwidth)
        return torch.where(z > threshold, grad, 0.0), of_threshold, None


class _Step(torch.autograd.Function):
    """The function ``1[z > θ]``, with an estimate of its gradient by θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        near = _kernel(z, threshold, ctx.bandwidth)
        return None, -(1 / ctx.bandwidth) * (near * grad).sum(0), None


def _kernel(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (((z - threshold) / bandwidth).abs() < 0.5).to(z.dtype)
