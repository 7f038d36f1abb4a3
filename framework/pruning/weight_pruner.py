"""Removal of weights of a network by M-FAC or by magnitude, with masks that keep them at 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from framework.optim.empirical_fisher import EmpiricalFisherInverse
from framework.pruning.obs import remove_weights
from framework.utilities.checks import check_at_least, check_interval, check_one_of, check_positive

Gradients = Callable[[], Iterable[Sequence[Tensor]]]
"""Function that yields, batch after batch, a gradient for each weight."""


class WeightPruner:
    """Removes weights of a network, of all tensors together, and keeps them at 0.

    ``mfac`` takes Optimal Brain Surgeon with the block-diagonal empirical Fisher matrix of m
    gradients: weights of least saliency leave, the others make up for them. From one sparsity to
    the next it does so in several rounds, each with new gradients and the same share of the weights
    that are left. ``magnitude`` removes the smallest weights. Call ``mask_gradients`` before and
    ``apply_masks`` after each optimizer step, as momentum moves a weight without gradient, too.

    Paper: Frantar, Kurtic and Alistarh, M-FAC, NeurIPS 2021, arXiv:2107.03356. Its code stops
    collecting one gradient short of m; here there are m.

    Args:
        weights: Tensors to be pruned, by name.
        method: ``mfac`` or ``magnitude``.
        ngrads: Number m of gradients of a round.
        block_size: Size of the blocks of the matrix, consecutive weights that are left; None for
            one block.
        damping: Damping of the matrix, above 0.
        recomputations: Number of rounds from one sparsity to the next.

    Raises:
        ValueError: There is no weight, or an argument is out of range.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> pruner = WeightPruner({"weight": layer.weight}, ngrads=8, recomputations=2)
        >>> def gradients():
        ...     for _ in range(8):
        ...         loss = layer(torch.randn(16, 4)).square().mean()
        ...         yield torch.autograd.grad(loss, [layer.weight])
        >>> pruner.prune_to(0.75, gradients)
        >>> int((layer.weight == 0).sum())
        6
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        method: Literal["mfac", "magnitude"] = "mfac",
        ngrads: int = 64,
        block_size: int | None = 128,
        damping: float = 1e-5,
        recomputations: int = 16,
    ) -> None:
        check_pruning(method, ngrads, block_size, damping, recomputations)
        if not sum(w.numel() for w in weights.values()):
            raise ValueError("There is no weight to prune.")
        self.weights = dict(weights)
        self.method = method
        self.ngrads = ngrads
        self.block_size = block_size
        self.damping = damping
        self.recomputations = recomputations
        self.masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}
        """Where weights are left, by name."""

    @property
    def size(self) -> int:
        """Number of weights, removed ones included."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def removed(self) -> int:
        """Number of weights that were removed."""
        return self.size - sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Share of weights that were removed."""
        return self.removed / self.size

    @torch.no_grad()
    def prune_to(self, sparsity: float, gradients: Gradients | None = None) -> None:
        """Remove weights until a share of all is removed; those that were stay so.

        Args:
            sparsity: Share in [0, 1); nothing happens where it is reached.
            gradients: Function that yields the gradients of small batches at the present weights,
                in evaluation mode, the same on all ranks; called once a round, and needed by
                ``mfac``.

        Raises:
            ValueError: There are fewer than m gradients that are finite.
        """
        check_interval("[0, 1)", sparsity=sparsity)
        start, rounds = self.sparsity, 1 if self.method == "magnitude" else self.recomputations
        if sparsity <= start:
            return
        for number in range(1, rounds + 1):
            density = (1 - start) * ((1 - sparsity) / (1 - start)) ** (number / rounds)
            count = round((1 - density) * self.size) - self.removed
            if count > 0:
                self._remove(count, gradients)

    def _remove(self, count: int, gradients: Gradients | None) -> None:
        left = torch.cat([mask.flatten() for mask in self.masks.values()])
        weights = torch.cat([w.detach().flatten().to(left.device) for w in self.weights.values()])
        present = weights[left]
        if self.method == "magnitude":
            smallest = present.abs().sort(stable=True).indices[:count]
            leaving = torch.zeros_like(present, dtype=torch.bool).index_fill_(0, smallest, True)
        else:
            if gradients is None:
                raise ValueError("The method mfac needs gradients.")
            present, leaving = remove_weights(present, self._fisher(left, gradients), count)
        weights[left] = present
        left[left.clone()] = ~leaving
        weights.masked_fill_(~left, 0.0)
        sizes = [w.numel() for w in self.weights.values()]
        for name, values, mask in zip(
            self.weights, weights.split(sizes), left.split(sizes), strict=True
        ):
            weight = self.weights[name]
            weight.copy_(values.view(weight.shape))
            self.masks[name].copy_(mask.view(weight.shape))

    def _fisher(self, left: Tensor, gradients: Gradients) -> EmpiricalFisherInverse:
        """Return the inverse Fisher matrix of the weights that are left."""
        fisher = EmpiricalFisherInverse(
            self.ngrads, int(left.sum()), self.damping, self.block_size, device=left.device
        )
        wrong = 0
        with torch.enable_grad():
            for parts in gradients():
                flat = torch.cat([part.detach().flatten().to(left.device) for part in parts])
                wrong += not fisher.push(flat[left])
                if fisher.window.pushed == self.ngrads:
                    return fisher
                # the function may yield for ever
                if wrong == self.ngrads:
                    break
        others = f" and {wrong} that are not" if wrong else ""
        raise ValueError(
            f"The method mfac needs {self.ngrads} finite gradients, got {fisher.window.pushed}"
            f"{others}: lower ngrads, or give more batches."
        )

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of removed weights to 0, so that they count in no norm."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(~self.masks[name], 0.0)

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set removed weights to 0."""
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.masks[name], 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks, by name."""
        return dict(self.masks)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take masks over.

        Raises:
            ValueError: They are of other weights.
        """
        given = {n: tuple(getattr(mask, "shape", ())) for n, mask in state_dict.items()}
        own = {n: tuple(mask.shape) for n, mask in self.masks.items()}
        if given != own:
            raise ValueError(f"The masks are of {given}, and the weights that are pruned {own}.")
        for name, mask in self.masks.items():
            mask.copy_(state_dict[name])


def check_pruning(
    method: str, ngrads: int, block_size: int | None, damping: float, recomputations: int
) -> None:
    """Raise ``ValueError`` for arguments of ``WeightPruner`` that are out of range."""
    check_one_of(("mfac", "magnitude"), method=method)
    check_at_least(1, ngrads=ngrads, block_size=block_size, recomputations=recomputations)
    check_positive(damping=damping)
