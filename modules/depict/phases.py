"""Where a run of several phases stands: epochs, patience and the best weights of a phase."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Phase:
    """One phase of a run: it ends after a number of epochs, or when its score no longer improves.

    Args:
        name: of the phase.
        max_epochs: most epochs.
        patience: epochs without a lower score after which it ends; None for no such rule.
        first_epoch: the run's epoch in which it begins.
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


@torch.no_grad()
def load_parameters(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights by name into the parameters of ``network``, which stay the same objects."""
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])
