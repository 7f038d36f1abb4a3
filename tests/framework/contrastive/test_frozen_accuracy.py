"""Neighbors and linear probes of frozen features agree with scikit-learn, on ranks as well."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from framework.contrastive import (
    LinearProbeAccuracy,
    NeighborAccuracy,
    fit_linear_probe,
    neighbor_scores,
)
from framework.distributed.collectives import rank


def digits(train=500, test=300):
    feature, label = load_digits(return_X_y=True)
    feature, label = torch.from_numpy(feature).float(), torch.from_numpy(label).long()
    rest = slice(train, train + test)
    return feature[:train], label[:train], feature[rest], label[rest]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equal_votes_are_those_of_scikit_learn(k):
    bank, label, query, _ = digits()
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(bank, label)
    scores = neighbor_scores(query, bank, label, 10, k, temperature=None)
    expected = torch.from_numpy(model.predict_proba(query)).float()
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert torch.equal(scores.argmax(1), torch.from_numpy(model.predict(query)))


def test_weighted_votes_are_those_of_scikit_learn():
    bank, label, query, _ = digits()

    def weights(distance):
        return torch.from_numpy((1 - distance) / 0.1).exp().numpy()

    model = KNeighborsClassifier(9, weights=weights, metric="cosine").fit(bank.double(), label)
    scores = neighbor_scores(query, bank, label, 10, 9, temperature=0.1)
    expected = torch.from_numpy(model.predict_proba(query.double())).float()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_votes_by_hand():
    bank = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    label = torch.tensor([2, 0, 1])
    found = neighbor_scores(torch.tensor([[3.0, 0.0]]), bank, label, 4, k=2, temperature=0.5)
    # cosines 1 and 0: weights e^2 and 1
    torch.testing.assert_close(found, torch.tensor([[0.1192029, 0.0, 0.8807971, 0.0]]))
    # as the temperature falls, the nearest decides; as it rises, votes become equal
    cold = neighbor_scores(torch.tensor([[3.0, 1.0]]), bank, label, 4, k=3, temperature=1e-4)
    assert cold.argmax(1).tolist() == [2]
    assert cold.max() == 1
    hot = neighbor_scores(torch.tensor([[3.0, 1.0]]), bank, label, 4, k=99, temperature=1e6)
    torch.testing.assert_close(hot, torch.tensor([[1, 1, 1, 0]]) / 3, atol=1e-5, rtol=0)


def test_scale_of_features_does_not_matter_to_neighbors():
    bank, label, query, _ = digits()
    one = neighbor_scores(query, bank, label, 10)
    other = neighbor_scores(query * 8, bank / 4, label, 10)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_probe_is_that_of_scikit_learn(strength):
    bank, label, query, _ = digits()
    scaler = StandardScaler().fit(bank.double())
    model = LogisticRegression(C=strength, max_iter=200)
    model.fit(scaler.transform(bank.double()), label)
    probe = fit_linear_probe(bank, label, 10, strength)
    expected = torch.from_numpy(model.predict_proba(scaler.transform(query.double()))).float()
    torch.testing.assert_close(probe(query).softmax(1), expected, atol=1e-3, rtol=0)
    predicted = torch.from_numpy(model.predict(scaler.transform(query.double())))
    assert torch.equal(probe(query).argmax(1), predicted)


def test_probe_of_two_classes_out_of_more():
    bank, label, query, true = digits()
    some, rest = (label == 3) | (label == 7), (true == 3) | (true == 7)
    probe = fit_linear_probe(bank[some], label[some], 10)
    assert torch.isinf(probe.bias).nonzero().flatten().tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    model = LogisticRegression(max_iter=200)
    scaler = StandardScaler().fit(bank[some].double())
    model.fit(scaler.transform(bank[some].double()), label[some])
    expected = torch.from_numpy(model.predict_proba(scaler.transform(query[rest].double())))
    found = probe(query[rest]).softmax(1)[:, [3, 7]]
    torch.testing.assert_close(found, expected.float(), atol=1e-3, rtol=0)


def test_probe_does_not_depend_on_the_scale_of_features():
    bank, label, query, _ = digits()
    one = fit_linear_probe(bank, label, 10)(query).argmax(1)
    other = fit_linear_probe(bank * 1e-3 + 5, label, 10)(query * 1e-3 + 5).argmax(1)
    assert (one == other).float().mean() > 0.99


def test_collapsed_and_broken_features_give_the_most_frequent_class():
    label = torch.tensor([0, 1, 1, 1])
    for value in (0.0, 3.0, torch.nan, torch.inf):
        feature = torch.full((4, 2), value)
        assert fit_linear_probe(feature, label, 3)(feature).argmax(1).tolist() == [1] * 4
    assert fit_linear_probe(torch.rand(3, 2), torch.ones(3).long(), 3)(torch.rand(2, 2)).argmax(
        1
    ).tolist() == [1, 1]


def measured(kind, batches, own=slice(None)):
    bank, label, query, true = digits(400, 100)
    metric = kind(10)
    metric.use_bank(bank, label)
    for part in torch.arange(100).split(batches):
        metric.update(query[part][own], true[part][own])
    return metric


@pytest.mark.parametrize("kind", [NeighborAccuracy, LinearProbeAccuracy])
def test_accuracy_counts_samples(kind):
    bank, label, query, true = digits(400, 100)
    metric = measured(kind, 100)
    if kind is NeighborAccuracy:
        predicted = neighbor_scores(query, bank, label, 10).argmax(1)
    else:
        predicted = fit_linear_probe(bank, label, 10)(query).argmax(1)
    assert float(metric.compute()) == pytest.approx(float((predicted == true).float().mean()))
    assert 0.8 < metric.compute() < 1
    assert measured(kind, 7).compute() == metric.compute()
    value = metric.compute()
    metric.reset()
    metric.update(query, torch.full_like(true, -1))
    assert metric.compute().isnan(), "rows without a label do not count"
    metric.update(query, true)
    assert metric.compute() == value, "the bank survives a reset"
    assert set(metric.state_dict()) <= {"counts"}


@pytest.mark.parametrize("kind", [NeighborAccuracy, LinearProbeAccuracy])
def test_precision_of_a_run_changes_nothing(kind):
    bank, label, query, _ = digits(200, 50)
    metric = kind(10)
    metric.use_bank(bank, label)
    scores = metric.scores(query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(metric.scores(query), scores)
    assert metric.scores(query.double()).dtype == scores.dtype == torch.float32


def _on_a_rank(kind):
    # of the last batch the second rank has no row
    torch.set_default_dtype(torch.float64)
    try:
        metric = measured(kind, 33, slice(rank(), None, 2))
    finally:
        torch.set_default_dtype(torch.float32)
    probe = getattr(metric, "probe", None)
    return metric.compute().item(), None if probe is None else (probe.weight, probe.bias)


@pytest.mark.parametrize("kind", [NeighborAccuracy, LinearProbeAccuracy])
def test_two_ranks_measure_what_one_process_does(kind, two_ranks):
    alone = measured(kind, 33)
    (first, probe), (second, other) = two_ranks(_on_a_rank, kind)
    assert first == second == alone.compute().item()
    if probe is not None:
        assert all(torch.equal(a, b) for a, b in zip(probe, other, strict=True))


@pytest.mark.parametrize("kind", [NeighborAccuracy, LinearProbeAccuracy])
def test_bad_banks(kind):
    metric = kind(3)
    rows, label = torch.rand(4, 2), torch.tensor([0, 1, 2, -1])
    with pytest.raises(RuntimeError, match=r"has learned no rule: call use_bank\(\) first"):
        metric.update(rows, label)
    metric.use_bank(rows, label)
    for feature, labels, message in (
        (rows, label + 1, r"labels must lie in \[0, 2\].*lie in \[0, 3\]"),
        (rows, torch.full((4,), -1), "no labeled row"),
        (rows[:, :, None], label, r"features must be \(N, D\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.use_bank(feature, labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeighborAccuracy(0), "num_classes must be at least 1"),
        (lambda: NeighborAccuracy(2, k=0), "k must be at least 1"),
        (lambda: NeighborAccuracy(2, temperature=0.0), "temperature must be positive"),
        (lambda: LinearProbeAccuracy(2, strength=-1.0), "strength must be positive"),
        (lambda: LinearProbeAccuracy(2, max_iterations=0), "max_iterations must be at least 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
