"""A backbone of base classes, and several solvers on the episodes of other classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules import BaseAndNovel, Digits
from framework.embedding.metrics.few_shot import few_shot_score
from framework.objectives.errors import IncompatibleError
from framework.solvers import (
    LaplacianClustering,
    NearestPrototype,
    centered_unit_norm,
    shift_queries,
)
from modules.few_shot import TransductiveFewShot

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def make(**options: Any) -> TransductiveFewShot:
    torch.manual_seed(0)
    arguments = {"num_classes": 5, "input_shape": (1, 8, 8), "backbone": "mlp", **options}
    return TransductiveFewShot(**{"embedding_dim": 16, **arguments})


def make_data(**options: Any) -> BaseAndNovel:
    arguments = {"queries": 3, "val_episodes": 4, "test_episodes": 5, "eval_batch_size": 2}
    digits = Digits(val_size=150, test_size=1300)
    novel = {"val_classes": 0, "test_classes": [5, 6, 7, 8, 9]}
    return BaseAndNovel(digits, **{**novel, **arguments, **options})


def episodes(number: int = 3) -> dict[str, Tensor]:
    label = torch.arange(5)
    label = torch.cat([label, label.repeat_interleave(3)])
    return {
        "image": torch.rand(number, 20, 1, 8, 8),
        "label": label.expand(number, -1),
        "support": torch.arange(5).view(5, 1).expand(number, -1, -1),
        "index": torch.arange(number),
    }


def test_training_is_classification_with_label_smoothing():
    model = make()
    image, label = torch.rand(6, 1, 8, 8), torch.arange(6) % 5
    found = model.objectives({"image": image, "label": label, "index": torch.arange(6)})
    expected = F.cross_entropy(model(image), label, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(found.per_sample["classification"], expected)


def test_solvers_see_centered_features_and_all_but_one_shifted_queries():
    model, batch = make(lam=0.4).eval(), episodes()
    model.state.mean.copy_(torch.randn(16))
    features = model.backbone(batch["image"].flatten(0, 1)).view(3, 20, 16)
    features = centered_unit_norm(features, model.state.mean)
    support = batch["label"][:, :5]
    near = model.solve(model.embed(batch), "nearest_prototype", 0.0)
    assert torch.equal(near, NearestPrototype().fit_predict(features, support, 5))
    modes = LaplacianClustering("mode", lam=0.4)
    shifted = shift_queries(features, 5)
    assert model.lambda_of("slk_ms") == pytest.approx(0.4)
    assert torch.equal(model.predict(batch)["prediction"], modes.fit_predict(shifted, support, 5))
    plain = make(query_shift=False, lam=0.4, solvers=["slk_ms"]).eval()
    plain.load_state_dict({**model.state_dict(), "state.lam": torch.tensor([0.4])})
    found = plain.predict(batch)["prediction"]
    assert torch.equal(found, modes.fit_predict(features, support, 5))


def test_a_fit_takes_the_mean_of_base_features_and_the_best_lambda():
    data, model = make_data(), make(lambdas=[0.1, 0.9], solvers=["slk_means", "slk_ms"])
    trainer = Trainer(**QUIET, max_epochs=1, num_sanity_val_steps=1)
    trainer.fit(model, data)
    model.eval()
    rows = data.train_set
    image = torch.stack([rows[k]["image"] for k in range(len(rows))])
    with torch.no_grad():
        torch.testing.assert_close(model.state.mean, model.backbone(image).mean(0))
    values = model.metric_values
    for name in ("slk_means", "slk_ms"):
        chosen = values[f"lambda@{name}"]
        curve = values[f"curve@{name}"]
        assert float(chosen) == pytest.approx([0.1, 0.9][int(curve.argmax())])
        assert float(values[f"accuracy@{name}"]) == pytest.approx(float(curve.max()))
        assert model.lambda_of(name) == pytest.approx(float(chosen))
        assert float(trainer.callback_metrics[f"val/lambda@{name}"]) == float(chosen)
    (scores,) = trainer.test(model, data, verbose=False)
    assert scores["test/lambda@slk_ms"] == pytest.approx(model.lambda_of("slk_ms"))
    found, expected = [], []
    for batch in data.test_dataloader():
        prediction = model.predict(batch)["prediction"]
        found += (prediction == batch["label"][:, 5:]).double().mean(1).tolist()
    expected = few_shot_score(torch.tensor(found))
    assert len(found) == 5
    assert scores["test/accuracy@slk_ms"] == pytest.approx(float(expected.accuracy))
    assert scores["test/ci95@slk_ms"] == pytest.approx(float(expected.ci95))
    figures = model.figures("test", model.metric_values)
    assert list(figures) == ["episode"]


def test_an_empty_slice_is_evaluated():
    model = make().eval()
    batch = {name: value[:0] for name, value in episodes().items()}
    assert model.predict(batch)["prediction"].shape == (0, 15)
    training = {"image": torch.rand(0, 1, 8, 8), "label": torch.empty(0, dtype=torch.int64)}
    assert model.objectives(training).per_sample["classification"].shape == (0,)


def test_what_is_no_episode_is_refused():
    model = make().eval()
    with pytest.raises(IncompatibleError, match="BaseAndNovel"):
        model.predict({"image": torch.rand(2, 1, 8, 8), "label": torch.zeros(2).long()})
    with pytest.raises(IncompatibleError, match="wrap the images"):
        model.objectives(episodes())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"solvers": []}, "one name at least"),
        ({"solvers": ["kmeans", "kmeans"]}, "each once"),
        ({"solvers": ["svm"]}, "solvers must be one of"),
        ({"lambdas": [-1.0]}, "lambdas"),
        ({"num_classes": None}, "for_data"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        make(**options)


@pytest.mark.pictures
def test_the_first_episode_and_the_accuracies_by_lambda_are_drawn():
    model = make(lambdas=[0.1, 0.9], solvers=["nearest_prototype", "slk_ms"])
    Trainer(**QUIET, max_epochs=1).validate(model, make_data(), verbose=False)
    figures = model.figures("val", model.metric_values)
    assert sorted(figures) == ["episode", "lambda"]
    axes = figures["lambda"].axes[0]
    assert [line.get_label() for line in axes.lines] == ["slk_ms"]
    assert "queries are right" in figures["episode"].axes[0].get_title(loc="left")
