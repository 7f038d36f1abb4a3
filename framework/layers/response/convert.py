"""Networks of ordinary layers become networks of response layers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.conv import ResponseConv1d, ResponseConv2d, ResponseConv3d
from framework.layers.response.embedding import ResponseEmbedding
from framework.layers.response.fast_path import leave_fast_path
from framework.layers.response.layer import ResponseLayer
from framework.layers.response.linear import ResponseLinear
from framework.layers.response.lstm import ResponseLSTM
from framework.utilities.checks import check_at_least
from framework.utilities.nearest_names import nearest

KINDS: dict[type[nn.Module], type[ResponseLayer]] = {
    kind.ordinary: kind
    for kind in (
        ResponseLinear,
        ResponseConv1d,
        ResponseConv2d,
        ResponseConv3d,
        ResponseEmbedding,
        ResponseLSTM,
    )
}


def convert_to_response(
    module: nn.Module,
    num_hyperparameters: int,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    gate_scale: float = 0.01,
    centered: bool = False,
) -> Conditioning:
    """Turn layers of ``module`` into response layers, in place, and return what they read.

    Every layer stays the same object, with its parameters, hooks and names; layers of other
    classes, subclasses too, stay as they are, and so do those whose weight is computed from other
    parameters, as by spectral norm. What is tied stays tied: a weight that a converted
    and an ordinary layer share is the base weight in the converted one. The new parameters of a
    frozen layer are frozen, with gates of 0. Code that reads the ``weight`` of a layer rather than
    calling it, such as ``nn.MultiheadAttention`` and a tied decoder, sees the base weight.

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088; ``gate_scale=0`` and
    ``centered=True``, Bae and Grosse, Delta-STN, NeurIPS 2020, arXiv:2010.13514.

    Args:
        module: Network, or a single layer.
        num_hyperparameters: Number n of hyperparameters.
        include: Patterns of the dotted names of layers to convert, as in a shell.
        exclude: Patterns of the names of layers to leave as they are.
        gate_scale: Standard deviation of the gates' parameters at the start.
        centered: Whether layers see the distance of h from its current value.

    Returns:
        The ``Conditioning`` of the new layers.

    Raises:
        ValueError: a pattern of ``include`` matches no layer that can be converted, or no layer is
            left; nothing has been converted.

    Example:
        >>> import torch
        >>> from framework.layers import convert_to_response
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
        >>> conditioning = convert_to_response(network, 1, exclude=["1"])
        >>> with conditioning.at(torch.tensor([[-1.0], [2.0]])):
        ...     network(torch.ones(2, 3)).shape
        torch.Size([2, 2])
        >>> type(network[0]).__name__, type(network[1]).__name__
        ('ResponseLinear', 'Linear')
    """
    check_at_least(0, gate_scale=gate_scale)
    conditioning = Conditioning(num_hyperparameters, centered=centered)
    chosen = _chosen(module, include, exclude)
    for layer, name in chosen.items():
        KINDS[type(layer)].check(layer, name)
    for layer, name in chosen.items():
        layer.__class__ = KINDS[type(layer)]
        assert isinstance(layer, ResponseLayer)
        layer.start_response(conditioning, gate_scale, name)
    leave_fast_path(module)
    return conditioning


def _chosen(
    module: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> dict[nn.Module, str]:
    """Return the first name of every layer to convert."""
    # a layer that is used twice has two names
    names: dict[nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if type(layer) in KINDS and _owns_weights(layer):
            names.setdefault(layer, []).append(name)
    known = [name for several in names.values() for name in several]
    kinds = ", ".join(kind.__name__ for kind in KINDS)
    if not known:
        raise ValueError(
            f"{type(module).__name__} has no layer that can respond to hyperparameters ({kinds}; "
            "subclasses stay as they are)."
        )
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(
                f"No layer that can respond to hyperparameters ({kinds}) is named {pattern!r}"
                f"{nearest(pattern, known)}."
            )
    chosen = {
        layer: several[0]
        for layer, several in names.items()
        if _matches(several, include) and not _matches(several, exclude)
    }
    if not chosen:
        raise ValueError(
            f"No layer that can respond to hyperparameters ({kinds}) is left: the names must match "
            f"one of {list(include)} and none of {list(exclude)}, and the network has "
            f"{', '.join(map(repr, known))}."
        )
    return chosen


def _owns_weights(layer: nn.Module) -> bool:
    """Return whether a layer's weights are parameters, which no hook computes from others."""
    names = getattr(layer, "_flat_weights_names", ["weight"])
    return all(isinstance(layer._parameters.get(name), nn.Parameter) for name in names)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
