"""Initialization of a network from the checkpoint of a run that trained it alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from framework.layers.nested_dropout import NestedDropout
from framework.objectives.errors import IncompatibleError
from framework.runs.checkpoint_io import AtomicCheckpointIO
from modules.nested.network import NestedNetwork

PREFIX = "network."


def load_stage_one(network: NestedNetwork, path: str) -> None:
    """Copy the weights and k* of a ``NestedClassifier``'s checkpoint into ``network``.

    Nothing in the file is executed.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a whole checkpoint, or holds more than tensors and plain
            containers.
        IncompatibleError: The checkpoint is of another network.
    """
    state = AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")["state_dict"]
    given = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    expected = network.state_dict()
    for name in expected | given:
        here, there = _shape(expected, name), _shape(given, name)
        if here != there:
            raise IncompatibleError(
                f"The stage-1 checkpoint {path} is of another network than the config describes: "
                f"{name} is {there} there and {here} here."
            )
    network.load_state_dict(given)
    if isinstance(network.dropout, NestedDropout):
        # runs of different lengths must not make the two networks draw different prefixes
        network.dropout.count = 0


def _shape(state: dict[str, Any], name: str) -> str:
    if name not in state:
        return "missing"
    value = state[name]
    return str(list(value.shape)) if isinstance(value, Tensor) else "present"
