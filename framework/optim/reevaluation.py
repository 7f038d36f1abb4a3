"""Loss and gradient of one step at several points, the same numbers on every rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.distributed.averages import average_over_ranks
from framework.optim.curvature import flat, gradient_of
from framework.optim.target_closure import StepProblem
from framework.utilities.randomness import capture_rng, drawing_from


class Evaluation(NamedTuple):
    """Loss (scalar) and gradient (d,) at one point, and the norm of the scaled gradient."""

    loss: Tensor
    gradient: Tensor
    norm: float


class Reevaluation:
    """Evaluates the loss of one step again wherever the parameters are moved to.

    With a problem the gradients that the closure set stay as they are. Without one the closure is
    called again, with the random numbers of its first call, and sets them anew.

    Args:
        closure: Closure of the step: sets the gradients, averaged over ranks, and returns this
            rank's loss.
        problem: Loss of the step as a function of the parameters; None for the closure alone.
        params: Parameters that are trained.
        scale: Factor of each entry of the gradient where norms are taken, shape (d,); None for 1.
        sign: Factor of loss and gradient there, -1 where the loss is maximized.
    """

    def __init__(
        self,
        closure: Callable[[], Any],
        problem: StepProblem | None,
        params: Sequence[Tensor],
        scale: Tensor | None,
        sign: float,
    ) -> None:
        self.closure = closure
        self.problem = problem
        self.params = params
        self.scale = scale
        self.sign = sign
        self.dtype = working_dtype(params)
        self._before: dict[str, Any] | None = None

    @property
    def in_own_loop(self) -> bool:
        """Whether the caller's closure is all there is, and no trainer waits for it."""
        own: object = self.closure
        return self.problem is None or self.problem is own

    def first(self) -> tuple[Any, Evaluation]:
        """Call the closure where the step begins; return its result and what it evaluated."""
        if self.problem is None:
            self._before = capture_rng()
        with torch.enable_grad():
            result = self.closure()
        return result, self._called(result, self._gradients())

    def again(self) -> Evaluation:
        """Evaluate at the present parameters."""
        if self.problem is None:
            return self._call_again()
        with torch.enable_grad():
            loss, _ = self.problem.evaluate()
            gradient = gradient_of(loss, self.params)
        loss, gradient = average_over_ranks([loss, gradient])
        return self.evaluation(loss, gradient.to(self.dtype))

    def evaluation(self, loss: Tensor, gradient: Tensor) -> Evaluation:
        """Return an evaluation of a loss and a gradient."""
        return Evaluation(loss, gradient, torch.linalg.vector_norm(self.scaled(gradient)).item())

    def scaled(self, gradient: Tensor) -> Tensor:
        """Return the gradient to descend along, in coordinates where the metric is 1."""
        signed = gradient if self.sign == 1 else self.sign * gradient
        return signed if self.scale is None else self.scale * signed

    def _call_again(self) -> Evaluation:
        same = nullcontext() if self._before is None else drawing_from(self._before)
        with torch.enable_grad(), same:
            result = self.closure()
        return self._called(result, self._gradients())

    def _gradients(self) -> Tensor:
        if any(p.grad is not None and p.grad.is_sparse for p in self.params):
            raise RuntimeError("GradNormSmoothNewton does not support sparse gradients.")
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        return flat(found, self.dtype)

    def _called(self, result: Any, gradient: Tensor) -> Evaluation:
        if result is None:
            raise ValueError("The closure must return the loss of the step, got None.")
        known = result.dtype if isinstance(result, Tensor) else self.dtype
        loss = torch.as_tensor(result, dtype=known, device=gradient.device)
        if not loss.is_floating_point():
            loss = loss.to(self.dtype)
        return self.evaluation(average_over_ranks([loss])[0], gradient)


def working_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of vectors of all parameters' entries, float32 or wider."""
    dtype = torch.float32
    for parameter in params:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype
