"""Text that a trained language model goes on with."""

from __future__ import annotations

import torch

from framework.language.vocabulary import Vocabulary
from framework.utilities.checks import check_at_least
from framework.utilities.evaluation_mode import evaluation_mode
from modules.language_model.module import LSTMLanguageModel


@torch.no_grad()
def generate_text(
    model: LSTMLanguageModel,
    prompt: str = "\n",
    length: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """Return a text that follows a prompt, each token drawn by its probability.

    What the vocabulary lacks, ``<unk>``, is never drawn. The same arguments give the same text on
    the same machine.

    Args:
        model: Trained language model, as ``trimtab.load`` returns it.
        prompt: Text before it, which is not returned; one token at least.
        length: Number of tokens to draw.
        temperature: Number that logits are divided by before they become probabilities; 0 takes the
            most probable token.
        seed: Seed of the draws.

    Raises:
        ValueError: The model knows no vocabulary, as it was not trained on one; an empty prompt; a
            number out of range.

    Example:
        >>> model = LSTMLanguageModel(vocabulary_size=3, width=4, layers=1)
        >>> model.data_facts = {"vocabulary": ["<unk>", "a", "b"], "token_level": "character"}
        >>> len(generate_text(model, "ab", length=7))
        7
    """
    check_at_least(0, length=length, temperature=temperature)
    facts = model.data_facts
    if "vocabulary" not in facts:
        raise ValueError(
            "The model knows no vocabulary: train it on TextWindows, and load it by trimtab.load."
        )
    vocabulary = Vocabulary(facts["vocabulary"], facts["token_level"])
    token = vocabulary.encode(prompt)
    if not len(token):
        raise ValueError("The prompt has no token: give one at least, such as a line break.")
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = []
    states = None
    with evaluation_mode(model):
        for _ in range(length):
            found = model.network(token[None].to(model.device), states)
            states = found.states
            logits = found.logits[0, -1].double().cpu()
            logits[0] = -torch.inf
            if temperature == 0:
                token = logits.argmax()[None]
            else:
                chances = (logits / temperature).softmax(0)
                token = torch.multinomial(chances, 1, generator=generator)
            drawn.append(int(token))
    return vocabulary.decode(drawn)
