"""Classes that are added by examples: the mean direction, state, ranks, rejection."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.distributed.collectives import rank
from framework.embedding.imprinting import ImprintedClassifier, imprint

SUPPORTS = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)


def float64(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def base() -> ImprintedClassifier:
    return ImprintedClassifier(torch.eye(2, dtype=torch.float64))


def test_the_mean_is_that_of_directions():
    classifier = ImprintedClassifier()
    assert classifier.add_class(SUPPORTS, "a") == 0
    expected = [0.462302, 0.886722]
    assert classifier.novel_weight[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert imprint(SUPPORTS, torch.zeros(3, dtype=torch.int64), 1)[0].tolist() == pytest.approx(
        expected, abs=1e-6
    )
    # the mean of the embeddings as they are has another direction
    raw = torch.nn.functional.normalize(SUPPORTS.mean(0), dim=0)
    assert raw.tolist() == pytest.approx([0.496139, 0.868243], abs=1e-6)


def test_logits_among_base_and_novel_classes():
    classifier = base()
    assert classifier.add_class(float64([[1, 1], [1, 0.8]]), "between") == 2
    assert classifier.novel_weight[0].tolist() == pytest.approx([0.745128, 0.666921], abs=1e-6)
    query = float64([[0.9, 0.7]])
    logits = classifier(query)
    assert logits[0].tolist() == pytest.approx([7.893522, 6.139406, 9.976186], abs=1e-6)
    assert logits[0].softmax(0).tolist() == pytest.approx([0.108709, 0.018813, 0.872478], abs=1e-6)
    assert classifier.predict(query).tolist() == [2]
    torch.testing.assert_close(classifier.logits(query, "novel"), logits[:, 2:])
    # without scale everything is equally likely
    faint = ImprintedClassifier(torch.eye(2), scale=1e-12)
    assert faint(torch.rand(3, 2)).softmax(1).flatten().tolist() == pytest.approx([0.5] * 6)


def test_order_length_and_rotation_do_not_matter():
    torch.manual_seed(0)
    x, query = torch.randn(2, 6, 3, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    one, other, turned = (ImprintedClassifier() for _ in range(3))
    one.add_class(x, "a")
    for row in x.flip(0):  # more examples follow
        other.add_class(7 * row[None], "a")
    turned.add_class(x @ turn, "a")
    torch.testing.assert_close(one.novel_weight, other.novel_weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one(query), turned(query @ turn), rtol=1e-12, atol=1e-13)
    single = ImprintedClassifier(scale=1.0)
    single.add_class(x[:1], "a")
    assert single(3 * x[:1]).item() == pytest.approx(1, abs=1e-15)


def test_merged_and_removed_classes():
    whole, left, right = base(), base(), base()
    for classifier in (whole, left):
        classifier.add_class(SUPPORTS[:1], "a")
        classifier.add_class(SUPPORTS[1:2], "b")
    whole.add_class(SUPPORTS[2:], "a")
    whole.add_class(SUPPORTS[:2], "c")
    right.add_class(SUPPORTS[2:], "a")
    right.add_class(SUPPORTS[:2], "c")
    assert left.merge(right).names == whole.names == ["a", "b", "c"]
    torch.testing.assert_close(left.sums, whole.sums, rtol=1e-15, atol=0)
    assert left.counts.tolist() == whole.counts.tolist() == [2, 1, 2]
    left.remove_class("b")
    assert left.names == ["a", "c"]
    torch.testing.assert_close(left.novel_weight, whole.novel_weight[[0, 2]])
    assert left.add_class(SUPPORTS, "b") == 4


def test_a_state_of_any_number_of_classes_is_data():
    classifier = base()
    for name in ("a", "b", "c"):
        classifier.add_class(SUPPORTS, name)
    classifier.calibrate(SUPPORTS, 0.5)
    file = io.BytesIO()
    torch.save(classifier.state_dict(), file)
    file.seek(0)
    loaded = ImprintedClassifier()
    loaded.add_class(torch.ones(1, 2), "another")
    loaded = loaded.double()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.names == ["a", "b", "c"]
    assert torch.equal(loaded(SUPPORTS), classifier(SUPPORTS))
    assert torch.equal(loaded.predict(SUPPORTS), classifier.predict(SUPPORTS))
    assert loaded.add_class(SUPPORTS, "d") == 5


def test_half_precision_leaves_the_sums():
    classifier = ImprintedClassifier(torch.eye(2)).bfloat16()
    classifier.add_class(SUPPORTS.bfloat16(), "a")
    assert classifier.sums.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier(SUPPORTS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("fpr", "accepted"), [(0.0, 0), (0.1, 0), (0.2, 1), (0.5, 2), (0.8, 4)])
def test_a_threshold_lets_that_share_of_the_unknown_pass(fpr, accepted):
    classifier = ImprintedClassifier(float64([[1, 0]]))
    angles = float64([[0.2, 0.6, 0.9, 1.2, 2.0]]).T
    unknown = torch.cat([angles.cos(), angles.sin()], 1)
    threshold = classifier.calibrate(unknown, fpr)
    assert threshold == pytest.approx(angles[accepted].cos().item(), abs=1e-15)
    assert (classifier.predict(unknown) >= 0).sum() == accepted
    assert classifier.predict(float64([[1, 0]])).tolist() == [0]


@pytest.mark.parametrize("scale", [7.0, 10.0, 20.654987])
def test_none_of_those_at_the_threshold_passes(scale):
    unknown, vectors = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
    classifier = ImprintedClassifier(vectors[:2], scale)
    for accepted in range(0, 200, 5):
        classifier.calibrate(unknown, accepted / 200)
        assert (classifier.predict(unknown) >= 0).sum() == accepted


def shares_of_ranks() -> tuple[Tensor, Tensor, list[str]]:
    torch.manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64)
    whole = ImprintedClassifier()
    own = ImprintedClassifier()
    # the second rank has no example of the first class
    rows = {"a": [slice(0, 2), slice(0, 0)], "b": [slice(0, 2), slice(2, 7)]}
    for name, shares in rows.items():
        own.add_class(x[shares[rank()]], name)
        for share in shares:
            whole.add_class(x[share], name)
    own.all_reduce()
    torch.testing.assert_close(own.sums, whole.sums, rtol=1e-14, atol=1e-15)
    assert own.counts.tolist() == whole.counts.tolist() == [2, 7]
    return own.sums, own.counts, own.names


def test_examples_on_two_ranks_are_those_of_one_process(two_ranks):
    results = two_ranks(shares_of_ranks)
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: ImprintedClassifier(scale=0.0), "scale must be"),
        (lambda c: ImprintedClassifier(torch.ones(3)), r"base_weight must be \(C, d\), got \(3,\)"),
        (lambda c: c.add_class(torch.ones(1, 3), "a"), r"must be \(n, 2\), got \(1, 3\)"),
        (lambda c: c.add_class(torch.ones(2), "a"), r"must be \(n, 2\), got \(2,\)"),
        (lambda c: c.remove_class("z"), r"No class 'z' was added; there are \[\]"),
        (lambda c: ImprintedClassifier().predict(torch.ones(1, 2)), "no classes to compare with"),
        (lambda c: c.calibrate(torch.ones(1, 2), 1.0), "fpr must lie in"),
        (lambda c: c.calibrate(torch.ones(0, 2), 0.1), "needs at least one embedding"),
        (
            lambda c: c.merge(ImprintedClassifier(torch.ones(1, 3))),
            r"sizes \[2, 3\] do not merge",
        ),
    ],
)
def test_what_cannot_be_is_said(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call(ImprintedClassifier(torch.eye(2)))
