"""Which parameters are trained, which must stay the same during a run."""

from __future__ import annotations

from torch import nn


class TrainableParameters:
    """Remembers which parameters of a module require gradients.

    DDP diverges in silence where that changes after the start. A parameter is known by itself and
    not by its name, which pruning changes.

    Example:
        >>> module = nn.Linear(2, 2)
        >>> trainable = TrainableParameters(module)
        >>> trainable.check(module)
        >>> module.weight.requires_grad_(False).requires_grad
        False
        >>> trainable.check(module)
        Traceback (most recent call last):
        RuntimeError: `requires_grad` of 'weight' changed after the start; DDP would diverge in \
silence. Leave idle parameters trainable and skip their group.
    """

    def __init__(self, module: nn.Module) -> None:
        self._requires = {id(p): p.requires_grad for p in module.parameters()}

    def check(self, module: nn.Module) -> None:
        """Compare with the start.

        Raises:
            RuntimeError: A parameter became trainable, or is so no longer.
        """
        for name, parameter in module.named_parameters():
            if (
                self._requires.get(id(parameter), parameter.requires_grad)
                != parameter.requires_grad
            ):
                raise RuntimeError(
                    f"`requires_grad` of {name!r} changed after the start; DDP would diverge in "
                    "silence. Leave idle parameters trainable and skip their group."
                )
