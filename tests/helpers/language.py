"""Language models of random weights that run in milliseconds, and a tokenizer of single letters."""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import Tensor, nn

from datamodules import Activations
from framework.data.datasets import Batch
from framework.language.language_model import LanguageModel
from framework.objectives.objectives import Objectives
from framework.training.module import TrainingModule

LETTERS = string.ascii_lowercase + " .\n"


def tiny_tokenizer(*, bert: bool = False) -> Any:
    """Return a tokenizer of letters; [CLS] and [SEP] surround a text, or <s> may begin it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[UNK]", "[CLS]", "[SEP]"] if bert else ["[UNK]", "<s>"]
    vocabulary = {token: k for k, token in enumerate([*specials, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if bert:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="<s>")


def tiny_causal(seed: int = 0) -> LanguageModel:
    """Return a Llama of two layers and width 8."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return LanguageModel(LlamaForCausalLM(config), tiny_tokenizer(), "tiny")


def tiny_encoder(seed: int = 0) -> LanguageModel:
    """Return a BERT of two layers and width 8."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return LanguageModel(BertModel(config), tiny_tokenizer(bert=True), "tiny")


class Rebuild(TrainingModule):
    """The plainest reader of activations: a linear map of width 8 back to them."""

    provides = ("per_sample", "index")

    def __init__(self) -> None:
        super().__init__(optimizer=lambda groups: torch.optim.Adam(groups, lr=0.01))
        self.network = nn.Linear(8, 8)

    def forward(self, activation: Tensor) -> Tensor:
        return self.network(activation)

    def objectives(self, batch: Batch) -> Objectives:
        error = self(batch["activation"]) - batch["activation"]
        return Objectives(
            per_sample={"reconstruction": error.square().mean(1)}, index=batch["index"]
        )

    def evaluate(self, batch: Batch) -> Objectives:
        return self.objectives(batch)


class LetterActivations(Activations):
    """Activations of a model that is there already, in contexts of a token to begin and 8 letters.

    Args:
        model: the language model.
        **kwargs: of ``Activations``.
    """

    def __init__(self, model: LanguageModel, **kwargs: Any) -> None:
        settings: dict[str, Any] = {
            "hook_point": "model.layers.0",
            "context_length": 9,
            "contexts_per_forward": 4,
            "batch_size": 64,
            "val_size": 80,
            "test_size": 40,
            "normalization": "none",
        }
        super().__init__(**settings | kwargs)
        self.given = model

    def load_model(self) -> LanguageModel:
        return self.given
