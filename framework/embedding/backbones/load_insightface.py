"""Weights of insightface's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from framework.embedding.backbones.iresnet import IResNet
from framework.utilities.tensor_archive import load_archive

TRAINING_KEY = "state_dict_backbone"
"""Entry of the weights in a checkpoint of a training run of ``arcface_torch``."""


def load_insightface(backbone: IResNet, path: str | Path) -> None:
    """Give a network the weights that insightface's ``arcface_torch`` saved, in place.

    Nothing in the file is unpickled. Those weights were trained on RGB images of 112 x 112 pixels
    that are scaled to [-1, 1]; their license forbids commercial use.

    Args:
        backbone: Network of the same layers, widths, embedding and size of images.
        path: File ``backbone.pth`` or ``model.pt``, or a checkpoint of a training run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or its weights are those of another network.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from framework.embedding.backbones import IResNet, load_insightface
        >>> network = IResNet((1, 1, 1, 1), (4, 4, 4, 4), 8, (3, 16, 16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(network.state_dict(), f"{folder}/backbone.pth")
        ...     load_insightface(network, f"{folder}/backbone.pth")
    """
    weights = _weights(load_archive(path), path)
    own = {name: value for name, value in backbone.state_dict().items() if _is_weight(value)}
    missing, further = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or further:
        what = f"lacks {missing[0]!r}" if missing else f"has a further {further[0]!r}"
        raise ValueError(
            f"{path} holds the weights of another network: it {what}; compare layers and block."
        )
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise ValueError(
                f"{path} holds the weights of another network: {name!r} has the shape "
                f"{tuple(weights[name].shape)}, not {tuple(value.shape)}."
            )
    backbone.load_state_dict(weights, strict=False)


def _weights(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their names."""
    if isinstance(content, dict) and TRAINING_KEY in content:
        content = content[TRAINING_KEY]
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold tensors by name.")
    # a checkpoint of ours has the count of the dropout layer beside them
    weights = {name: value for name, value in content.items() if _is_weight(value)}
    if not weights or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{path} must hold tensors by name.")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor)
