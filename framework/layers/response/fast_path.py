"""Keeps torch's transformer encoders from reading weights without calling their layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from framework.layers.response.layer import has_response_layers, response_layers


def leave_fast_path(module: nn.Module) -> None:
    """Let the encoder layers of ``module`` call their response layers in evaluation too.

    Without gradients torch's encoder layer hands its weights to one kernel, unless a layer in it
    has a hook. Folding takes the hook away again.
    """
    for parent in module.modules():
        if isinstance(parent, nn.TransformerEncoder) and has_response_layers(parent):
            parent.use_nested_tensor = False
        elif isinstance(parent, nn.TransformerEncoderLayer):
            for layer in response_layers(parent).values():
                if not _hooks(layer):
                    layer.register_forward_pre_hook(_no_change)


def return_to_fast_path(layer: nn.Module) -> None:
    """Remove what ``leave_fast_path`` added to a layer."""
    for key in _hooks(layer):
        del layer._forward_pre_hooks[key]


def _hooks(layer: nn.Module) -> list[int]:
    return [key for key, hook in layer._forward_pre_hooks.items() if hook is _no_change]


def _no_change(layer: nn.Module, inputs: Any) -> None:
    """Return None, so that the inputs stay."""
