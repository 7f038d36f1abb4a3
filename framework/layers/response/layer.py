"""What all response layers share: their parameters, gates and conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.names import GATES, RESPONSE
from framework.utilities.precision import without_half


class ResponseLayer(nn.Module):
    """Base of layers whose parameters are affine functions of hyperparameters.

    A parameter ``p`` of the ordinary layer becomes ``p + gate * p_response`` with the gate
    ``p_gate @ h``, one number per output. ``p`` keeps its name, so that the state dict of the
    ordinary layer loads: what it lacks keeps its values. Gates stay in float32 at least.

    Class attributes:
        ordinary: Class of the layer without hyperparameters.
        suffix: End of the name of a gate, which says along which axis of a parameter gates lie.
    """

    ordinary: ClassVar[type[nn.Module]]
    suffix: ClassVar[str] = "_gate"
    conditioning: Conditioning
    place: str = ""

    @property
    def axis(self) -> int:
        """Axis of a parameter along which gates lie."""
        return GATES[self.suffix]

    @staticmethod
    def check(layer: nn.Module, name: str) -> None:
        """Raise ``ValueError`` if an ordinary layer has settings that cannot be kept."""

    def gated(self) -> list[str]:
        """Return the names of the parameters that respond."""
        return [name for name in ("weight", "bias") if self._parameters.get(name) is not None]

    def bound(self) -> float:
        """Return the largest entry of a new response: 1 / sqrt(fan-in)."""
        return max(1, self.get_parameter("weight")[0].numel()) ** -0.5

    def start_response(
        self, conditioning: Conditioning, gate_scale: float = 0.01, place: str = ""
    ) -> None:
        """Add the parameters of the response.

        Args:
            conditioning: Holder of the hyperparameters.
            gate_scale: Standard deviation of the gates' parameters; those of a frozen parameter
                are 0.
            place: Name of the layer in its network, for messages.
        """
        self.conditioning = conditioning
        self.place = place
        bound = self.bound()
        for name in self.gated():
            base = self.get_parameter(name)
            response = torch.empty_like(base, requires_grad=False).uniform_(-bound, bound)
            shape = base.shape[self.axis], conditioning.num_hyperparameters
            dtype = torch.promote_types(base.dtype, torch.float32)
            gate = torch.zeros(shape, dtype=dtype, device=base.device)
            if base.requires_grad:
                gate.normal_().mul_(gate_scale)
            for suffix, value in ((RESPONSE, response), (self.suffix, gate)):
                self.register_parameter(name + suffix, nn.Parameter(value, base.requires_grad))

    def seen(self, rows: int | None = None) -> Tensor:
        """Return the hyperparameters (n,) or (rows, n) of the current call."""
        kind = type(self).__name__
        name = f"{kind} {self.place!r}" if self.place else kind
        return self.conditioning.of(rows, name, self.training)

    def response(self, name: str) -> nn.Parameter:
        """Return the response of a parameter."""
        return self.get_parameter(name + RESPONSE)

    def gate(self, name: str, h: Tensor) -> Tensor:
        """Return the gates (out,) or (B, out) of a parameter."""
        return gate_values(self.get_parameter(name + self.suffix), h)

    def effective(self, name: str, h: Tensor) -> Tensor:
        """Return a parameter at the hyperparameters ``h`` (n,), as the layer sees them."""
        base, response = self.get_parameter(name), self.response(name)
        return gated_sum(base, response, self.gate(name, h), self.axis)

    def squared_norm(self) -> Tensor:
        """Return the sum of squares of the weights' entries at the current hyperparameters.

        Returns:
            (1,), or (B,) for hyperparameters of B samples, of which no weights are built.
        """
        h = self.seen()
        norms = []
        for name in filter(lambda name: name.startswith("weight"), self.gated()):
            base, response = self.get_parameter(name), self.response(name)
            axes = [axis for axis in range(base.dim()) if axis != self.axis]
            g = self.gate(name, h)
            w0, w1 = base.to(g.dtype), response.to(g.dtype)
            linear, square = (w0 * w1).sum(axes), w1.square().sum(axes)
            norms.append(w0.square().sum() + (g * (2 * linear + g * square)).sum(-1))
        return torch.stack(norms).sum(0).reshape(-1)

    @torch.no_grad()
    def fold(self, h: Tensor) -> None:
        """Become an ordinary layer at ``h`` (n,), as the layer sees it, with new parameters."""
        for name in self.gated():
            parameter = nn.Parameter(
                self.effective(name, h), self.get_parameter(name).requires_grad
            )
            delattr(self, name + RESPONSE)
            delattr(self, name + self.suffix)
            setattr(self, name, parameter)
        del self.conditioning
        self.__dict__.pop("place", None)
        self.__class__ = self.ordinary  # type: ignore[assignment]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        gates = [self._parameters[name + self.suffix] for name in self.gated()]
        kept = {id(t) for gate in gates if gate is not None for t in (gate, gate.grad)}
        careful = without_half(fn)
        return super()._apply(lambda t: careful(t) if id(t) in kept else fn(t), recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        names = [f"{name}{end}" for name in self.gated() for end in (RESPONSE, self.suffix)]
        if not any(prefix + name in state_dict for name in names):
            for name in names:
                state_dict[prefix + name] = self.get_parameter(name).detach()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def response_layers(module: nn.Module) -> dict[str, ResponseLayer]:
    """Return the response layers of a network by their dotted names, each once."""
    return {n: layer for n, layer in module.named_modules() if isinstance(layer, ResponseLayer)}


def has_response_layers(module: nn.Module) -> bool:
    """Return whether a network has a response layer."""
    return any(isinstance(layer, ResponseLayer) for layer in module.modules())


def gate_values(gate: Tensor, h: Tensor) -> Tensor:
    """Return the gates of hyperparameters, in the precision of ``gate`` also under autocast.

    Args:
        gate: (out, n) float.
        h: (n,) or (B, n) float.

    Returns:
        (out,) or (B, out).
    """
    device = gate.device.type
    if not torch.is_autocast_enabled(device):
        return F.linear(h.to(gate), gate)
    with torch.autocast(device, enabled=False):
        return F.linear(h.to(gate), gate)


def gated_sum(base: Tensor, response: Tensor, gate: Tensor, axis: int) -> Tensor:
    """Return ``base + gate * response`` with one gate for each place along ``axis``."""
    shape = [1] * base.dim()
    shape[axis] = -1
    return torch.addcmul(base, gate.to(base.dtype).view(shape), response)
