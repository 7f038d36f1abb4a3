"""Word dropout: whole words, the same in all rows and on all ranks."""

import pytest
import torch
from torch import Tensor, nn

from framework.distributed.collectives import rank
from framework.self_tuning import Draws, HyperParameter, WordDropout


def embedded(model: nn.Module, tokens: Tensor, rate: float) -> Tensor:
    effect = WordDropout()
    effect.attach(model)
    with effect.at({"rate": torch.tensor(rate)}, Draws(0, 2)):
        return model(tokens)


def table() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(1000, 3))


def test_a_word_is_missing_everywhere_or_nowhere() -> None:
    model = table()
    tokens = torch.arange(1000).repeat(2, 2)
    y = embedded(model, tokens, 0.25)
    missing = (y == 0).all(-1)
    assert torch.equal(missing, (y == 0).any(-1))
    assert torch.equal(missing[0], missing[1])
    assert torch.equal(missing[:, :1000], missing[:, 1000:])
    assert float(missing.double().mean()) == pytest.approx(0.25, abs=0.06)
    assert torch.allclose(y, torch.where(missing[..., None], 0, model[0](tokens) / 0.75))


def test_the_limits_and_evaluation() -> None:
    model, tokens = table(), torch.tensor([[1, 2, 3]])
    plain = model(tokens)
    assert torch.equal(embedded(model, tokens, 0.0), plain)
    assert (embedded(model, tokens, 1.0) == 0).all()
    assert torch.equal(embedded(model.eval(), tokens, 0.5), plain)


def on_rank(tokens: Tensor) -> Tensor:
    return embedded(table(), tokens[4 * rank() :], 0.5)


def test_ranks_miss_the_same_words(two_ranks) -> None:
    tokens = torch.arange(12).view(4, 3)
    whole = embedded(table(), tokens, 0.5)
    first, second = two_ranks(on_rank, tokens)
    assert torch.equal(first, whole)
    assert second.shape == (0, 3, 3)


def test_its_rate_is_shared_and_needs_an_embedding() -> None:
    effect = WordDropout(rate=HyperParameter(0.1))
    assert effect.hyperparameters["rate"] == HyperParameter(0.1, 0.0, 1.0, shared=True)
    with pytest.raises(ValueError, match=r"'\*' matches no Embedding of Sequential"):
        effect.attach(nn.Sequential(nn.Linear(2, 2)))


def test_a_table_with_two_names_is_dropped_once() -> None:
    table = nn.Embedding(50, 3)
    model = nn.ModuleDict({"words": table, "tied": table})
    effect = WordDropout(layers=["words", "tied"])
    effect.attach(model)
    with effect.at({"rate": torch.tensor(0.5)}, Draws(0, 0)):
        y = model["tied"](torch.arange(50))
    plain = table(torch.arange(50))
    assert torch.allclose(y, torch.where(y == 0, 0, 2 * plain))
