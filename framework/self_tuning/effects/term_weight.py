"""The tuned weight of a term of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from framework.objectives.objectives import Objectives
from framework.self_tuning.effect import Effect
from framework.self_tuning.hyperparameter import HyperParameter
from framework.utilities.nearest_names import nearest

WEIGHT = HyperParameter(init=1.0, low=0.0)
"""Range of a factor."""


class TermWeight(Effect):
    """Multiplies the weight of a named term of the training loss by a tuned number.

    A term that has one value per row is multiplied row by row. One that is a single number, such
    as a penalty on the weights, needs a hyperparameter that all rows share; its weight in the
    config counts as a factor.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, which so tunes the
    two regularizers of an LSTM.

    Args:
        term: Name of the term.
        name: Prefix of the hyperparameter's name, ``NAME.weight``; by default the term's name.
        weight: Factor of the term's weight.

    Raises:
        ValueError: In a step, the module has no such term, its weight is 0, or it is a single
            number and the hyperparameter is not shared.

    Example:
        >>> import torch
        >>> from framework.objectives import Objectives
        >>> from framework.self_tuning import Draws, TermWeight
        >>> objectives = Objectives(per_sample={"box": torch.tensor([1.0, 2.0])})
        >>> effect = TermWeight("box")
        >>> with effect.at({"weight": torch.tensor([3.0, 0.5])}, Draws(seed=0, step=0)):
        ...     effect.change_objectives(objectives, {}, torch.nn.Identity())
        >>> objectives.per_sample["box"]
        tensor([3., 1.])
    """

    def __init__(self, term: str, name: str | None = None, weight: HyperParameter = WEIGHT) -> None:
        prefix = term if name is None else name
        super().__init__(prefix, {"weight": weight.within(f"{prefix}.weight", WEIGHT)})
        self.term = term

    def change_objectives(
        self, objectives: Objectives, batch: Mapping[str, Any], model: nn.Module
    ) -> None:
        """Multiply the term's weight."""
        if self.active is None:
            return
        present = objectives.weights.get(self.term, 1.0)
        known = [*objectives.terms, *objectives.per_sample]
        if self.term not in known:
            raise ValueError(
                f"{type(model).__name__} has no term {self.term!r}{nearest(self.term, known)}; it "
                f"has {', '.join(known)}."
            )
        if isinstance(present, (int, float)) and present == 0:
            raise ValueError(
                f"The term {self.term!r} has the weight 0, of which every multiple is 0: give it "
                "the weight 1 to tune it."
            )
        weight = self.active["weight"]
        if weight.ndim == 0:
            objectives.weights[self.term] = present * weight
        elif self.term in objectives.per_sample:
            values = objectives.per_sample[self.term]
            objectives.per_sample[self.term] = values * self.value_for("weight", values, "the term")
        else:
            raise ValueError(
                f"The term {self.term!r} is one number for the batch, but {self.name}.weight has "
                "one value per row: declare the hyperparameter `shared: true`."
            )
