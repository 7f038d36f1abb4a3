from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer

from datamodules import Digits, Episodes, Omniglot, OneShotRuns
from framework.embedding.metrics.few_shot import few_shot_score
from modules.embedding import PrototypicalNetwork
from modules.embedding.few_shot import TERMS
from tests.helpers.omniglot import write_omniglot, write_runs

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def make(**options):
    torch.manual_seed(0)
    return PrototypicalNetwork(**{"input_shape": (1, 16, 16), "backbone": "conv4_32", **options})


def episodes(number=3, ways=3, shots=2, queries=4):
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(ways)
    label = torch.cat([label.repeat_interleave(shots), label.repeat_interleave(queries)])
    noise = torch.rand(number, len(label), 1, 16, 16, generator=generator)
    return {
        "image": noise + label.view(1, -1, 1, 1, 1),
        "label": label.expand(number, -1),
        "support": torch.arange(ways * shots).view(ways, shots).expand(number, -1, -1),
        "index": torch.arange(number),
    }


def test_cross_entropy_is_that_of_distances_to_prototypes():
    model, batch = make(temperature=2.0).eval(), episodes()
    found = model.embed(batch)
    objectives = model.objectives(batch)
    embedding = model(batch["image"].flatten(0, 1)).view(3, 18, -1)
    for e in range(3):
        prototypes = torch.stack([embedding[e, 2 * n : 2 * n + 2].mean(0) for n in range(3)])
        torch.testing.assert_close(found.prototypes[e], prototypes)
        logits = -torch.cdist(embedding[e, 6:], prototypes).square() / 2
        expected = F.cross_entropy(logits, batch["label"][e, 6:])
        torch.testing.assert_close(
            objectives.per_sample["cross_entropy"][e], expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("terms", [TERMS, ("proto_triplet",), ("icnn_query", "cross_entropy")])
def test_terms_are_averaged(terms):
    objectives = make(terms=terms).eval().objectives(episodes())
    assert set(objectives.per_sample) == set(terms)
    assert all(value.shape == (3,) for value in objectives.per_sample.values())
    assert set(objectives.weights.values()) == {1 / len(terms)}


def test_a_margin_that_is_kept_leaves_half_the_cross_entropy():
    model, batch = make(terms=["cross_entropy", "proto_triplet"], margin=-5.0).eval(), episodes()
    found = model.objectives(batch)
    if not (found.per_sample["proto_triplet"] == 0).all():
        pytest.fail("the queries of this batch should be separated")
    assert found.weights["cross_entropy"] == 0.5


def test_an_empty_slice_has_terms_with_a_gradient():
    model = make(terms=TERMS).eval()
    batch = {name: value[:0] for name, value in episodes().items()}
    objectives = model.objectives(batch)
    total = sum(value.sum() for value in objectives.per_sample.values())
    total.backward()
    assert all(value.shape == (0,) for value in objectives.per_sample.values())
    assert next(model.parameters()).grad is not None


def test_evaluation_is_the_mean_over_episodes(tmp_path):
    write_omniglot(tmp_path)
    data = Episodes(
        Omniglot(str(tmp_path), image_size=16),
        ways=3,
        queries=2,
        test_episodes=7,
        eval_batch_size=3,
    )
    model = make()
    (scores,) = Trainer(**QUIET).test(model, data, verbose=False)
    accuracies = []
    model.eval()
    for batch in data.test_dataloader():
        prediction = model.predict(batch)["prediction"]
        accuracies += (prediction == batch["label"][:, 3:]).double().mean(1).tolist()
    expected = few_shot_score(torch.tensor(accuracies))
    assert len(accuracies) == 7
    assert scores["test/accuracy"] == pytest.approx(float(expected.accuracy))
    assert scores["test/accuracy_ci95"] == pytest.approx(float(expected.ci95))
    assert 0 < scores["test/icnn_score"] <= 1


def test_a_trained_network_is_tested_on_one_shot_runs(tmp_path):
    write_omniglot(tmp_path)
    write_runs(tmp_path)
    data = Episodes(
        Omniglot(str(tmp_path), image_size=16, test_alphabets=0), ways=3, queries=2, val_episodes=4
    )
    model = PrototypicalNetwork.for_data(data, backbone="conv4_32")
    trainer = Trainer(**QUIET, max_epochs=1, limit_train_batches=4)
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/accuracy"] > 0.5
    runs = OneShotRuns(str(tmp_path))
    (scores,) = trainer.test(model, runs, verbose=False)
    assert runs.input_shape == (1, 16, 16)
    assert scores["test/accuracy"] >= 0


def test_other_data_are_refused():
    data = Episodes(Digits(), ways=2, queries=3, val_classes=3, test_classes=3)
    with pytest.raises(ValueError, match="input_shape"):
        Trainer(**QUIET, max_epochs=1).fit(make(), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": []}, "terms must have each of cross_entropy"),
        ({"terms": ["proto_triplet"] * 2}, "at most once"),
        ({"terms": ["triplet"]}, "terms must be one of cross_entropy"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"input_shape": None}, "set model.input_shape"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
