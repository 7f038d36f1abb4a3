"""Checkpoints of self-tuning networks, which ordinary networks take, and the reverse."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from framework.layers.response.convert import convert_to_response
from framework.layers.response.fold import fold_response, fold_state_dict
from framework.layers.response.names import RESPONSE
from framework.self_tuning.self_tuner import SelfTuner
from framework.utilities.randomness import seeded

SPACE = "self_tuning"
"""Name of the hyperparameters among the parts of a module."""


def add_space(module: nn.Module, tuner: SelfTuner) -> None:
    """Make the hyperparameters of a module a part of it, so that a checkpoint alone says them.

    Args:
        module: Module of which the network of ``tuner`` is the whole.
        tuner: What tunes it.
    """
    centered = torch.tensor(tuner.conditioning.centered)
    tuner.space.register_buffer("centered", centered)
    module.add_module(SPACE, tuner.space)


def remove_space(module: nn.Module) -> None:
    """Make a module an ordinary one that a fit left as it was at an exception.

    Args:
        module: Module, with hyperparameters or without.
    """
    space = getattr(module, SPACE, None)
    if space is not None:
        fold_response(module, space.raw)
        delattr(module, SPACE)


def match_tuned_weights(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Give a checkpoint the weights that a module has a place for.

    An ordinary network gets those of the response to the hyperparameters of the checkpoint. A
    self-tuning one starts with its own hyperparameters where the checkpoint has none.

    Args:
        module: Module that is about to load the checkpoint.
        checkpoint: Checkpoint that was read, which is changed.
    """
    state, prefix = checkpoint.get("state_dict", {}), f"{SPACE}."
    raw, space = state.get(f"{prefix}raw"), getattr(module, SPACE, None)
    if raw is not None and space is None:
        _untie(module, state)
        center = raw if bool(state.get(f"{prefix}centered")) else None
        folded = fold_state_dict(state, raw, center)
        checkpoint["state_dict"] = {n: v for n, v in folded.items() if not n.startswith(prefix)}
    elif raw is None and space is not None:
        own = {f"{prefix}{name}": value for name, value in space.state_dict().items()}
        checkpoint["state_dict"] = {**state, **own}


def _untie(module: nn.Module, state: dict[str, Any]) -> None:
    """Give layers that respond in a state weights of their own: what was tied responds apart."""
    layers = {name.rpartition(".")[0] for name in state if name.endswith(RESPONSE)}
    known = {name for name, _ in module.named_modules()}
    if layers and layers <= known:
        with seeded("untie"):
            convert_to_response(module, 1, include=sorted(layers), gate_scale=0.0)
        fold_response(module, torch.zeros(1))
