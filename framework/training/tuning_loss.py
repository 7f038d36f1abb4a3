"""The loss on held-out rows by which hyperparameters are tuned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from framework.self_tuning.effect import Effect
from framework.self_tuning.effects.term_weight import TermWeight
from framework.training.module import TrainingModule
from framework.utilities.nearest_names import nearest


def tuning_loss(
    module: TrainingModule,
    batch: Any,
    effects: Iterable[Effect],
    names: Sequence[str] | None = None,
) -> Tensor:
    """Return the sum of a module's terms over the global batch, without what effects add or weigh.

    A collective call.

    Args:
        module: Module in evaluation mode.
        batch: Batch of any loader.
        effects: Places where hyperparameters act.
        names: Names of the terms; None for all but those whose weight is tuned.

    Returns:
        A scalar, of which the mean over ranks is the loss.
    """
    objectives = module.guide_objectives(module.fields_of(batch))
    kept = judging_terms([*objectives.terms, *objectives.per_sample], effects, names)
    objectives.terms = {n: v for n, v in objectives.terms.items() if n in kept}
    objectives.per_sample = {n: v for n, v in objectives.per_sample.items() if n in kept}
    return reduce_objectives(objectives).total


def judging_terms(
    terms: Sequence[str], effects: Iterable[Effect], names: Sequence[str] | None = None
) -> set[str]:
    """Return the names of the terms that make the tuning loss.

    Args:
        terms: Names of the terms that there are.
        effects: Places where hyperparameters act.
        names: Names that a person gave; None for all but those whose weight is tuned.

    Raises:
        IncompatibleError: There is none, or a name that was given is none of them.

    Example:
        >>> sorted(judging_terms(["box", "label", "size"], [TermWeight("size")]))
        ['box', 'label']
    """
    if names is not None:
        for name in names:
            if name not in terms:
                raise IncompatibleError(
                    f"tuning_terms has {name!r}, which is none of the terms "
                    f"{', '.join(terms)}{nearest(name, terms)}."
                )
        return set(names)
    tuned = {effect.term for effect in effects if isinstance(effect, TermWeight)}
    if not (kept := set(terms) - tuned):
        raise IncompatibleError(
            "The weights of all terms of the module are tuned, and none is left to judge them by: "
            "name some in tuning_terms."
        )
    return kept


def rows_of_batch(batch: Any) -> int:
    """Return the rows of a batch: the length of its first tensor with an axis of rows.

    Raises:
        IncompatibleError: It holds none.

    Example:
        >>> import torch
        >>> rows_of_batch({"scale": torch.tensor(2.0), "image": torch.zeros(5, 3)})
        5
    """
    parts = batch.values() if isinstance(batch, dict) else batch
    for part in [batch] if isinstance(batch, Tensor) else parts:
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    raise IncompatibleError(
        f"A batch of type {type(batch).__name__} holds no tensor with rows, for each of which "
        "SelfTuning would draw hyperparameters: set per_sample to false."
    )
