"""A training step that an optimizer looks into: its batch again, with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.data.datasets import Batch
from framework.distributed.averages import average_over_ranks
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.optim.target_closure import Outputs, StepProblem, Target
from framework.runs.fully_sharded import FullyShardedStrategy
from framework.utilities.randomness import capture_rng, restore_rng

# of the gradient's length; what rounding in bfloat16 leaves is below it
_TOLERANCE = 0.1


class _Call(NamedTuple):
    """One call of the network in training mode."""

    inputs: tuple[Any, ...]
    output: Tensor
    random: dict[str, Any]


class StepReplay(StepProblem):
    """The step of a ``TrainingModule`` for optimizers that evaluate it again.

    Outputs are the predictions that the module publishes and what its losses asked ``forward`` for
    in training mode, such as predictions at attacked inputs, which stay what they are.

    Args:
        module: ``TrainingModule`` of the run.
        optimizer: Optimizer of the run.
    """

    def __init__(self, module: Any, optimizer: Optimizer) -> None:
        self._module = module
        self._optimizer = type(optimizer).__name__
        self._batch: Batch = {}
        self._calls: list[_Call] = []
        self._gradients: dict[int, Tensor] = {}
        self._recording = False
        self._checked = False
        _check(optimizer, module)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Let the optimizer step in the place of the hook of that name, and ask for this step."""
        self._recording = True
        try:
            optimizer.step(closure=optimizer_closure, problem=self)
        finally:
            self._recording = False
            self._calls, self._gradients, self._batch = [], {}, {}

    def objectives(self, batch: Batch) -> Objectives:
        """Return the module's objectives of a batch, and remember what the network returned."""
        if not self._recording:
            return self._module.objectives(batch)
        self._batch, self._calls, self._gradients = batch, [], {}
        random = capture_rng()
        objectives = self._module.objectives(batch)
        predictions = objectives.predictions
        if predictions is None or not predictions.requires_grad:
            raise IncompatibleError(
                f"{self._optimizer} steps on the predictions of a module, and "
                f"{type(self._module).__name__} publishes none with a gradient; take another "
                "optimizer."
            )
        self._calls.insert(0, _Call(self._module.forward_inputs(batch), predictions, random))
        for place, call in enumerate(self._calls):
            call.output.register_hook(lambda g, place=place: self._gradients.update({place: g}))
        return objectives

    def forward(self, *inputs: Any) -> Any:
        """Return what the module's ``forward`` does, and remember it in training mode."""
        random = capture_rng() if self._recording and self._module.training else None
        output = self._module.forward(*inputs)
        if random is not None and isinstance(output, Tensor) and output.requires_grad:
            self._calls.append(_Call(inputs, output, random))
        return output

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """Outputs and gradients at the latest call of the step's closure, detached.

        Raises:
            IncompatibleError: The loss depends on the parameters in other ways than by the outputs.
        """
        found = tuple(
            Target(call.output.detach(), self._gradients.get(place, torch.zeros_like(call.output)))
            for place, call in enumerate(self._calls)
        )
        if not self._checked:
            self._check_gradient(found)
            self._checked = True
        return found

    @property
    def rows(self) -> int:
        """Rows of this rank's batch."""
        return len(self._calls[0].output) if self._calls else 0

    def outputs(self) -> Outputs:
        """Return the outputs at the present parameters, differentiable, without the loss."""
        first, *others = self._calls
        with self._replay(first.random):
            outputs = [self._module.predictions_of(self._module.forward(*first.inputs))]
        for call in others:
            with self._replay(call.random):
                outputs.append(self._module.forward(*call.inputs))
        return tuple(outputs)

    def evaluate(self) -> tuple[Tensor, Outputs]:
        """Return the loss at the present parameters and the outputs in its graph.

        Raises:
            IncompatibleError: A loss or callback remembers each sample, and would do so twice.
        """
        module = self._module
        for owner in [*module.losses, *module.objectives_callbacks]:
            if "index" in owner.needs:
                raise IncompatibleError(
                    f"{self._optimizer} evaluates the loss several times in a step, and "
                    f"{type(owner).__name__} remembers every sample at each; leave one of them out."
                )
        recorded, random = self._calls, self._calls[0].random
        self._calls = []
        try:
            with self._replay(random):
                objectives = module.objectives(self._batch)
                for callback in module.objectives_callbacks:
                    callback.on_objectives(module.trainer, module, objectives, self._batch)
                assert objectives.predictions is not None
                outputs = (objectives.predictions, *(call.output for call in self._calls))
                return reduce_objectives(objectives).total, outputs
        finally:
            self._calls = recorded

    @contextmanager
    def _replay(self, random: dict[str, Any]) -> Iterator[None]:
        """Run the network as in the step: its random numbers, its precision, its buffers before."""
        now = capture_rng()
        # batch norm would count one batch several times, and its graph holds the buffer it wrote
        buffers = [
            (part, name, buffer)
            for part in self._module.modules()
            for name, buffer in part.named_buffers(recurse=False)
        ]
        for part, name, buffer in buffers:
            setattr(part, name, buffer.clone())
        restore_rng(random)
        try:
            with (
                torch.enable_grad(),
                self._module.trainer.precision_plugin.train_step_context(),
            ):
                yield
        finally:
            for part, name, buffer in buffers:
                setattr(part, name, buffer)
            restore_rng(now)

    def _check_gradient(self, targets: tuple[Target, ...]) -> None:
        """Compare the step's gradient with the one that goes through the outputs."""
        parameters = [p for p in self._module.parameters() if p.grad is not None]
        if not parameters:
            return
        through = torch.autograd.grad(
            self.outputs(),
            parameters,
            [target.gradient for target in targets],
            allow_unused=True,
        )
        means = average_over_ranks(
            [
                p.new_zeros(p.shape) if g is None else g
                for p, g in zip(parameters, through, strict=True)
            ]
        )
        difference, length = torch.zeros(()), torch.zeros(())
        for parameter, mean in zip(parameters, means, strict=True):
            assert parameter.grad is not None
            difference += (mean - parameter.grad).square().sum().cpu().float()
            length += parameter.grad.square().sum().cpu().float()
        if not difference <= _TOLERANCE**2 * length:
            share = float((difference / length.clamp_min(1e-30)).sqrt())
            raise IncompatibleError(
                f"{self._optimizer} needs a loss that is a function of the predictions alone, and "
                f"{share:.0%} of the gradient of {type(self._module).__name__}'s loss comes by "
                "other ways, such as further outputs of its network; take another optimizer."
            )


def _check(optimizer: Optimizer, module: Any) -> None:
    """Refuse what cannot be evaluated again."""
    trainer, name = module.trainer, type(optimizer).__name__
    kind = type(module).__name__
    if "predictions" not in module.provides or not module.automatic_optimization:
        raise IncompatibleError(
            f"{name} evaluates the predictions of a step again, which {kind} does not publish; "
            "take another optimizer."
        )
    if trainer.accumulate_grad_batches != 1:
        raise IncompatibleError(
            f"{name} evaluates one batch several times in a step; set "
            "trainer.accumulate_grad_batches to 1 and take a larger batch."
        )
    if trainer.gradient_clip_val:
        raise IncompatibleError(
            f"{name} chooses the length of its steps itself; leave out trainer.gradient_clip_val."
        )
    if module.gradient_combiner is not None:
        raise IncompatibleError(
            f"{type(module.gradient_combiner).__name__} makes the gradient of a step, and {name} "
            "takes further ones; leave one of them out."
        )
    if module.runs_compiled:
        raise IncompatibleError(
            f"{name} goes backward through one batch several times, which compiled networks do "
            "not; set model.compile to false."
        )
    if isinstance(trainer.strategy, FullyShardedStrategy):
        raise IncompatibleError(
            f"{name} takes gradients of whole parameters, and FullyShardedStrategy gives each rank "
            "a part of them; use the strategy ddp."
        )
