"""Measures of a solution besides its loss, in one's own loop or for ``SolutionProbe``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum, gather, world_size
from framework.dynamics.loss_ascent import loss_ascent
from framework.dynamics.margins import logit_margins, margin_quantiles
from framework.dynamics.sharpness import hessian_top_eigenvalue
from framework.dynamics.solution_weights import (
    curve_area,
    pruning_curve,
    sparsity,
    weight_norms,
    weights_of,
)
from framework.utilities.checks import check_one_of
from framework.utilities.evaluation_mode import evaluation_mode

WeightMetric = Literal["sparsity", "norms", "pruning", "margins", "sharpness"]
ALL: tuple[WeightMetric, ...] = get_args(WeightMetric)
CLASSIFIED = ("pruning", "margins")
"""Metrics of class logits and labels."""
Batches = Sequence[tuple[tuple[Any, ...], Tensor]]


def measure_solution(
    module: nn.Module,
    batches: Batches = (),
    metrics: Sequence[WeightMetric] = ALL,
    predict: Callable[..., Tensor] | None = None,
    loss: Callable[[], Iterable[Tensor]] | None = None,
    rho: float = 0.05,
) -> dict[str, Tensor]:
    """Return what kind of solution the weights of a module are, by name.

    The module is in evaluation mode meanwhile; its weights are as before afterwards, bit for bit.
    Collective: the values are those of the rows of all ranks, which hold the same weights.

    =============  =================================================================================
    ``sparsity``   ``sparsity``: share of weights below 0.01 of the rms of their tensor
    ``norms``      ``norm_l2`` and ``norm_max`` of all parameters
    ``pruning``    ``accuracy``; ``pruned_50`` ... ``pruned_98``: accuracy without the smallest 50,
                   80, 90, 95 and 98 % of all weights; ``pruned_mean``: mean height of this curve
    ``margins``    ``margin_05``, ``margin_50`` and ``margin_95``: quantiles of the logit of the
                   right class less the largest other
    ``sharpness``  ``lambda_max``: largest eigenvalue of the Hessian; ``ascent``: rise of the loss
                   by a step of length ``rho`` along its gradient
    =============  =================================================================================

    Args:
        module: Module whose trainable parameters are measured.
        batches: Pairs of inputs, a tuple, and labels (B,) int64, of this rank's rows; rows with a
            negative label do not count.
        metrics: Groups of metrics, each the left column of the table.
        predict: Function from inputs to logits (B, C); default the module itself.
        loss: Function that returns the parts of the loss, which are summed, one after the other,
            scaled so that the mean over ranks is the loss of all rows; default the mean
            cross-entropy of ``batches``.
        rho: Length of the step of ``ascent``.

    Raises:
        ValueError: A group that there is not, or one that needs ``batches`` where none are given.

    Example:
        >>> from torch import nn
        >>> model, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
        >>> found = measure_solution(model, [((x,), y)], ["sparsity", "pruning"])
        >>> list(found)[:3]
        ['sparsity', 'accuracy', 'pruned_50']
    """
    for metric in metrics:
        check_one_of(ALL, metrics=metric)
        needs_rows = metric in CLASSIFIED or (metric == "sharpness" and loss is None)
        # a rank may be without any
        if needs_rows and not batches and world_size() == 1:
            raise ValueError(f"{metric!r} is measured on batches, of which none are given.")
    logits = module if predict is None else predict
    parameters = [p for p in module.parameters() if p.requires_grad]
    weights = weights_of(module)
    found: dict[str, Tensor] = {}
    with evaluation_mode(module):
        if "sparsity" in metrics:
            found["sparsity"] = sparsity(weights)
        if "norms" in metrics:
            found["norm_l2"], found["norm_max"] = weight_norms(parameters)
        if "pruning" in metrics:
            curve = pruning_curve(weights, lambda: _accuracy(logits, batches))
            found["accuracy"] = curve[0.0]
            found |= {f"pruned_{100 * share:.0f}": curve[share] for share in list(curve)[1:]}
            found["pruned_mean"] = curve_area(curve)
        if "margins" in metrics:
            margins = _margins(logits, batches)
            found |= {f"margin_{100 * q:02.0f}": v for q, v in margin_quantiles(margins).items()}
        if "sharpness" in metrics:
            parts = loss or (lambda: _entropies(logits, batches))
            with torch.enable_grad():
                found["lambda_max"] = torch.tensor(hessian_top_eigenvalue(parts, parameters))
            found["ascent"] = loss_ascent(parts, parameters, rho)
    return found


@torch.no_grad()
def _accuracy(logits: Callable[..., Tensor], batches: Batches) -> Tensor:
    # right rows and rows
    counts = torch.zeros(2, dtype=torch.int64)
    for inputs, label in batches:
        known = label >= 0
        right = (logits(*inputs).argmax(1) == label)[known].sum()
        counts = counts.to(label.device) + torch.stack([right, known.sum()])
    correct, rows = all_reduce_sum(counts)
    return correct.float() / rows


@torch.no_grad()
def _margins(logits: Callable[..., Tensor], batches: Batches) -> Tensor:
    found = []
    for inputs, label in batches:
        known = label >= 0
        found.append(logit_margins(logits(*inputs).float()[known], label[known]))
    return gather(torch.cat(found) if found else torch.zeros(0))


def _entropies(logits: Callable[..., Tensor], batches: Batches) -> Iterator[Tensor]:
    rows = all_reduce_sum(torch.as_tensor(sum((label >= 0).sum() for _, label in batches)))
    for inputs, label in batches:
        entropy = F.cross_entropy(
            logits(*inputs).float(), label.clamp(min=-1), ignore_index=-1, reduction="sum"
        )
        yield world_size() * entropy / rows
