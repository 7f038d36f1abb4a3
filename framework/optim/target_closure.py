"""What optimizers may ask about a step beside its gradient: outputs of the network and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.distributed.averages import average_over_ranks
from framework.utilities.randomness import capture_torch_rng, drawing_from

Outputs = tuple[Tensor, ...]
"""Outputs of the network at the inputs of one step, each (B, ...)."""


class Target(NamedTuple):
    """One output of the network where the step begins, and the gradient of the loss there."""

    value: Tensor
    gradient: Tensor


class StepProblem(ABC):
    """The loss of one step as a function of the parameters, by way of the network's outputs.

    Every evaluation is of the same batch with the same random numbers. All values are this rank's:
    their mean over the ranks, and that of their gradients, are those of one process. Parameters and
    gradients are left alone.
    """

    targets: tuple[Target, ...] = ()
    """Outputs and gradients at the latest call of the step's closure, detached."""

    @property
    def rows(self) -> int:
        """Rows of this rank's batch."""
        return len(self.targets[0].value) if self.targets else 0

    @abstractmethod
    def outputs(self) -> Outputs:
        """Return the outputs at the present parameters, differentiable, without the loss."""

    @abstractmethod
    def evaluate(self) -> tuple[Tensor, Outputs]:
        """Return the loss at the present parameters and the outputs in its graph."""


class TargetClosure(StepProblem):
    """Closure of a step in a loop of one's own, for optimizers that look at the network's outputs.

    Called, it sets the gradients, averaged over ranks, and returns this rank's loss, as a closure
    of a model under DDP does. So on several ranks the network goes in without DDP's wrapper.

    Args:
        params: Parameters that are trained.
        outputs: Function that predicts at the step's inputs: one output (B, ...) or several, none
            of which is computed from another one.
        loss: Function from what ``outputs`` returns to the loss, a scalar.

    Raises:
        ValueError: An output is computed from another one, at the first call.

    Example:
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
        >>> criterion = torch.nn.CrossEntropyLoss()
        >>> closure = TargetClosure(
        ...     model.parameters(), lambda: model(x), lambda z: criterion(z, y)
        ... )
        >>> closure().shape, closure.targets[0].gradient.shape
        (torch.Size([]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        outputs: Callable[[], Tensor | Outputs],
        loss: Callable[..., Tensor],
    ) -> None:
        self._params = [p for p in params if p.requires_grad]
        self._outputs = outputs
        self._loss = loss
        self._random: dict[str, Any] | None = None

    def outputs(self) -> Outputs:
        """Return the outputs at the present parameters, differentiable, without the loss."""
        with self._same_numbers():
            outputs = self._outputs()
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def evaluate(self) -> tuple[Tensor, Outputs]:
        """Return the loss at the present parameters and the outputs in its graph."""
        with self._same_numbers():
            outputs = self._outputs()
            loss = self._loss(outputs)
        return loss, (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def __call__(self) -> Tensor:
        """Set the gradients of the parameters and return the loss."""
        random, self._random = capture_torch_rng(), None
        with torch.enable_grad():
            loss, outputs = self.evaluate()
        self._random = random
        if not self.targets:
            _check_apart(outputs)
        found = torch.autograd.grad(loss, [*outputs, *self._params], allow_unused=True)
        gradients, of_parameters = found[: len(outputs)], found[len(outputs) :]
        self.targets = tuple(
            Target(z.detach(), torch.zeros_like(z) if g is None else g)
            for z, g in zip(outputs, gradients, strict=True)
        )
        used = [p for p, g in zip(self._params, of_parameters, strict=True) if g is not None]
        means = average_over_ranks([g for g in of_parameters if g is not None])
        for parameter in self._params:
            parameter.grad = None
        for parameter, gradient in zip(used, means, strict=True):
            parameter.grad = gradient
        return loss.detach()

    def _same_numbers(self) -> AbstractContextManager[None]:
        return nullcontext() if self._random is None else drawing_from(self._random)


def problem_of(closure: object, problem: StepProblem | None) -> StepProblem | None:
    """Return the problem of a step: the closure itself where it is one and no other is given."""
    return closure if problem is None and isinstance(closure, StepProblem) else problem


def _check_apart(outputs: Outputs) -> None:
    """Refuse outputs whose gradients would be counted again in those of another one."""
    graded = [(place, z) for place, z in enumerate(outputs) if z.requires_grad]
    for place, z in graded if len(graded) > 1 else []:
        others = [other for number, other in graded if number != place]
        # nothing runs where no way leads from one to the other
        (found,) = torch.autograd.grad(
            others, z, [torch.zeros_like(x) for x in others], retain_graph=True, allow_unused=True
        )
        if found is not None:
            raise ValueError(
                f"An output of the TargetClosure is computed from output {place}, whose gradient "
                "would count twice: return one of them, and compute the other in the loss."
            )
