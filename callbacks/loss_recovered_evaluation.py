"""The language model's loss with reconstructions in the place of its activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.language.language_model import LanguageModel, Replace
from framework.objectives.errors import IncompatibleError
from framework.sparse_coding.loss_recovered import LossRecovered
from framework.sparse_coding.normalization import Normalization
from framework.utilities.checks import check_at_least
from framework.utilities.lightning_internals import datamodule_of


class LossRecoveredEvaluation(Callback):
    """Logs how much of a causal language model's loss an autoencoder's reconstructions keep.

    At the end of a validation or test the model reads the held-out contexts as it is, and with its
    activations at the hook point replaced by reconstructions, by zeros and by their mean over these
    contexts. A transcoder's predictions take the place of the activations at its target. Special
    tokens keep theirs, and only the prediction of text counts. The seven numbers of
    ``LossRecovered`` are logged, such as
    ``val/loss_recovered``; a checkpoint may monitor them.

    It takes four passes of the language model over ``max_contexts`` contexts, and another one up to
    the hook point; of several ranks each takes its share.

    Args:
        max_contexts: Number of contexts, from the start of the held-out part.
        contexts_per_forward: Contexts of one pass.
        every_n_epochs: Epochs between two evaluations during ``fit``; ``validate`` and ``test``
            always evaluate.

    Raises:
        ValueError: An argument below 1.
        IncompatibleError: Data that does not come from a language model that predicts tokens.

    Example:
        >>> LossRecoveredEvaluation(max_contexts=256).max_contexts
        256
    """

    def __init__(
        self, max_contexts: int = 64, contexts_per_forward: int = 8, every_n_epochs: int = 1
    ) -> None:
        check_at_least(
            1,
            max_contexts=max_contexts,
            contexts_per_forward=contexts_per_forward,
            every_n_epochs=every_n_epochs,
        )
        self.max_contexts = max_contexts
        self.contexts_per_forward = contexts_per_forward
        self.every_n_epochs = every_n_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse data without a language model that predicts tokens."""
        data: Any = datamodule_of(trainer)
        model = getattr(data, "language_model", None)
        if not isinstance(model, LanguageModel):
            raise IncompatibleError(
                "LossRecoveredEvaluation needs the language model that activations come from, "
                f"which {type(data).__name__} does not have."
            )
        if not model.is_causal:
            raise IncompatibleError(
                "LossRecoveredEvaluation measures how well the next token is predicted, and "
                f"{model.name} predicts none: use a causal language model."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log, where it is due."""
        fitting = trainer.state.fn == "fit"
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.sanity_checking or (fitting and not due):
            return
        stage = "test" if trainer.testing else "val"
        splice = _Splice(trainer.datamodule, pl_module)  # type: ignore[attr-defined]
        contexts = splice.held_out(stage)[: self.max_contexts]
        if not len(contexts):
            return
        # every W-th pass, whole: the same contexts go together on any number of ranks
        own = contexts.split(self.contexts_per_forward)[rank() :: world_size()]
        mean = splice.mean(own)
        metric = LossRecovered().to(pl_module.device)
        for ids in own:
            metric.update(*splice.losses(ids, mean))
        pl_module.log_dict({f"{stage}/{n}": v for n, v in metric.compute().items()})

    on_test_epoch_end = on_validation_epoch_end


class _Splice:
    """Replaces activations of text inside a language model.

    Args:
        data: Datamodule ``Activations``.
        module: Module from activations in their common size to reconstructions.
    """

    def __init__(self, data: Any, module: LightningModule) -> None:
        self.data = data
        self.module = module
        self.dtype = next(module.parameters()).dtype
        self.model: LanguageModel = data.language_model.to(module.device)
        self.source: str = data.hook_point
        self.point: str = data.target_hook_point or data.hook_point
        self.text = slice(*data.text_positions)
        units: dict[str, Normalization] = data.normalizations
        self.unit = units["activation"]
        self.target_unit = units.get("target", self.unit)

    def held_out(self, stage: str) -> Tensor:
        """Return the contexts of a stage, (N, L) int64."""
        part = self.data.val_set if stage == "val" else self.data.test_set
        if part is None:
            return torch.empty(0, 0, dtype=torch.int64)
        length = self.text.stop - self.text.start
        return self.data.contexts[torch.as_tensor(part.indices[::length]) // length].long()

    def mean(self, own: tuple[Tensor, ...]) -> Tensor:
        """Return the mean activation of text in all ranks' contexts, (d,); collective."""
        size = self.data.target_size or self.data.input_size
        total = torch.zeros(size + 1, dtype=torch.float64, device=self.module.device)
        for ids in own:
            (value,) = self.model.activations(ids, [self.point])
            text = value[:, self.text].flatten(0, 1)
            total[:-1] += text.sum(0, dtype=torch.float64)
            total[-1] += len(text)
        total = all_reduce_sum(total)
        return total[:-1] / total[-1]

    def losses(self, ids: Tensor, mean: Tensor) -> Iterator[Tensor]:
        """Yield the cross-entropy of every predicted token of text: clean, sae, zero, mean."""
        seen: list[Tensor] = []

        def look(value: Tensor) -> Tensor:
            seen[:] = [value[:, self.text]]
            return value

        def rebuild(text: Tensor) -> Tensor:
            source = text if self.source == self.point else seen[0]
            found = self.module(self.unit(source.flatten(0, 1).float()).to(self.dtype))
            found = found.to(torch.float32).view(*text.shape)
            return self.target_unit.restore(found, text.float())

        yield self._loss(ids, {})
        sources = {} if self.source == self.point else {self.source: look}
        yield self._loss(ids, sources | {self.point: self._in_text(rebuild)})
        yield self._loss(ids, {self.point: self._in_text(torch.zeros_like)})
        yield self._loss(ids, {self.point: self._in_text(lambda text: mean.expand_as(text))})

    def _in_text(self, replace: Replace) -> Replace:
        def changed(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, self.text] = replace(value[:, self.text]).to(value.dtype)
            return value

        return changed

    def _loss(self, ids: Tensor, replace: dict[str, Replace]) -> Tensor:
        logits = self.model.logits(ids, replace).float()
        # the token before each token of text predicts it; before the first there may be none
        start = max(1, self.text.start)
        predictions = logits[:, start - 1 : self.text.stop - 1].flatten(0, 1)
        target = ids[:, start : self.text.stop].flatten().to(predictions.device)
        return F.cross_entropy(predictions, target, reduction="none")
