"""The language model's terms, metrics and predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import TextWindows
from framework.objectives.reduction import reduce_objectives
from modules import LSTMLanguageModel
from tests.helpers.tiny import tiny_trainer

SIZES = {"vocabulary_size": 11, "width": 6, "hidden_width": 9, "layers": 2}


def model(**options: Any) -> LSTMLanguageModel:
    torch.manual_seed(0)
    return LSTMLanguageModel(**{**SIZES, **options})


def batch(rows: int = 4, length: int = 5) -> dict[str, Tensor]:
    text = torch.randint(11, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    return {"token": text[:, :-1], "next_token": text[:, 1:], "index": torch.arange(rows)}


def test_the_terms_are_those_of_the_text() -> None:
    module = model(alpha=2.0, beta=0.5)
    found = module.network(batch()["token"])
    objectives = module.objectives(batch())
    assert objectives.weights == {"activation": 2.0, "temporal": 0.5}
    expected = {
        "language": F.cross_entropy(found.logits.flatten(0, 1), batch()["next_token"].flatten()),
        "activation": found.dropped.square().mean(),
        "temporal": (found.output[:, 1:] - found.output[:, :-1]).square().mean(),
    }
    terms = {name: values.mean() for name, values in objectives.per_sample.items()}
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5)
    total = expected["language"] + 2 * expected["activation"] + 0.5 * expected["temporal"]
    assert reduce_objectives(objectives).total.item() == pytest.approx(total.item(), rel=1e-5)


def test_the_activation_is_that_after_dropout_and_the_change_that_before() -> None:
    module = model(alpha=1.0, beta=1.0, output_dropout=0.5)
    plain = model(alpha=1.0, beta=1.0).objectives(batch()).per_sample
    dropped = module.objectives(batch()).per_sample
    assert torch.allclose(dropped["temporal"], plain["temporal"])
    assert not torch.allclose(dropped["activation"], plain["activation"])


def test_terms_without_a_weight_are_absent_and_validation_has_none() -> None:
    assert [*model().objectives(batch()).per_sample] == ["language"]
    module = model(alpha=1.0, beta=1.0).eval()
    for found in (module.guide_objectives(batch()), module.evaluate(batch())):
        assert [*found.per_sample] == ["language"]


def test_no_rows_and_windows_of_one_token() -> None:
    module = model(alpha=1.0, beta=1.0)
    total = reduce_objectives(module.objectives(batch(rows=0))).total
    total.backward()
    assert total.item() == 0
    values = module.objectives(batch(length=1)).per_sample
    assert values["temporal"].tolist() == [0, 0, 0, 0]


def test_a_model_of_no_knowledge_takes_the_logarithm_of_the_vocabulary() -> None:
    module = model()
    with torch.no_grad():
        module.network.embedding.weight.zero_()
    found = module.objectives(batch()).per_sample["language"].tolist()
    assert found == pytest.approx([math.log(11)] * 4, rel=1e-6)
    likelihood = module.predict(batch())["log_likelihood"]
    assert likelihood.tolist() == pytest.approx([-5 * math.log(11)] * 4, rel=1e-6)


def test_predictions_need_the_text_alone() -> None:
    text = torch.cat([batch()["token"], batch()["next_token"][:, -1:]], 1)
    expected = model().predict(batch())["log_likelihood"]
    assert torch.allclose(model().predict({"token": text})["log_likelihood"], expected)


def test_metrics_are_those_of_all_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcabcab" * 40)
    data = TextWindows(str(tmp_path / "a.txt"), window=6, batch_size=16)
    module = LSTMLanguageModel.for_data(data, width=6, hidden_width=9)
    trainer = tiny_trainer(tmp_path, [], False, limit_train_batches=1, max_epochs=1)
    trainer.fit(module, datamodule=data)
    found = trainer.callback_metrics
    loss = float(found["val/loss"])
    assert float(found["val/perplexity"]) == pytest.approx(math.exp(loss), rel=1e-5)
    assert float(found["val/bits_per_character"]) == pytest.approx(loss / math.log(2), rel=1e-5)
    words = TextWindows(str(tmp_path / "a.txt"), window=6, batch_size=16)
    words.setup("fit")
    words.token_level = "word"
    module = LSTMLanguageModel.for_data(words, width=6, hidden_width=9)
    trainer = tiny_trainer(tmp_path, [], False)
    trainer.validate(module, datamodule=words, verbose=False)
    assert "val/bits_per_character" not in trainer.callback_metrics


def test_it_learns_a_text_that_repeats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not ; " * 60)
    data = TextWindows(str(tmp_path / "a.txt"), window=15, batch_size=16)
    adam = {"optimizer": lambda groups: torch.optim.Adam(groups, lr=0.03)}
    module = LSTMLanguageModel.for_data(data, width=12, hidden_width=24, **adam)
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=30, check_val_every_n_epoch=30)
    trainer.fit(module, datamodule=data)
    # a window begins at any of its 15 characters, of which four come more than once
    assert float(trainer.callback_metrics["val/perplexity"]) < 1.2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"says how many tokens there are: set model\.vocabulary"):
        LSTMLanguageModel()
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        model(alpha=-1.0)
    module = model()
    module.check_numbers(batch())
    module.check_numbers(batch(rows=0))
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match=rf"next_token holds {wrong}, .* 0\.\.10"):
            module.check_numbers({**batch(), "next_token": torch.full((4, 5), wrong)})
