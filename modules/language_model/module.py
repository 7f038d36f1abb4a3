"""Language modeling: a stack of LSTMs predicts the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import Perplexity

from framework.data.datasets import Batch
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least
from framework.utilities.precision import at_least_float32
from modules.language_model.network import LSTMNetwork


class BitsPerCharacter(Perplexity):
    """Logarithm of the perplexity to the base 2."""

    def compute(self) -> Tensor:
        """Return the bits that a character takes on average."""
        return super().compute().log2()


class LSTMLanguageModel(TrainingModule):
    """Predicts the next token of a text by LSTMs one above the other.

    A batch holds ``token`` (B, T) int64, ``next_token`` (B, T) int64 and ``index`` (B,). The term
    ``language`` is the mean cross-entropy of a window; with ``alpha`` and ``beta`` there are
    ``activation``, the mean square of the last LSTM's output after dropout, and ``temporal``, the
    mean square of what that output, before dropout, changes by from token to token. Validation and
    test have ``language`` alone, and so has the loss of a held-out guide.

    Every window starts from zero states. AWD-LSTM's and self-tuning networks' code reads a few
    streams of text in order and hands the states from window to window, for which no stream of
    shuffled batches, the same on any number of ranks, can be.

    Papers: Merity, Keskar, Socher, Regularizing and Optimizing LSTM Language Models, ICLR 2018,
    arXiv:1708.02182; MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088, whose code
    tunes these rates and weights.

    Args:
        vocabulary_size: Number V of tokens; None for that of the data, see ``for_data``.
        width: Width D of the embedding, and of the last LSTM's output.
        hidden_width: Width of the output of the other LSTMs.
        layers: Number of LSTMs.
        tied: Whether the decoder's weights are those of the embedding.
        input_dropout: Probability of a zero in what the first LSTM gets.
        hidden_dropout: Probability of a zero between two LSTMs.
        output_dropout: Probability of a zero in what the decoder gets.
        alpha: Weight of the term ``activation``; with 0 there is none.
        beta: Weight of the term ``temporal``; with 0 there is none.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``vocabulary_size`` is None where nothing fills it; a size, a probability or a
            weight out of range; or the data has another vocabulary (at ``setup``).

    Example:
        >>> import torch
        >>> from modules import LSTMLanguageModel
        >>> model = LSTMLanguageModel(vocabulary_size=30)
        >>> tuple(model(torch.zeros(2, 70, dtype=torch.int64)).shape)
        (2, 70, 30)
    """

    arguments_from_data = {"vocabulary_size": "vocabulary_size"}  # noqa: RUF012
    panels: tuple[Panel, ...] = (
        Panel("Perplexity", ("perplexity",), "tokens", best="min"),
        Panel("Bits per character", ("bits_per_character",), "bits", best="min"),
    )
    required_fields = ("token", "next_token")
    tuple_fields = ("token", "next_token")
    provides = ("per_sample", "index")

    def __init__(
        self,
        vocabulary_size: int | None = None,
        width: int = 128,
        hidden_width: int = 256,
        layers: int = 2,
        tied: bool = True,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        output_dropout: float = 0.0,
        alpha: float = 0.0,
        beta: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if vocabulary_size is None:
            raise ValueError(
                "Neither an argument nor the data says how many tokens there are: set "
                f"model.vocabulary_size, or in Python use {type(self).__name__}.for_data(data)."
            )
        check_at_least(0, alpha=alpha, beta=beta)
        self.vocabulary_size = vocabulary_size
        self.network = LSTMNetwork(
            vocabulary_size,
            width=width,
            hidden_width=hidden_width,
            layers=layers,
            tied=tied,
            input_dropout=input_dropout,
            hidden_dropout=hidden_dropout,
            output_dropout=output_dropout,
        )
        self.alpha = alpha
        self.beta = beta

    def setup(self, stage: str) -> None:
        """Check that the data has the model's vocabulary."""
        check_fact(self.datamodule, "vocabulary_size", self.vocabulary_size)
        super().setup(stage)

    def check_numbers(self, batch: Batch) -> None:
        """Refuse a number that is none of a token."""
        super().check_numbers(batch)
        for name in self.required_fields:
            token = batch[name]
            if not token.numel():
                continue
            low, high = (int(value) for value in token.aminmax())
            if low < 0 or high >= self.vocabulary_size:
                raise ValueError(
                    f"{name} holds {low if low < 0 else high}, and the model has the tokens "
                    f"0..{self.vocabulary_size - 1}: set model.vocabulary_size."
                )

    def forward(self, token: Tensor) -> Tensor:
        """Return logits (B, T, V) of the token that follows each."""
        return self.network(token).logits

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch["token"],)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``language`` and, where they have a weight, the two of the output."""
        found = self.network(batch["token"])
        objectives = self._language(found.logits, batch)
        if self.alpha:
            objectives.per_sample["activation"] = _mean_square(found.dropped)
            objectives.weights["activation"] = self.alpha
        if self.beta:
            objectives.per_sample["temporal"] = _mean_square(found.output.diff(dim=1))
            objectives.weights["temporal"] = self.beta
        return objectives

    def guide_objectives(self, batch: Batch) -> Objectives:
        """Return the term ``language``, without what regularizes."""
        return self._language(self(batch["token"]), batch)

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the term ``language``."""
        logits = self(batch["token"])
        if len(logits):
            self.metrics.update(logits.float(), batch["next_token"])
        return self._language(logits, batch)

    def _language(self, logits: Tensor, batch: Batch) -> Objectives:
        losses = _cross_entropy(logits, batch["next_token"])
        return Objectives(per_sample={"language": losses.mean(1)}, index=batch.get("index"))

    def make_metrics(self) -> Mapping[str, Metric]:
        """Return the perplexity and, where tokens are characters, bits per character."""
        metrics: dict[str, Metric] = {"perplexity": Perplexity()}
        data = self.datamodule
        level = getattr(data, "token_level", self.data_facts.get("token_level"))
        if level == "character":
            metrics["bits_per_character"] = BitsPerCharacter()
        return {name: metric.set_dtype(torch.float64) for name, metric in metrics.items()}

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the log-likelihood of every window, given its first token, in nats."""
        token, following = batch["token"], batch.get("next_token")
        if following is None:
            token, following = token[:, :-1], token[:, 1:]
        return {"log_likelihood": -_cross_entropy(self(token), following).sum(1)}


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of every token, (B, T)."""
    losses = F.cross_entropy(
        at_least_float32(logits).flatten(0, 1), target.flatten(), reduction="none"
    )
    return losses.view_as(target)


def _mean_square(x: Tensor) -> Tensor:
    """Return the mean square of every window, (B,); 0 for windows of no token."""
    squares = at_least_float32(x).square().flatten(1)
    return squares.sum(1) / max(squares.shape[1], 1)
