"""The surrogate of a loss in target space: its linearization and a penalty on moving outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from framework.distributed.averages import average_over_ranks
from framework.optim.target_closure import Outputs, StepProblem
from framework.utilities.precision import at_least_float32


class TargetSurrogate:
    r"""Surrogate of one step's loss, as a closure for an inner optimizer.

    .. math:: \langle g, f - z \rangle + \frac{w}{2} \lVert f - z \rVert^2
        + \frac{\lambda}{2} \lVert \theta \rVert^2

    with the outputs f, those where the step began z and the gradient g of the loss there. Called,
    it sets the gradients, averaged over ranks, and returns the mean over ranks; the first call
    evaluates nothing, as the gradient of the penalty is 0 there and that of the loss is known.

    Args:
        problem: Problem whose closure was called.
        parameters: Parameters that move; their gradients are those of the loss.
        decays: Weight decay of every parameter.
        weight: Weight w of the penalty, such that the mean over ranks is that of one process.
        maximize: Whether the loss is ascended.
    """

    def __init__(
        self,
        problem: StepProblem,
        parameters: Sequence[Tensor],
        decays: Sequence[float],
        weight: float | Tensor,
        maximize: bool = False,
    ) -> None:
        self.problem = problem
        self.targets = problem.targets
        self.parameters = list(parameters)
        self.decays = list(decays)
        self.weight = weight
        self._began = False
        self._sign = -1.0 if maximize else 1.0

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Set the gradients of the parameters and return the value."""
        if self._began:
            value, gradients = self._evaluate()
        else:
            self._began = True
            value = self.parameters[0].new_zeros(())
            gradients = [self._sign * _gradient(p) for p in self.parameters]
        for parameter, gradient, decay in zip(self.parameters, gradients, self.decays, strict=True):
            parameter.grad = gradient.add(parameter, alpha=decay) if decay else gradient
        return value + self._decay()

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return this rank's value alone, by a forward pass."""
        return self._measure(self.problem.outputs())[0] + self._decay()

    def _evaluate(self) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            outputs = self.problem.outputs()
        value, slopes = self._measure(outputs)
        reached = [(f, s) for f, s in zip(outputs, slopes, strict=True) if f.requires_grad]
        found = torch.autograd.grad(
            [f for f, _ in reached],
            self.parameters,
            [s for _, s in reached],
            allow_unused=True,
        )
        gradients = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(self.parameters, found, strict=True)
        ]
        value, *gradients = average_over_ranks([value, *gradients])
        return value, gradients

    def _measure(self, outputs: Outputs) -> tuple[Tensor, list[Tensor]]:
        """Return the value without weight decay and its gradients with respect to the outputs."""
        shapes = [tuple(f.shape) for f in outputs]
        known = [tuple(target.value.shape) for target in self.targets]
        if shapes != known:
            raise RuntimeError(
                f"The outputs have the shapes {shapes} and had {known} where the step began: a "
                "step's outputs must be of the same inputs."
            )
        value, slopes = self.parameters[0].new_zeros(()), []
        for f, target in zip(outputs, self.targets, strict=True):
            moved = at_least_float32(f.detach()) - at_least_float32(target.value)
            gradient = self._sign * at_least_float32(target.gradient)
            value = value + (gradient + (self.weight / 2) * moved).mul(moved).sum()
            slopes.append((gradient + self.weight * moved).to(f.dtype))
        return value, slopes

    def _decay(self) -> Tensor | float:
        pairs = zip(self.parameters, self.decays, strict=True)
        terms = [decay / 2 * at_least_float32(p).square().sum() for p, decay in pairs if decay]
        return sum(terms[1:], terms[0]) if terms else 0.0


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
