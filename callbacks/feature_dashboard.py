"""A page of the contexts in which features are most active."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.data.datasets import Batch
from framework.figures.score_table import Table
from framework.language.language_model import LanguageModel
from framework.objectives.errors import IncompatibleError
from framework.runs.media import log_table
from framework.sparse_coding.feature_density import FeatureDensity
from framework.sparse_coding.feature_html import Feature, Passage, render_page, token_texts
from framework.sparse_coding.sparse_code import SparseCode
from framework.sparse_coding.top_contexts import TopContexts
from framework.utilities.checks import check_at_least
from framework.utilities.counts import count_values
from framework.utilities.files import write_atomically
from framework.utilities.lightning_internals import datamodule_of

CONTEXTS_AT_ONCE = 8


class FeatureDashboard(Callback):
    """Writes ``features.html`` into the run folder: the contexts that activate features most.

    A page is written after each validation or test, from the held-out tokens, and replaces the one
    before; W&B, TensorBoard and MLflow get the same as a table ``features``. It needs the
    ``Activations`` datamodule, whose text is shown, and a module with a network ``sae`` that
    encodes. Encoding the held-out tokens once more is what it costs.

    Args:
        num_features: Number of features that are shown, spread evenly over the ranks of their
            density, the most frequent first; those that are never active are left out.
        features: Numbers of the features that are shown instead.
        num_contexts: Number of contexts per feature.
        every_n_epochs: Epochs between two pages during ``fit``; ``validate`` and ``test`` always
            write.

    Raises:
        ValueError: An argument out of its range.
        IncompatibleError: A module or data without what is needed, or without such a feature.

    Example:
        >>> FeatureDashboard(features=[0, 17], num_contexts=5).num_contexts
        5
    """

    def __init__(
        self,
        num_features: int = 24,
        features: list[int] | None = None,
        num_contexts: int = 8,
        every_n_epochs: int = 1,
    ) -> None:
        check_at_least(
            1, num_features=num_features, num_contexts=num_contexts, every_n_epochs=every_n_epochs
        )
        self.num_features = num_features
        self.features = features
        self.num_contexts = num_contexts
        self.every_n_epochs = every_n_epochs
        self._top: TopContexts | None = None
        self._density: FeatureDensity | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what has no text or no features."""
        data: Any = datamodule_of(trainer)
        if not isinstance(getattr(data, "language_model", None), LanguageModel):
            raise IncompatibleError(
                f"FeatureDashboard shows the text that activations come from, which "
                f"{type(data).__name__} does not have."
            )
        if not hasattr(getattr(pl_module, "sae", None), "encode"):
            raise IncompatibleError(
                f"FeatureDashboard shows the features of a sparse autoencoder, which "
                f"{type(pl_module).__name__} does not have."
            )
        size: int = pl_module.sae.d_sae  # type: ignore[union-attr,assignment]
        wrong = [f for f in self.features or [] if not 0 <= f < size]
        if wrong:
            raise IncompatibleError(
                f"FeatureDashboard cannot show feature {wrong[0]}: they are 0 to {size - 1:,}."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an earlier evaluation counted."""
        self._top = self._density = None

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch, which may be empty."""
        if not self._due(trainer):
            return
        values, rows, features, size = _entries(pl_module, batch["activation"])
        if self._top is None or self._density is None:
            self._top = TopContexts(size, self.num_contexts).to(pl_module.device)
            self._density = FeatureDensity(size).to(pl_module.device)
        start, stop = trainer.datamodule.text_positions  # type: ignore[attr-defined]
        self._top.update(values, features, batch["index"][rows] // (stop - start))
        per_token = count_values(rows, len(batch["index"]))
        self._density.update(count_values(features, size), per_token)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page of this evaluation."""
        if self._top is None or self._density is None:
            return
        density = self._density.compute()["density"]
        _, contexts = self._top.compute()
        self._top = self._density = None
        if not trainer.is_global_zero:
            return
        chosen = self._chosen(density)
        found = _features(trainer.datamodule, pl_module, chosen, density, contexts)  # type: ignore[attr-defined]
        path = Path(trainer.default_root_dir) / "features.html"
        title = f"Features of {trainer.datamodule.hook_point}"  # type: ignore[attr-defined]
        write_atomically(path, lambda file: file.write(render_page(found, title).encode()))
        log_table(trainer, "features", _table(found, title))

    on_test_epoch_end = on_validation_epoch_end

    def _due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        fitting = trainer.state.fn == "fit"
        return not fitting or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _chosen(self, density: Tensor) -> list[int]:
        """Return the features to show."""
        if self.features is not None:
            return self.features
        order = density.argsort(descending=True, stable=True)
        active = int((density > 0).sum())
        shown = min(self.num_features, active)
        places = torch.arange(shown) * active // max(1, shown)
        return order[places.to(order.device)].tolist()


def _entries(module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return values, rows and features of the active entries of a code, and F."""
    code = module.sae.encode(x)
    if isinstance(code, SparseCode):
        return *code.entries(), code.pattern.shape[1]
    rows, features = (code > 0).nonzero(as_tuple=True)
    return code[rows, features], rows, features, code.shape[1]


def _features(
    data: Any, module: LightningModule, chosen: Sequence[int], density: Tensor, contexts: Tensor
) -> list[Feature]:
    """Return what is shown: each chosen feature's activation on every token of its contexts."""
    wanted = contexts[chosen].cpu()
    needed = wanted[wanted >= 0].unique()
    text = slice(*data.text_positions)
    model = data.language_model.to(module.device)
    dtype = next(module.parameters()).dtype
    columns: dict[int, Tensor] = {}
    for part in needed.split(CONTEXTS_AT_ONCE):
        (value,) = model.activations(data.contexts[part].long(), [data.hook_point])
        x = data.normalizations["activation"](value[:, text].flatten(0, 1).float())
        values, rows, features, size = _entries(module, x.to(dtype))
        dense = torch.zeros(len(x), size, device=x.device)
        dense[rows, features] = values.float()
        shown = dense[:, chosen].view(len(part), -1, len(chosen)).cpu()
        columns |= dict(zip(part.tolist(), shown, strict=True))
    words = {c: token_texts(model.tokenizer, data.contexts[c, text].tolist()) for c in columns}
    return [
        Feature(
            number,
            float(density[number]),
            [Passage(words[c], columns[c][:, k].tolist()) for c in wanted[k].tolist() if c >= 0],
        )
        for k, number in enumerate(chosen)
    ]


def _table(features: Sequence[Feature], caption: str) -> Table:
    rows = [
        (f.number, f.density, max(p.values), p.around_peak().marked())
        for f in features
        for p in f.passages
    ]
    return Table(caption, ("feature", "density", "activation", "context"), rows)
