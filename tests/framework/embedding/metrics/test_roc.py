"""ROC curve and TAR@FAR, exactly and at the nearest point."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from framework.embedding.metrics.roc import far_name, roc_curve, tar_at_far, thinned
from framework.embedding.metrics.score_blocks import (
    histogram_of,
    summarize_all_pairs,
    summarize_scores,
)

SCORES = torch.tensor([0.9, 0.8, 0.75, 0.4, 0.7, 0.3, 0.2, 0.1, 0.05, 0.0])
SAME = torch.arange(10) < 4


def test_worked_example() -> None:
    curve = roc_curve(SCORES, SAME)
    points = list(zip(curve.far.tolist(), curve.tar.tolist(), strict=True))
    for point in [(0, 0.75), (1 / 6, 0.75), (1 / 6, 1), (1 / 3, 1)]:
        assert any(point == pytest.approx(known, abs=1e-12) for known in points)
    found = tar_at_far(SCORES, SAME, [0, 1 / 6, 1])
    assert found.tar.tolist() == [0.75, 1, 1]
    # strict: the impostor with this very score is not accepted
    assert found.threshold.tolist() == pytest.approx([0.7, 0.3, -math.inf])
    assert found.far.tolist() == pytest.approx([0, 1 / 6, 1])


def test_ties_never_exceed_the_rate() -> None:
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1])
    same = torch.tensor([True, True, False, False, False])
    exact = tar_at_far(scores, same, 1 / 3)
    assert exact.tar.tolist() == [0.5]
    assert exact.far.tolist() == [0.0]
    nearest = tar_at_far(scores, same, 1 / 3, mode="nearest")
    assert nearest.far.tolist() == pytest.approx([2 / 3])
    assert nearest.tar.tolist() == [1.0]


@pytest.mark.parametrize("mode", ["exact", "nearest"])
def test_what_cannot_be_measured_is_nan(mode: str) -> None:
    said = (
        "TAR@FAR of 0.1, 0.01 is NaN: it takes at least 100 of two classes, and there are 4 pairs "
        "of one class and 6 of two"
    )
    with pytest.warns(UserWarning, match=said) as warned:
        found = tar_at_far(SCORES, SAME, [0.1, 0.5, 0.01], mode=mode)
    assert len(warned) == 1
    assert found.tar.isnan().tolist() == found.far.isnan().tolist() == [True, False, True]
    for kind in (SAME, ~SAME):
        with pytest.warns(UserWarning, match="takes pairs of one class and of two"):
            assert tar_at_far(SCORES[kind], SAME[kind], 0, mode=mode).tar.isnan().all()


scored = st.lists(
    st.tuples(st.integers(-8, 8).map(lambda n: n / 8), st.booleans()), min_size=2, max_size=40
).filter(lambda pairs: len({same for _, same in pairs}) == 2)


@given(scored, st.sampled_from([0, 0.25, 1 / 3, 0.5, 0.9, 1]))
def test_curve_and_nearest_point_are_those_of_scikit_learn(
    pairs: list[tuple[float, bool]], far: float
) -> None:
    scores, same = (np.array(values) for values in zip(*pairs, strict=True))
    given_scores, given_same = torch.from_numpy(scores), torch.from_numpy(same)
    expected = metrics.roc_curve(same, scores, drop_intermediate=False)
    for value, known in zip(roc_curve(given_scores, given_same), expected, strict=True):
        np.testing.assert_array_equal(value.numpy(), known)
    rates, tars, _ = (values[::-1] for values in metrics.roc_curve(same, scores))
    if far == 0 or far * (~same).sum() >= 1:
        found = tar_at_far(given_scores, given_same, far, mode="nearest")
        at = np.argmin(np.abs(rates - far))
        assert (float(found.far), float(found.tar)) == (rates[at], tars[at])


@settings(max_examples=20)
@given(scored, st.sampled_from([0, 0.25, 1 / 3, 0.5, 1]))
def test_exact_rate_is_that_of_a_loop(pairs: list[tuple[float, bool]], far: float) -> None:
    positive = [score for score, same in pairs if same]
    negative = sorted((score for score, same in pairs if not same), reverse=True)
    k = math.floor(far * len(negative) + 1e-9)
    if far > 0 and k == 0:
        return
    threshold = negative[k] if k < len(negative) else -math.inf
    scores, same = (torch.tensor(values) for values in zip(*pairs, strict=True))
    whole = tar_at_far(scores, same, far)
    # and of scores that are read a block at a time
    blocks = [(scores[:3], same[:3]), (scores[3:], same[3:])]
    streamed = summarize_scores(lambda: blocks, [far], scores.device)
    for found in (whole, streamed.at_far):
        assert float(found.tar) == np.mean([score > threshold for score in positive])
        assert float(found.threshold) == threshold
        assert float(found.far) == np.mean([score > threshold for score in negative])
    assert torch.equal(streamed.histogram, histogram_of(scores, same))


@pytest.mark.parametrize("block", [1, 70, 10**6])
def test_all_pairs_a_block_at_a_time(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # cosines of multiples of 1/2 are the same in any order of the sums
    embedding = torch.eye(16)[torch.randint(0, 16, (30,), generator=generator)]
    embedding = embedding + torch.eye(16)[torch.randint(0, 16, (30,), generator=generator)]
    label = torch.randint(0, 4, (30,), generator=generator)
    rates = [0, 0.01, 0.1, 0.5, 1, 1e-6]
    found = summarize_all_pairs(embedding, label, rates, block=block)
    one, other = torch.triu_indices(30, 30, 1)
    unit = torch.nn.functional.normalize(embedding)
    scores, same = (unit @ unit.T)[one, other], label[one] == label[other]
    with pytest.warns(UserWarning, match="at least 1,000,000 of two classes"):
        expected = tar_at_far(scores, same, rates)
    torch.testing.assert_close(found.at_far.tar, expected.tar, equal_nan=True)
    torch.testing.assert_close(found.at_far.far, expected.far, equal_nan=True)
    assert found.histogram.sum(1).tolist() == [int((~same).sum()), int(same.sum())]


def test_a_thinned_curve_keeps_its_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(40_000, generator=generator) < 0.3
    curve = roc_curve(torch.randn(40_000, generator=generator) + 2 * same, same)
    thin = thinned(curve)
    assert len(thin.far) <= 402
    assert (thin.far[0], thin.far[-1], thin.tar[-1]) == (0, 1, 1)
    for far in torch.logspace(-4, 0, 9):
        tar = [float(c.tar[c.far <= far + 1e-12].max()) for c in (curve, thin)]
        assert tar[0] == pytest.approx(tar[1], abs=0.02)


def test_names_of_rates() -> None:
    assert [far_name(far) for far in (0, 1e-3, 0.05, 1.5e-5, 1)] == [
        "0", "1e-3", "5e-2", "1.5e-5", "1e0"
    ]  # fmt: skip


def test_what_has_no_score_is_not_accepted() -> None:
    nan = math.nan
    scores = torch.tensor([nan, 0.5, 0.1, nan, 0.3, 0.2, nan, 0.05])
    same = torch.arange(8) < 4
    found = tar_at_far(scores, same, [0, 0.25, 0.5, 1])
    assert found.tar.tolist() == [0.25, 0.25, 0.5, 0.5]
    assert found.far.tolist() == [0, 0.25, 0.5, 0.75]
    curve = roc_curve(scores, same)
    assert curve.tar.tolist() == [0, 0.25, 0.25, 0.25, 0.5, 0.5, 1]
    assert curve.far.tolist() == [0, 0, 0.25, 0.5, 0.5, 0.75, 1]
