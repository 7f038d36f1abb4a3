"""Weights of any module are removed on a schedule, by M-FAC or by magnitude."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from callbacks.after_step import AfterStep
from framework.objectives.errors import IncompatibleError
from framework.optim.averaged_weights import AveragedWeights
from framework.pruning.sparsity_schedule import cubic_sparsity
from framework.pruning.weight_pruner import WeightPruner, check_pruning
from framework.runs.panels import Panel
from framework.training.small_batches import mean_gradients
from framework.utilities.checks import check_at_least


class MFACPruner(AfterStep):
    """Removes weights at the beginning of epochs, lets the others make up, and trains on.

    The share that is removed grows from epoch ``start`` to ``end`` as a cubic polynomial; see
    ``framework.pruning.WeightPruner``, which serves any training loop. Gradients are taken in
    evaluation mode on batches of rows of the training set that a generator of the epoch draws, and
    on several ranks they are those of one process. Of a ``LightningModule`` of one's own they are
    those of its ``training_step``, without what it logs, on parts of its training batches.

    Weights stay where they are in the module: they are exactly 0 after each step, in checkpoints,
    exports and evaluations, which need neither this callback nor masks. A reparametrization, as of
    ``torch.nn.utils.prune`` and Lightning's ``ModelPruning``, would put other parameters into the
    optimizer, into DDP and into every checkpoint. Masks are in the callback's state.

    Paper: Frantar, Kurtic and Alistarh, M-FAC: Efficient Matrix-Free Approximations of
    Second-Order Information, NeurIPS 2021, arXiv:2107.03356; the schedule is that of Zhu and
    Gupta, arXiv:1710.01878.

    Args:
        sparsity: Share of the weights that is removed in the end, in [0, 1).
        start: Epoch, from 0, at whose beginning the share ``initial`` is removed, and from which
            it grows.
        end: Epoch from which all are that will be; None for ``start``, which is one shot.
        frequency: Number of epochs from one removal to the next.
        initial: Share that is removed at ``start``, where that is before ``end``.
        method: ``mfac``, or ``magnitude`` for the smallest weights.
        include: Patterns of names of layers that are pruned, such as ``backbone.*``; linear and
            convolutional layers among them.
        exclude: Patterns of names of layers that are not.
        ngrads: Number m of gradients of a round.
        gradient_batch: Number of rows of a gradient's batch, over all ranks.
        block_size: Size of the blocks of the Fisher matrix; None for one block.
        damping: Damping of the matrix, above 0.
        recomputations: Number of rounds of a removal, each with new gradients.

    Raises:
        ValueError: An argument is out of range, or the masks of a checkpoint are of other weights.
        IncompatibleError: No layer matches, or a module in manual optimization.

    Example:
        >>> round(MFACPruner(sparsity=0.8, start=2, end=6).planned(4), 2)
        0.7
    """

    whole_parameters = True
    panels: tuple[Panel, ...] = (Panel("Share of weights removed", ("train/sparsity",)),)

    def __init__(
        self,
        sparsity: float = 0.8,
        start: int = 1,
        end: int | None = None,
        frequency: int = 1,
        initial: float = 0.0,
        method: Literal["mfac", "magnitude"] = "mfac",
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        ngrads: int = 64,
        gradient_batch: int = 32,
        block_size: int | None = 128,
        damping: float = 1e-5,
        recomputations: int = 16,
    ) -> None:
        check_pruning(method, ngrads, block_size, damping, recomputations)
        check_at_least(1, frequency=frequency, gradient_batch=gradient_batch)
        cubic_sparsity(0, start, start if end is None else end, sparsity, initial)
        self.sparsity = sparsity
        self.start = start
        self.end = start if end is None else end
        self.frequency = frequency
        self.initial = initial
        self.method: Literal["mfac", "magnitude"] = method
        self.include = list(include)
        self.exclude = list(exclude)
        self.ngrads = ngrads
        self.gradient_batch = gradient_batch
        self.block_size = block_size
        self.damping = damping
        self.recomputations = recomputations
        self.pruner: WeightPruner | None = None
        """What prunes the module of the latest fit."""
        self._epoch = -1
        self._loaded: dict[str, Any] | None = None

    def planned(self, epoch: int) -> float:
        """Return the share of weights that are removed in an epoch."""
        last = self.end if epoch >= self.end else epoch - (epoch - self.start) % self.frequency
        return cubic_sparsity(last, self.start, self.end, self.sparsity, self.initial)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that has no such layer, or no loss per step."""
        if stage != "fit":
            return
        self.pruner = self._loaded = None
        self._epoch = -1
        if not pl_module.automatic_optimization:
            raise IncompatibleError(
                "MFACPruner takes the gradient of a training step, and "
                f"{type(pl_module).__name__} optimizes by itself: use "
                "framework.pruning.WeightPruner in its training_step."
            )
        self._weights(pl_module)

    def _weights(self, module: LightningModule) -> dict[str, Tensor]:
        """Return the weights to prune, by name; shared ones once."""

        def matches(name: str, patterns: Sequence[str]) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns)

        # a parameter that layers share is named once
        known = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
        found: dict[str, Tensor] = {}
        for name, layer in module.named_modules():
            if not isinstance(layer, (nn.Linear, _ConvNd)) or id(layer.weight) not in known:
                continue
            if matches(name, self.include) and not matches(name, self.exclude):
                found[known[id(layer.weight)]] = layer.weight
        if not found:
            layers = [n for n, p in module.named_modules() if isinstance(p, (nn.Linear, _ConvNd))]
            raise IncompatibleError(
                f"MFACPruner found no layer of {type(module).__name__} by include={self.include} "
                f"and exclude={self.exclude}; its linear and convolutional layers are "
                f"{', '.join(layers) or 'none'}."
            )
        return found

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the masks of a checkpoint, or from none."""
        self.pruner = WeightPruner(
            self._weights(pl_module),
            self.method,
            self.ngrads,
            self.block_size,
            self.damping,
            self.recomputations,
        )
        if self._loaded is not None:
            self.pruner.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what is due in this epoch."""
        self._prune(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remove what is due where a run goes on, of which not every epoch is said to start."""
        self._prune(trainer, pl_module)

    def _prune(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what is due in this epoch, once."""
        assert self.pruner is not None
        epoch = trainer.current_epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        rounds = iter(range(self.recomputations))

        def gradients() -> Iterator[Sequence[Tensor]]:
            assert self.pruner is not None
            return mean_gradients(
                pl_module,
                list(self.pruner.weights.values()),
                self.ngrads,
                self.gradient_batch,
                ("pruning", epoch, next(rounds)),
            )

        with _averages_follow(trainer, pl_module, self.pruner):
            self.pruner.prune_to(self.planned(epoch), gradients)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Set gradients of removed weights to 0, before gradients are clipped."""
        if self.pruner is not None:
            self.pruner.mask_gradients()

    def after_step(self, pl_module: LightningModule) -> None:
        """Set removed weights to 0."""
        assert self.pruner is not None
        self.pruner.apply_masks()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of weights that are removed."""
        assert self.pruner is not None
        pl_module.log("train/sparsity", self.pruner.sparsity)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks, and the epoch whose removal is done."""
        if self.pruner is None:
            return {}
        return {"masks": self.pruner.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the masks until training starts."""
        self._loaded = state_dict.get("masks")
        self._epoch = state_dict.get("epoch", -1)


@contextmanager
def _averages_follow(
    trainer: Trainer, module: LightningModule, pruner: WeightPruner
) -> Iterator[None]:
    """Let averages of the weights, which would remember those that leave, do what these do."""
    found = (getattr(c, "weights", None) for c in trainer.callbacks)  # type: ignore[attr-defined]
    averages = [a.average for a in found if isinstance(a, AveragedWeights)]
    before = {n: w.detach().clone() for n, w in pruner.weights.items()} if averages else {}
    yield
    known = {id(pruner.weights[name]): name for name in before}
    # a parameter that layers share has an average under each of its names
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in known:
            own = known[id(parameter)]
            for average in averages:
                average[name].add_(parameter.detach() - before[own])
                average[name].masked_fill_(~pruner.masks[own], 0.0)
