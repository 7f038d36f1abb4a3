"""The reconstruction error of every layer of an auto-encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from framework.utilities.precision import at_least_float32


def layerwise_reconstruction_error(
    targets: Sequence[Tensor], decoded: Sequence[Tensor], hidden_weight: float = 1.0
) -> Tensor:
    r"""Return each sample's mean squared error of the input and, weighted, of the hidden layers.

    .. math:: \operatorname{mean}(x - \hat x)^2
              + h \sum_{l \ge 1} \operatorname{mean}(z_l - \hat z_l)^2

    with means over the elements of a layer, so that layers of every size count alike.

    Paper: the reconstruction loss of DEPICT, ICCV 2017, arXiv:1704.06327, where h = 1; the released
    code has 0.1.

    Args:
        targets: Input and hidden layers x, z_1, ..., each (B, ...).
        decoded: Reconstructions of the targets, of the same shapes.
        hidden_weight: Weight h of the hidden layers.

    Returns:
        (B,).

    Raises:
        ValueError: numbers of layers or shapes differ.

    Example:
        >>> import torch
        >>> from framework.clustering.reconstruction import layerwise_reconstruction_error
        >>> x, z = torch.tensor([[1.0, -1.0, 0.5, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> x_hat, z_hat = torch.tensor([[0.8, -0.7, 0.5, 0.2]]), torch.tensor([[1.0, 1.0]])
        >>> layerwise_reconstruction_error([x, z], [x_hat, z_hat], hidden_weight=0.1)
        tensor([0.1425])
    """
    shapes = [[tuple(layer.shape) for layer in layers] for layers in (targets, decoded)]
    if not targets or shapes[0] != shapes[1]:
        raise ValueError(f"Layers of shapes {shapes[0]} were reconstructed as {shapes[1]}.")
    errors = [
        (at_least_float32(target) - at_least_float32(output)).square().flatten(1).mean(1)
        for target, output in zip(targets, decoded, strict=True)
    ]
    return sum((hidden_weight * error for error in errors[1:]), start=errors[0])
