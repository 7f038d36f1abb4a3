"""What one training step produced: the only thing that modules and callbacks exchange."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

OPTIONAL_FIELDS = ("per_sample", "predictions", "targets", "index", "group", "features")
"""Fields that a module may declare in ``provides`` and a loss or callback in ``needs``."""


@dataclass
class Objectives:
    """The named losses of one training step on this rank, before they are reduced and summed.

    A term stands either in ``terms``, already reduced to the mean over this rank's rows, or in
    ``per_sample``, one value per row; never in both. The total is the sum over all names of
    ``weights[name] * term``, each term being the mean over the *global* batch whatever the number
    of ranks: see ``reduce``.

    Args:
        terms: Named scalar losses, differentiable, before weighting.
        per_sample: Named unreduced terms of shape (B,), for methods that select or re-weight
            samples.
        weights: Weight of a term in the total; a missing name counts 1.
        sample_weight: (B,) non-negative, set by callbacks; 0 drops the sample. Applies to
            ``per_sample`` terms.
        count: Normalizer of a term. For a name in ``terms`` a scalar, by how much this rank's mean
            counts (default: the rows of the batch). For a name in ``per_sample`` a scalar, or (B,)
            values that are summed with ``sample_weight`` (default: ones).
        predictions: (B, ...); row i belongs to sample ``index[i]``.
        targets: (B, ...).
        index: (B,) int64, positions in the full training set.
        group: (B,) int64, the group a row belongs to, such as a bag whose mean response is known.
        features: (B, D) shared representation, for gradient methods.
        logs: Detached scalars for the dashboard, means over this rank's rows.
    """

    terms: dict[str, Tensor] = field(default_factory=dict)
    per_sample: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float | Tensor] = field(default_factory=dict)
    sample_weight: Tensor | None = None
    count: dict[str, Tensor] = field(default_factory=dict)
    predictions: Tensor | None = None
    targets: Tensor | None = None
    index: Tensor | None = None
    group: Tensor | None = None
    features: Tensor | None = None
    logs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of this rank's batch, read off the first field that has a row axis."""
        candidates = [self.index, self.predictions, self.targets, self.features]
        for value in [*candidates, *self.per_sample.values()]:
            if value is not None:
                return len(value)
        raise ValueError(
            "The number of rows is unknown: give `index`, `predictions` or a per-sample term in "
            "Objectives, or a `count` for every term."
        )
