"""Weight decay of a tuned strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from framework.layers.response.layer import ResponseLayer
from framework.objectives.objectives import Objectives
from framework.self_tuning.effects.layer_effect import LayerEffect
from framework.self_tuning.hyperparameter import HyperParameter
from framework.utilities.precision import at_least_float32

WEIGHT = HyperParameter(init=5e-4, low=0.0, high=0.01, shared=True)
"""Range of the strength."""


class WeightDecay(LayerEffect):
    r"""Adds half the sum of squares of weights times a tuned number to the training loss.

    The term ``weight_decay`` is :math:`\frac{\lambda}{2} \sum |W(h)|^2` for each row: of a response
    layer the weights at the hyperparameters of that row, of others their weights. Vectors, such as
    biases and those of normalization, are left out. Take an optimizer without weight decay of its
    own beside it.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, whose code tunes no
    weight decay; the loss that tunes must lack the term, as it does here.

    Args:
        layers: Pattern or patterns of the layers' dotted names; ``*`` means all.
        name: Prefix of the hyperparameter's name, ``NAME.weight``, and name of the term.
        weight: Strength, at least 0; by default all rows share it.

    Raises:
        ValueError: The range goes below 0; in ``attach``, a pattern that matches no layer with a
            matrix of weights.

    Example:
        >>> import torch
        >>> from framework.objectives import Objectives
        >>> from framework.self_tuning import Draws, WeightDecay
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
        >>> _ = model[0].weight.data.fill_(2.0)
        >>> decay, objectives = WeightDecay(), Objectives(index=torch.arange(3))
        >>> decay.attach(model)
        >>> with decay.at({"weight": torch.tensor(0.5)}, Draws(seed=0, step=0)):
        ...     decay.change_objectives(objectives, {}, model)
        >>> objectives.per_sample["weight_decay"]
        tensor([2., 2., 2.], grad_fn=<MulBackward0>)
    """

    def __init__(
        self,
        layers: str | list[str] = "*",
        name: str = "weight_decay",
        weight: HyperParameter = WEIGHT,
    ) -> None:
        super().__init__(layers, name, {"weight": weight.within(f"{name}.weight", WEIGHT, low=0)})

    def chosen(
        self, model: nn.Module, pattern: str, found: dict[str, nn.Module]
    ) -> dict[str, nn.Module]:
        """Return those with a matrix of weights."""
        decayed = {name: layer for name, layer in found.items() if _has_weights(layer)}
        if not decayed:
            raise ValueError(
                f"{self.name}: none of the layers that {pattern!r} matches has a matrix of weights."
            )
        return decayed

    def change_objectives(
        self, objectives: Objectives, batch: Mapping[str, Any], model: nn.Module
    ) -> None:
        """Add the term."""
        if self.active is None:
            return
        norms = self._squared_norms()
        ones = norms.new_ones(objectives.rows)
        weight = self.value_for("weight", ones, "the term")
        objectives.per_sample[self.name] = 0.5 * weight * (norms * ones)

    def _squared_norms(self) -> Tensor:
        """Return the sum of squares, (1,) or (B,)."""
        responding = [one for one in self._attached.values() if isinstance(one, ResponseLayer)]
        # a weight that two layers share decays once
        seen = {id(p) for layer in responding for p in layer.parameters(recurse=False)}
        parts = [layer.squared_norm() for layer in responding]
        for layer in self._attached.values():
            for parameter in layer.parameters(recurse=False):
                if parameter.ndim > 1 and id(parameter) not in seen:
                    seen.add(id(parameter))
                    parts.append(at_least_float32(parameter).square().sum().view(1))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def _has_weights(layer: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
