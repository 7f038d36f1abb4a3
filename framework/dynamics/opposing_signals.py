"""Opposing signals: the samples whose losses a step moves most, up and down."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least


def opposing_groups(before: Tensor, after: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the places of the k samples whose loss rose most, and of the k that fell most.

    The first of each group changed most; of equal changes the sample of the lower place comes
    first. A change that is NaN counts as none. At most half of the samples are in a group.

    Args:
        before: (N,) losses of the samples before a step.
        after: (N,) their losses after it.
        k: Size of a group.

    Returns:
        Two tensors (min(k, N // 2),) int64, which share no sample.

    Raises:
        ValueError: ``k`` is below 1, or there are not two samples with both losses.

    Example:
        >>> change = torch.tensor([0.02, -0.9, 1.3, -0.05, 0.7, -1.1])
        >>> opposing_groups(torch.zeros(6), change, k=2)
        (tensor([2, 4]), tensor([5, 1]))
    """
    check_at_least(1, k=k)
    if before.ndim != 1 or before.shape != after.shape or len(before) < 2:
        raise ValueError(
            "Losses before and after a step must be two tensors (N,) of at least two samples, got "
            f"{tuple(before.shape)} and {tuple(after.shape)}."
        )
    change = _change(before, after)
    rising = change.sort(descending=True, stable=True).indices
    falling = change.sort(stable=True).indices
    size = min(k, len(before) // 2)
    up = rising[:size]
    # where many changes are equal, both orders begin with the lowest places
    taken = torch.zeros(len(before), dtype=torch.bool, device=before.device).index_fill(0, up, True)
    return up, falling[~taken[falling]][:size]


def swapped_share(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return the share of the members of two groups that are in the other one a step later.

    Args:
        first: Places of the samples that went up and down in a step.
        second: Those of the step after it.

    Example:
        >>> up, down = torch.tensor([2, 4]), torch.tensor([5, 1])
        >>> swapped_share((up, down), (torch.tensor([1, 4]), torch.tensor([4, 2])))
        0.75
    """
    pairs = [(first[0], second[1]), (first[1], second[0])]
    swapped = sum(int(torch.isin(a, b).sum()) for a, b in pairs)
    return swapped / max(1, sum(len(a) for a, _ in pairs))


def signal_cosine(up: Tensor, down: Tensor, params: Iterable[Tensor]) -> float:
    """Return the cosine between the gradients of the summed losses of two groups.

    It is about -1 where a group can only gain what the other one loses, and NaN where a gradient
    is zero.

    Args:
        up: Scalar, or losses, of the samples that went up, with a graph.
        down: That of the samples that went down.
        params: Parameters that the gradients are taken of.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> signal_cosine((3 * w[0] - 1) ** 2, -2 * w[0], [w])
        -1.0
    """
    parameters = list(params)
    one, two = (
        torch.autograd.grad(x.sum(), parameters, retain_graph=True, materialize_grads=True)
        for x in (up, down)
    )
    return cosine_of(one, two)


def cosine_of(one: Iterable[Tensor], two: Iterable[Tensor]) -> float:
    """Return the cosine between two lists of tensors of the same shapes, NaN where one is zero."""
    pairs = [(a.double().flatten(), b.double().flatten()) for a, b in zip(one, two, strict=True)]
    products = torch.stack([torch.stack([a @ b, a @ a, b @ b]) for a, b in pairs])
    product, left, right = products.sum(0).tolist()
    return product / (left * right) ** 0.5 if left * right > 0 else float("nan")


@dataclass(frozen=True)
class SignalStep:
    """What one step did to the losses of the samples.

    Args:
        step: Number of the step.
        up: (k,) places of the samples whose loss rose most, that of the largest rise first.
        down: (k,) places of the samples whose loss fell most.
        loss: Mean loss of all samples after the step.
        change: Change of the mean loss of all samples.
        loss_up: Mean loss of the samples that went up, after the step.
        loss_down: Mean loss of the samples that went down, after the step.
        relative_up: Mean rise of the samples that went up, over their mean loss before the step.
        relative_down: Mean fall of the samples that went down, negative, over their mean loss.
        share: Share of both groups in the changes of all losses, without their signs; that of
            2 k samples of N which are like all others is 2 k / N.
        overlap: Share of the members that the step before had in the other group; NaN where that
            step was not seen.
    """

    step: int
    up: Tensor
    down: Tensor
    loss: float
    change: float
    loss_up: float
    loss_down: float
    relative_up: float
    relative_down: float
    share: float
    overlap: float

    @property
    def groups(self) -> tuple[Tensor, Tensor]:
        """Both groups."""
        return self.up, self.down

    @property
    def values(self) -> dict[str, float]:
        """The numbers by their names."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


class SignalTracker:
    """Follows the losses of a fixed set of samples, in whichever loop trains.

    Give it the losses of the same samples, in evaluation mode, after each of several consecutive
    steps. In full-batch training near the edge of stability, the samples that go up in a step are
    those that go down in the next one; they come in two groups, which share a strong feature and
    need opposite outputs. With mini-batches, samples of the batch itself go down for that reason
    alone. Batch norm removes much of the effect.

    Paper: Rosenfeld and Risteski, *Outliers with Opposing Signals Have an Outsized Effect on Neural
    Network Optimization*, ICLR 2024, arXiv:2311.04163. The groups are those of its definition, by
    the change of the loss, which favors samples of high loss: hence the relative changes. How many
    samples its figures take from the ends is not said; k = 20 is ours.

    Args:
        k: Size of a group.
        keep: Number of the latest losses of all samples that are kept, for pictures.

    Raises:
        ValueError: An argument is below 1.

    Example:
        >>> tracker = SignalTracker(k=1)
        >>> tracker.update(torch.tensor([1.0, 1.0, 1.0]))
        >>> tracker.update(torch.tensor([2.0, 1.0, 0.5])).up
        tensor([0])
        >>> tracker.update(torch.tensor([1.0, 1.0, 1.5])).overlap
        1.0
    """

    def __init__(self, k: int = 20, keep: int = 60) -> None:
        check_at_least(1, k=k, keep=keep)
        self.k = k
        self.latest: SignalStep | None = None
        """The latest step of which the losses before and after it are known."""
        self.spikes = 0
        """Steps so far in which the mean loss rose."""
        self.losses: deque[Tensor] = deque(maxlen=keep)
        self.steps: deque[int] = deque(maxlen=keep)
        """Numbers of the steps after which the kept losses are."""
        self._before: Tensor | None = None
        self._pair: tuple[Tensor, Tensor] | None = None

    def update(self, losses: Tensor, step: int | None = None) -> SignalStep | None:
        """Add the losses after a step; return what it did, or None for the first of a row.

        Args:
            losses: (N,) losses of the samples, in an order that stays.
            step: Number of the step; default one more than the latest.
        """
        after = losses.detach().to("cpu", torch.float64)
        before, self._before = self._before, after
        self.losses.append(after)
        self.steps.append((self.steps[-1] + 1 if self.steps else 0) if step is None else step)
        if before is None:
            return None
        pair = opposing_groups(before, after, self.k)
        overlap = float("nan") if self._pair is None else swapped_share(self._pair, pair)
        self._pair = pair
        self.latest = _described(self.steps[-1], before, after, pair, overlap)
        self.spikes += self.latest.change > 0
        return self.latest

    def interrupt(self) -> None:
        """Let the next losses begin a row: steps are left out before them."""
        self._before = self._pair = None

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later results depend on."""
        return {
            "spikes": self.spikes,
            "losses": torch.stack([*self.losses]) if self.losses else torch.zeros(0, 0),
            "steps": list(self.steps),
            "in_row": self._before is not None,
            "in_pair": self._pair is not None,
            "latest": None if self.latest is None else dict(vars(self.latest)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.spikes = state["spikes"]
        self.losses = deque(state["losses"], maxlen=self.losses.maxlen)
        self.steps = deque(state["steps"], maxlen=self.steps.maxlen)
        self.latest = None if state["latest"] is None else SignalStep(**state["latest"])
        self._before = self.losses[-1] if state["in_row"] else None
        self._pair = self.latest.groups if self.latest and state["in_pair"] else None


def _described(
    step: int, before: Tensor, after: Tensor, pair: tuple[Tensor, Tensor], overlap: float
) -> SignalStep:
    change = _change(before, after)
    relative = [float(change[group].sum() / before[group].abs().sum()) for group in pair]
    moved = change.abs()
    return SignalStep(
        step,
        *pair,
        loss=float(after.mean()),
        change=float(after.mean() - before.mean()),
        loss_up=float(after[pair[0]].mean()),
        loss_down=float(after[pair[1]].mean()),
        relative_up=relative[0],
        relative_down=relative[1],
        share=float(moved[torch.cat(pair)].sum() / moved.sum()),
        overlap=overlap,
    )


def _change(before: Tensor, after: Tensor) -> Tensor:
    change = after - before
    return torch.where(change.isnan(), 0.0, change)
