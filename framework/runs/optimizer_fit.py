"""Whether the state of an optimizer in a checkpoint is that of this run's optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

ADVICE = "go on with the model and the optimizer of the checkpoint's run, or begin a new run"


def refuse_state_of_others(optimizers: Sequence[Optimizer]) -> None:
    """Let optimizers refuse the next state that they load, where it is that of another one.

    torch puts in the saved settings of a group whatever they are, so that the first step would end
    in a ``KeyError``, or with settings of another optimizer.

    Args:
        optimizers: Optimizers of a fit, before a checkpoint is restored.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> state = torch.optim.Adam([weight]).state_dict()
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> refuse_state_of_others([optimizer])
        >>> optimizer.load_state_dict(state)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: The checkpoint's 'optimizer_states' are not those of SGD: they lack ...
    """
    for optimizer in optimizers:
        _refuse(optimizer)


def _refuse(optimizer: Optimizer) -> None:
    name = type(optimizer).__name__
    settings = [set(group) for group in optimizer.param_groups]

    def before(optimizer: Optimizer, state: dict[str, Any]) -> None:
        handles[0].remove()
        theirs, ours = _sizes(state["param_groups"]), _sizes(optimizer.param_groups)
        if theirs != ours:
            handles[1].remove()
            raise ValueError(
                f"The checkpoint's 'optimizer_states' have groups of {theirs} parameters, and this "
                f"run's {name} has groups of {ours}: {ADVICE}."
            )

    def after(optimizer: Optimizer) -> None:
        handles[1].remove()
        # what another version of torch lacks was filled in
        missing = [
            sorted(known - group.keys())
            for known, group in zip(settings, optimizer.param_groups, strict=True)
        ]
        if any(missing):
            raise ValueError(
                f"The checkpoint's 'optimizer_states' are not those of {name}: they lack "
                f"{', '.join(map(repr, next(filter(None, missing))))}; {ADVICE}."
            )

    handles = [
        optimizer.register_load_state_dict_pre_hook(before),
        optimizer.register_load_state_dict_post_hook(after),
    ]


def _sizes(groups: Any) -> list[int]:
    return [len(group["params"]) for group in groups]
