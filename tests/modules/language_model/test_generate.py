"""Texts that a language model goes on with."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from modules.language_model import LSTMLanguageModel, generate_text

FACTS = {"vocabulary": ["<unk>", "a", "b", "c"], "token_level": "character"}


def model(bias: list[float] | None = None) -> LSTMLanguageModel:
    """A model; with ``bias`` one that draws each token by these logits, whatever came before."""
    torch.manual_seed(0)
    module = LSTMLanguageModel(vocabulary_size=4, width=4, hidden_width=5)
    module.data_facts = FACTS
    if bias is not None:
        with torch.no_grad():
            module.network.embedding.weight.zero_()
            module.network.decoder.bias.copy_(torch.tensor(bias))
    return module


def test_tokens_are_drawn_by_their_probability() -> None:
    # of which the unknown token, the most probable one, is never drawn
    drawn = Counter(generate_text(model([5.0, 1.0, 0.0, 0.0]), "a", length=1000))
    expected = torch.tensor([1.0, 0.0, 0.0]).softmax(0)
    for letter, share in zip("abc", expected.tolist(), strict=True):
        assert drawn[letter] / 1000 == pytest.approx(share, abs=4 * (0.25 / 1000) ** 0.5)


def test_temperature_and_seed() -> None:
    assert generate_text(model([0.0, 0.1, 0.0, 0.0]), "b", length=30, temperature=0) == "a" * 30
    cold = generate_text(model([0.0, 0.1, 0.0, 0.0]), "b", length=30, temperature=1e-3)
    assert cold == "a" * 30
    texts = [generate_text(model(), "b", length=30, seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_the_state_is_that_of_the_whole_text() -> None:
    module = model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(6)
    text = "ab"
    for _ in range(12):
        token = torch.tensor([["?abc".index(c) for c in text]])
        with torch.no_grad():
            text += "?abc"[1 + int(module.eval()(token)[0, -1, 1:].argmax())]
    assert generate_text(module, "ab", length=12, temperature=0) == text[2:]
    assert len(set(text)) > 1


def test_words_are_joined_to_lines() -> None:
    module = model([0.0, 9.0, 0.0, 0.0])
    module.data_facts = {"vocabulary": ["<unk>", "to", "be", "<eos>"], "token_level": "word"}
    assert generate_text(module, "be", length=3, temperature=0) == "to to to"


def test_it_runs_as_in_evaluation_and_leaves_the_mode() -> None:
    module = model().train()
    module.network.output_dropout.p = 0.9
    texts = {generate_text(module, "ab", length=20) for _ in range(3)}
    assert len(texts) == 1
    assert module.training


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="length must be at least 0"):
        generate_text(model(), "a", length=-1)
    with pytest.raises(ValueError, match="prompt has no token"):
        generate_text(model(), "")
    untrained = LSTMLanguageModel(vocabulary_size=4)
    with pytest.raises(ValueError, match="knows no vocabulary: train it on TextWindows"):
        generate_text(untrained, "a")
    with pytest.raises(ValueError, match="prompt must be a text, got 5: put it in quotes"):
        generate_text(model(), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by an LSTMLanguageModel, got a Linear: load one by"):
        generate_text(torch.nn.Linear(1, 1), "a")  # type: ignore[arg-type]
