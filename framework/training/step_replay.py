"""A training step that an optimizer looks into: its batch again, with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.data.datasets import Batch
from framework.layers.random_layer import RandomLayer
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.optim.target_closure import Outputs, StepProblem, Target
from framework.training.replayable import check_outputs, check_replayable
from framework.utilities.randomness import capture_rng, capture_torch_rng, drawing_from


class _Draws(NamedTuple):
    """What the random numbers to come depend on."""

    generators: dict[str, Any]
    counts: dict[RandomLayer, int]


class _Call(NamedTuple):
    """One call of the network in training mode, and what it drew from."""

    inputs: tuple[Any, ...]
    output: Tensor
    draws: _Draws


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
        self._draws = _Draws({}, {})
        self._recording = False
        self._checked = False
        check_replayable(optimizer, module)

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
        draws = self._next_draws()
        self._draws = _Draws(capture_rng(), draws.counts)
        objectives = self._module.objectives(batch)
        predictions = objectives.predictions
        if predictions is None or not predictions.requires_grad:
            raise IncompatibleError(
                f"{self._optimizer} steps on the predictions of a module, and "
                f"{type(self._module).__name__} publishes none with a gradient; take another "
                "optimizer."
            )
        self._calls.insert(0, _Call(self._inputs(batch), predictions, draws))
        for place, call in enumerate(self._calls):
            call.output.register_hook(lambda g, place=place: self._gradients.update({place: g}))
        return objectives

    def forward(self, *inputs: Any) -> Any:
        """Return what the module's ``forward`` does, and remember it in training mode."""
        draws = self._next_draws() if self._recording and self._module.training else None
        output = self._module.forward(*inputs)
        if draws is not None and isinstance(output, Tensor) and output.requires_grad:
            self._calls.append(_Call(inputs, output, draws))
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
            check_outputs(self._optimizer, self._module, found, self.outputs())
            self._checked = True
        return found

    @property
    def rows(self) -> int:
        """Rows of this rank's batch."""
        return len(self._calls[0].output) if self._calls else 0

    def outputs(self) -> Outputs:
        """Return the outputs at the present parameters, differentiable, without the loss."""
        first, *others = self._calls
        with self._replay(first.draws):
            predictions = self._module.predictions_of(self._module.forward(*first.inputs))
        if not isinstance(predictions, Tensor):
            raise IncompatibleError(
                f"{self._optimizer} predicts again, and {type(self._module).__name__}.forward "
                f"returns a {type(predictions).__name__}: define predictions_of."
            )
        outputs = [predictions]
        for call in others:
            with self._replay(call.draws):
                outputs.append(self._module.forward(*call.inputs))
        return tuple(outputs)

    def _inputs(self, batch: Batch) -> tuple[Any, ...]:
        kind = type(self._module).__name__
        try:
            return self._module.forward_inputs(batch)
        except KeyError as error:
            raise IncompatibleError(
                f"{self._optimizer} predicts again, and {kind}.forward_inputs wants the field "
                f"{error} of a batch, which there is not: define forward_inputs."
            ) from None

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
        recorded, self._calls = self._calls, []
        try:
            with self._replay(self._draws):
                objectives = module.objectives(self._batch)
                for callback in module.objectives_callbacks:
                    callback.on_objectives(module.trainer, module, objectives, self._batch)
                assert objectives.predictions is not None
                outputs = (objectives.predictions, *(call.output for call in self._calls))
                return reduce_objectives(objectives).total, outputs
        finally:
            self._calls = recorded

    def _next_draws(self) -> _Draws:
        layers = (part for part in self._module.modules() if isinstance(part, RandomLayer))
        return _Draws(capture_torch_rng(), {layer: layer.count for layer in layers})

    @contextmanager
    def _replay(self, draws: _Draws) -> Iterator[None]:
        """Run the network as in the step: its random numbers, its precision, its buffers before."""
        # batch norm would count one batch several times, and its graph holds the buffer it wrote
        buffers = [
            (part, name, buffer)
            for part in self._module.modules()
            for name, buffer in part.named_buffers(recurse=False)
        ]
        for part, name, buffer in buffers:
            setattr(part, name, buffer.clone())
        counts = {layer: layer.count for layer in draws.counts}
        for layer, count in draws.counts.items():
            layer.count = count
        try:
            with (
                drawing_from(draws.generators),
                torch.enable_grad(),
                self._module.trainer.precision_plugin.train_step_context(),
            ):
                yield
        finally:
            for part, name, buffer in buffers:
                setattr(part, name, buffer)
            for layer, count in counts.items():
                layer.count = count
