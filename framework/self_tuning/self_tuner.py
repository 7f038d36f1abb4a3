"""Tunes hyperparameters of a network while it trains, in any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum, world_size
from framework.layers.response.conditioning import Conditioning
from framework.layers.response.convert import convert_to_response
from framework.layers.response.fold import fold_response
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.self_tuning.draws import Draws
from framework.self_tuning.effect import Effect, acting, hyperparameters_of
from framework.self_tuning.hyper_space import HyperSpace
from framework.self_tuning.settings import SelfTuningOptions, SelfTuningSettings
from framework.utilities.checks import check_at_least
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.randomness import global_seed, seeded, stable_seed


class SelfTuner(SelfTuningSettings):
    r"""Makes a network a self-tuning one: its layers learn how they respond to hyperparameters.

    Every converted layer has the weights :math:`W_0 + \mathrm{diag}(V h) W_1`, of which h (n,) are
    the hyperparameters without bounds. A training step sees :math:`h + \sigma \xi` with a draw
    :math:`\xi` of its own for each row, and fits the response; the effects act by the values that
    belong to it. A tuning step changes h and :math:`\sigma` alone, by the gradient of a loss on
    held-out rows, without any effect, minus ``entropy_weight`` times the entropy of the
    perturbation. That loss depends on h through the layers only, so that what the effects do need
    not be differentiable.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088; ``centered`` and
    ``gate_scale=0`` are those of Bae and Grosse, *Delta-STN*, NeurIPS 2020, arXiv:2010.13514. The
    released code multiplies a further learned scalar and tunes no scales unless told so; here the
    equations hold, and scales are tuned.

    Args:
        network: Network, whose layers are converted in place; make the optimizer of its parameters
            afterwards.
        effects: Places where hyperparameters act.
        warmup_steps: Number of training steps before the first round.
        seed: Seed of the perturbation and of the noise of the effects; default that of the run.
        **options: Arguments of ``SelfTuningSettings``.

    Raises:
        ValueError: An argument is out of range, no layer matches, or two effects share a name; the
            network stays as it was.

    Example:
        >>> from framework.self_tuning import InputDropout
        >>> network = nn.Sequential(nn.Linear(4, 3))
        >>> tuner = SelfTuner(network, [InputDropout()], warmup_steps=0, train_steps=1)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> with tuner.training(rows=8, step=0):
        ...     batch = tuner.change_batch({"image": torch.ones(8, 4)})
        ...     network(batch["image"]).square().mean().backward()
        >>> optimizer.step()
        >>> _ = tuner.tune(lambda: network(torch.ones(6, 4)).square().mean(), rows=6)
        >>> list(tuner.values())
        ['input_dropout.rate']
        >>> tuner.fold()
        >>> network
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
        )
    """

    def __init__(
        self,
        network: nn.Module,
        effects: Sequence[Effect],
        *,
        warmup_steps: int = 0,
        seed: int | None = None,
        **options: Unpack[SelfTuningOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(0, warmup_steps=warmup_steps)
        self.network = network
        self.effects = list(effects)
        self.warmup_steps = warmup_steps
        self.seed = global_seed() if seed is None else seed
        self.steps = 0
        """Number of tuning steps so far."""
        self.tuning_loss: Tensor | None = None
        """Loss of the latest tuning step over all ranks, without the entropy; None before one."""
        self.space = HyperSpace(hyperparameters_of(self.effects), self.init_scale)
        try:
            for effect in self.effects:
                effect.attach(network)
            # the same on any number of ranks, and without a draw from the run's own generator
            with seeded(self.seed, "self_tuning"):
                self.conditioning: Conditioning = convert_to_response(
                    network,
                    self.space.size,
                    include=self.include,
                    exclude=self.exclude,
                    gate_scale=self.gate_scale,
                    centered=self.centered,
                )
        except Exception:
            for effect in self.effects:
                effect.detach(network)
            raise
        self.conditioning.source = lambda: self.space.raw
        self.space.to(next(network.parameters()).device)
        self._not_finite: Tensor | None = None
        self._leaves: list[Tensor] = []
        self._optimizers: list[torch.optim.Adam] = []
        self._loaded: list[dict[str, Any]] | None = None

    # ---- training steps -----------------------------------------------------------------------

    @contextmanager
    def training(self, rows: int, step: int, micro_batch: int = 0) -> Iterator[None]:
        """Let the network and the effects see perturbed hyperparameters inside the block.

        What is in evaluation mode sees them as they are, such as a step's look at other rows.

        Args:
            rows: Rows of this rank's batch.
            step: Number of training steps before this one.
            micro_batch: Number of the batch among those whose gradients make one step.
        """
        draws = Draws(self.seed, step, micro_batch)
        with torch.no_grad():
            shared, raw = self._perturbed(draws, rows, self.space.raw, self.space.raw_scales)
            values = self.space.values(raw, shared)
        with self.conditioning.at(raw, in_training_only=True), acting(self.effects, values, draws):
            yield

    def change_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch of a training step as the effects change it, in their order."""
        for effect in self.effects:
            batch = effect.change_batch(batch)
        return batch

    def change_objectives(self, objectives: Objectives, batch: dict[str, Any]) -> None:
        """Change the terms of a training step in place, in the order of the effects."""
        for effect in self.effects:
            effect.change_objectives(objectives, batch, self.network)

    def _perturbed(
        self, draws: Draws, rows: int, raw: Tensor, raw_scales: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return perturbed hyperparameters (n,) of the whole batch and those of its rows.

        The latter are (rows, n), or the former where rows have no draws of their own.
        """
        shared = self.space.perturbed(draws.shared_perturbation(self.space), raw, raw_scales)
        if not self.per_sample:
            return shared, shared
        return shared, self.space.perturbed(draws.perturbation(rows, self.space), raw, raw_scales)

    # ---- tuning steps -------------------------------------------------------------------------

    def is_due(self, steps: int) -> bool:
        """Return whether a round of tuning follows the training step that is the steps-th."""
        past = steps - self.warmup_steps
        return past > 0 and past % self.train_steps == 0

    def tune(self, loss: Callable[[], Tensor], rows: int) -> Tensor:
        """Change the hyperparameters, and nothing else, by one step on held-out rows.

        A collective call; the mean over ranks of ``loss()`` is that of the global batch.

        Args:
            loss: Function that returns the loss of the network on this rank's held-out rows; it is
                called once, in evaluation mode.
            rows: Number of these rows.

        Returns:
            The loss over all ranks, a scalar without a graph.

        Raises:
            FloatingPointError: The loss or a gradient is NaN or infinite, and nothing was changed;
                on a GPU ``check`` says so.
            IncompatibleError: The loss does not depend on the hyperparameters.
            ValueError: The loss is no single number.
        """
        self._make_optimizers()
        raw, raw_scales = self._leaves
        draws = Draws(stable_seed(self.seed, "tuning"), self.steps)
        with evaluation_mode(self.network):
            if self.tune_scales:
                _, perturbed = self._perturbed(draws, rows, raw, raw_scales)
            else:
                perturbed = raw
            with self.conditioning.at(perturbed):
                value = loss()
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise ValueError(
                f"The tuning loss must be a tensor with one number, got {type(value).__name__}"
                f"{shape}: return the mean over the batch."
            )
        leaves = self._leaves if self.tune_scales else [raw]
        found: Sequence[Tensor | None] = [None]
        if value.requires_grad:
            found = torch.autograd.grad(value, leaves, allow_unused=True)
        if found[0] is None:
            raise IncompatibleError(
                "The tuning loss does not depend on the hyperparameters: no layer that responds to "
                "them lies on its way; widen `include`."
            )
        gradients = [torch.zeros_like(raw) if g is None else g for g in found]
        if self.tune_scales:
            (widening,) = torch.autograd.grad(self.space.entropy(raw_scales), [raw_scales])
            gradients[1] = gradients[1] - self.entropy_weight * widening
        self.tuning_loss = self._step(value, gradients)
        self.steps += 1
        return self.tuning_loss

    def _step(self, value: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Step on the mean over ranks of the gradients, and return that of the loss."""
        flat = torch.cat([*gradients, value.detach().reshape(1).to(gradients[0])])
        if world_size() > 1:
            flat = all_reduce_sum(flat) / world_size()
        finite = torch.isfinite(flat).all()
        if self._not_finite is None:
            self._not_finite = torch.zeros_like(finite)
        self._not_finite = self._not_finite | ~finite
        # reading it makes a GPU wait
        if flat.device.type == "cpu":
            self.check()
        flat = torch.where(finite, flat, torch.zeros_like(flat))
        size = self.space.size
        for leaf, optimizer, gradient in zip(
            self._leaves, self._optimizers, flat[:-1].split(size), strict=False
        ):
            leaf.grad = gradient.to(leaf)
            optimizer.step()
            leaf.grad = None
        self.space.clamp_scales()
        return flat[-1]

    def check(self) -> None:
        """Refuse to go on after a loss that was not finite; on a GPU this waits for the latest one.

        Raises:
            FloatingPointError: The loss of a tuning step, or its gradient, was NaN or infinite.
        """
        if self._not_finite is not None and bool(self._not_finite):
            self._not_finite = None
            raise FloatingPointError(
                f"The tuning loss or its gradient was not finite by tuning step {self.steps}; "
                "lower hyper_lr or the learning rate."
            )

    def _make_optimizers(self) -> None:
        """Make the optimizers of the hyperparameters, which by now have their device."""
        if self._leaves:
            return
        # they share their memory with the buffers, which stay none of the network's parameters
        self._leaves = [
            leaf.detach().requires_grad_() for leaf in (self.space.raw, self.space.raw_scales)
        ]
        rates = (self.hyper_lr, self.scale_lr)
        self._optimizers = [
            torch.optim.Adam([leaf], lr=rate)
            for leaf, rate in zip(self._leaves, rates, strict=True)
        ]
        if self._loaded is not None:
            for optimizer, state in zip(self._optimizers, self._loaded, strict=True):
                optimizer.load_state_dict(state)
            self._loaded = None

    # ---- what came of it ----------------------------------------------------------------------

    def values(self) -> dict[str, float]:
        """Return the hyperparameters by name, as they are without perturbation."""
        return {n: float(v) for n, v in self.space.values(self.space.raw.detach()).items()}

    def scales(self) -> dict[str, float]:
        """Return the standard deviations of the perturbation by name."""
        return dict(zip(self.space.names, self.space.scales().tolist(), strict=True))

    def fold(self) -> None:
        """Make the network an ordinary one, with the weights of its response to what was found."""
        for effect in self.effects:
            effect.detach(self.network)
        fold_response(self.network, self.space.raw.detach())

    def state_dict(self) -> dict[str, Any]:
        """Return the hyperparameters, their optimizers and the number of tuning steps."""
        self.check()
        self._make_optimizers()
        return {
            "names": list(self.space.names),
            "space": self.space.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "steps": self.steps,
            "loss": self.tuning_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the network restores its responses itself.

        Raises:
            ValueError: It is of other hyperparameters.
        """
        if (names := tuple(state["names"])) != self.space.names:
            raise ValueError(
                f"The checkpoint tunes {', '.join(names)}, and this run "
                f"{', '.join(self.space.names)}: give the same effects in the same order."
            )
        self.space.load_state_dict(state["space"])
        self.steps = int(state["steps"])
        self.tuning_loss = state["loss"]
        self._loaded = state["optimizers"]
        self._leaves, self._optimizers = [], []
