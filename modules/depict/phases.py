"""The phases of a run: their lengths, patience, and the best weights of the present one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Phase:
    """One phase of a run: it ends after a number of epochs, or when its score no longer improves.

    Args:
        name: Name of the phase.
        max_epochs: Most epochs of the phase.
        patience: Epochs without a lower score after which it ends; None for no such rule.
        first_epoch: Epoch of the run in which it begins.
    """

    def __init__(
        self, name: str, max_epochs: int, patience: int | None = None, first_epoch: int = 0
    ) -> None:
        self.name = name
        self.max_epochs = max_epochs
        self.patience = patience
        self.first_epoch = first_epoch
        self.best_score = math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.epochs_without_gain = 0
        self.converged = False

    def report(self, score: float, network: nn.Module) -> None:
        """Note an epoch's score, the lower the better, and keep the weights of the best."""
        if score < self.best_score:
            self.best_score = score
            self.best_weights = {n: p.detach().clone() for n, p in network.named_parameters()}
            self.epochs_without_gain = 0
        else:
            self.epochs_without_gain += 1
            self.converged |= self.patience is not None and (
                self.epochs_without_gain >= self.patience
            )

    def is_over(self, epoch: int) -> bool:
        """Return whether the run's ``epoch`` no longer belongs to this phase."""
        return self.converged or epoch - self.first_epoch >= self.max_epochs

    def restore_best(self, network: nn.Module) -> None:
        """Put the best weights back, where a score was reported."""
        if self.best_weights:
            load_parameters(network, self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, in tensors and plain containers."""
        names = ("name", "first_epoch", "best_score", "epochs_without_gain", "converged")
        state = {name: getattr(self, name) for name in names}
        return state | {"best_weights": {n: p.cpu() for n, p in self.best_weights.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        for name, value in state.items():
            setattr(self, name, value)


class PhasePlan:
    """Lengths of the phases ``autoencoder``, ``head``, ``baseline`` and ``joint``.

    Args:
        epochs: Most epochs of ``autoencoder``, ``head`` and ``joint``; ``baseline`` takes as many
            as ``joint``.
        patience: Patience of ``autoencoder`` and ``head``.

    Raises:
        ValueError: Other than three lengths, or two patiences, or one out of its range.
    """

    def __init__(self, epochs: Sequence[int], patience: Sequence[int]) -> None:
        if len(epochs) != 3 or min(epochs) < 0 or epochs[2] < 1:
            raise ValueError(
                "phase_epochs must be three numbers, the last of them at least 1, got "
                f"{list(epochs)}."
            )
        if len(patience) != 2 or min(patience) < 1:
            raise ValueError(f"patience must be two numbers of at least 1, got {list(patience)}.")
        self.epochs = tuple(epochs)
        self.patience = tuple(patience)

    def begin(self, name: str, epoch: int = 0) -> Phase:
        """Return a phase that begins in an epoch of the run."""
        place = {"autoencoder": 0, "head": 1}.get(name, 2)
        patience = self.patience[place] if place < 2 else None
        return Phase(name, self.epochs[place], patience, first_epoch=epoch)


@torch.no_grad()
def load_parameters(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights by name into the parameters of ``network``, which stay the same objects."""
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])
