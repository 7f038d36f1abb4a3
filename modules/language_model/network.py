"""A stack of LSTMs that predicts the next token, with a mask of dropout between any two layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout
from framework.utilities.checks import check_at_least

State = tuple[Tensor, Tensor]
"""Output and cell of an LSTM after its last token, each (1, B, D)."""


class LanguageOutput(NamedTuple):
    """What a language model says of B windows of T tokens.

    Args:
        logits: Logits (B, T, V) of the token that follows each.
        dropped: Output (B, T, D) of the last LSTM as the decoder gets it, after dropout.
        output: Output (B, T, D) of the last LSTM.
        states: States of the LSTMs after the last token.
    """

    logits: Tensor
    dropped: Tensor
    output: Tensor
    states: list[State]


class LSTMNetwork(nn.Module):
    """An embedding, LSTMs one above the other, and a linear decoder to the V tokens.

    Dropout is that of AWD-LSTM: a mask of the features, drawn for each window and the same for all
    of its tokens. Layers are exact ``nn.Embedding``, ``nn.LSTM`` of one layer and ``nn.Linear``.

    Paper: Merity, Keskar, Socher, Regularizing and Optimizing LSTM Language Models, ICLR 2018,
    arXiv:1708.02182, of which the masks and the tied decoder are.

    The arguments are those of ``LSTMLanguageModel``.

    Raises:
        ValueError: A size or a probability out of range.

    Example:
        >>> network = LSTMNetwork(vocabulary_size=30, width=8, hidden_width=16, layers=2)
        >>> found = network(torch.zeros(3, 5, dtype=torch.int64))
        >>> tuple(found.logits.shape), tuple(found.output.shape)
        ((3, 5, 30), (3, 5, 8))
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        hidden_width: int,
        layers: int,
        tied: bool = True,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(2, vocabulary_size=vocabulary_size)
        check_at_least(1, width=width, hidden_width=hidden_width, layers=layers)
        widths = [width, *[hidden_width] * (layers - 1), width]
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.input_dropout = GlobalDropout(input_dropout, stream="language/input")
        self.lstms = nn.ModuleList(
            nn.LSTM(before, after, batch_first=True) for before, after in pairwise(widths)
        )
        self.hidden_dropouts = nn.ModuleList(
            GlobalDropout(hidden_dropout, stream=f"language/hidden{k}") for k in range(layers - 1)
        )
        self.output_dropout = GlobalDropout(output_dropout, stream="language/output")
        self.decoder = nn.Linear(width, vocabulary_size)
        # logits of embeddings of length 1 per feature would be far from those of no knowledge
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if tied:
            self.decoder.weight = self.embedding.weight
        else:
            nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, token: Tensor, states: Sequence[State] | None = None) -> LanguageOutput:
        """Return what follows each token.

        Args:
            token: Tokens (B, T) int64.
            states: States of the LSTMs before the first token; default zeros.
        """
        x = with_one_mask(self.input_dropout, self.embedding(token))
        after: list[State] = []
        # cuDNN has no backward pass of what ran in evaluation mode
        whole = self.training or not torch.is_grad_enabled()
        with nullcontext() if whole else torch.backends.cudnn.flags(enabled=False):
            for k, lstm in enumerate(self.lstms):
                if k:
                    x = with_one_mask(self.hidden_dropouts[k - 1], x)
                x, state = lstm(x, None if states is None else states[k])
                after.append(state)
        dropped = with_one_mask(self.output_dropout, x)
        return LanguageOutput(self.decoder(dropped), dropped, x, after)


def with_one_mask(dropout: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` after dropout with one mask for all tokens of a window.

    Args:
        dropout: Dropout layer, which makes the mask out of ones.
        x: Features (B, T, D).
    """
    if not dropout.training:
        return x
    return x * dropout(x.new_ones(len(x), 1, x.shape[2]))
