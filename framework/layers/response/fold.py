"""Networks of response layers become ordinary networks at fixed hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from framework.layers.response.fast_path import return_to_fast_path
from framework.layers.response.layer import gate_values, gated_sum, response_layers
from framework.layers.response.names import GATES, RESPONSE

M = TypeVar("M", bound=nn.Module)


def fold_response(module: M, h: Tensor) -> M:
    """Turn the response layers of ``module`` into ordinary layers at ``h``, in place.

    The network then computes what it computed within ``conditioning.at(h)``, at the cost of the
    network before the conversion. Parameters are new, also those that were tied: a weight that a
    response layer shared with an ordinary one stays the base weight there.

    Args:
        module: Network, or a single layer.
        h: (n,) float, the hyperparameters.

    Returns:
        ``module``.

    Raises:
        ValueError: ``h`` has another shape; nothing has been folded.

    Example:
        >>> import torch
        >>> from framework.layers import convert_to_response, fold_response
        >>> layer = torch.nn.Linear(3, 2)
        >>> conditioning = convert_to_response(layer, 1)
        >>> fold_response(layer, torch.tensor([0.5]))
        Linear(in_features=3, out_features=2, bias=True)
    """
    layers = response_layers(module).values()
    for layer in layers:
        check_vector(h, layer.conditioning.num_hyperparameters)
    for layer in layers:
        layer.fold(layer.conditioning.seen(h))
        return_to_fast_path(layer)
    return module


@torch.no_grad()
def fold_state_dict(
    state: Mapping[str, Tensor], h: Tensor, center: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the state dict of the folded network, from that of one with response layers.

    Layers are recognized by the names of their parameters alone; other entries stay. A network
    that ties the weight of a converted layer to an ordinary one can not hold the result: convert
    it, load the original, and call ``fold_response``.

    Args:
        state: State dict of a network with response layers.
        h: (n,) float, the hyperparameters.
        center: Current hyperparameters (n,) of a centered network, which are subtracted.

    Returns:
        A new dict with the entries of ordinary layers.

    Raises:
        ValueError: ``h`` has another shape.

    Example:
        >>> import torch
        >>> from framework.layers import convert_to_response, fold_state_dict
        >>> layer = torch.nn.Linear(3, 2)
        >>> conditioning = convert_to_response(layer, 1)
        >>> list(fold_state_dict(layer.state_dict(), torch.tensor([0.5])))
        ['weight', 'bias']
    """
    seen = h if center is None else h - center
    folded = dict(state)
    for name, base in state.items():
        response = state.get(name + RESPONSE)
        for suffix, axis in GATES.items():
            gate = state.get(name + suffix)
            if gate is None or response is None:
                continue
            check_vector(seen, gate.shape[1])
            folded[name] = gated_sum(base, response, gate_values(gate, seen), axis)
            del folded[name + RESPONSE], folded[name + suffix]
    return folded


def check_vector(h: Tensor, size: int) -> None:
    """Raise ``ValueError`` unless ``h`` has shape (size,)."""
    if h.shape != (size,):
        raise ValueError(
            f"A network is folded at hyperparameters of shape ({size},), got {tuple(h.shape)}."
        )
