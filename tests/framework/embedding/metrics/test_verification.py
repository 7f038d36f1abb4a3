"""Accuracy over folds and VAL@FAR, as on Labeled Faces in the Wild."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from framework.embedding.metrics.verification import (
    best_threshold_accuracy,
    fold_accuracy,
    val_at_far,
)


def worked_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distances of 40 pairs and whether each is of one class."""
    same = torch.arange(40) % 4 < 2
    distances = [
        round(1.003 + (-0.45 if one else 0.45) + 0.8 * math.sin(k), 6)
        for k, one in enumerate(same.tolist())
    ]
    return torch.tensor(distances), same


def test_worked_example() -> None:
    distances, same = worked_pairs()
    mean, std, threshold = map(float, fold_accuracy(distances, same))
    assert mean == pytest.approx(0.65, abs=1e-12)
    assert std == pytest.approx(0.229129, abs=1e-6)
    assert threshold == pytest.approx(1.073, abs=1e-9)
    assert float(best_threshold_accuracy(distances, same)[0]) == pytest.approx(0.8, abs=1e-12)


numbers = st.lists(
    st.tuples(st.integers(0, 400).map(lambda n: n / 100), st.booleans()), min_size=4, max_size=23
)


@settings(max_examples=40)
@given(numbers, st.integers(2, 4))
def test_accuracy_is_that_of_a_loop(pairs: list[tuple[float, bool]], num_folds: int) -> None:
    distances, same = (np.array(values) for values in zip(*pairs, strict=True))
    thresholds = np.arange(400) / 100
    found = []
    for others, fold in KFold(num_folds).split(distances):
        accuracy = ((distances[others] < thresholds[:, None]) == same[others]).mean(1)
        chosen = thresholds[int(np.argmax(accuracy))]
        found.append((((distances[fold] < chosen) == same[fold]).mean(), chosen))
    expected, chosen = zip(*found, strict=True)
    result = fold_accuracy(torch.from_numpy(distances), torch.from_numpy(same), num_folds)
    assert float(result.mean) == pytest.approx(np.mean(expected), abs=1e-12)
    assert float(result.std) == pytest.approx(np.std(expected), abs=1e-12)
    assert float(result.threshold) == pytest.approx(np.mean(chosen), abs=1e-12)


@settings(max_examples=40)
@given(numbers, st.sampled_from([0.1, 0.25, 0.5]))
def test_val_is_that_of_a_loop(pairs: list[tuple[float, bool]], far: float) -> None:
    distances, same = (np.array(values) for values in zip(*pairs, strict=True))
    # where no interpolated threshold lies, whose last bit may differ
    distances = distances + 0.000123
    thresholds = np.arange(4000) / 1000
    vals, fars = [], []
    for others, fold in KFold(3).split(distances):
        negative = distances[others][~same[others]]
        rate = (negative < thresholds[:, None]).sum(1) / max(1, len(negative))
        # the last threshold of each rate
        rates, last = np.unique(rate[::-1], return_index=True)
        at = thresholds[::-1][last]
        limit = np.interp(far, rates, at) if rate.max() >= far else 0.0
        below = distances[fold] < limit
        for kind, into in ((same[fold], vals), (~same[fold], fars)):
            if kind.any():
                into.append(below[kind].mean())
    result = val_at_far(torch.from_numpy(distances), torch.from_numpy(same), far, num_folds=3)
    for value, expected in ((result.val, vals), (result.far, fars)):
        if expected:
            assert float(value) == pytest.approx(np.mean(expected), abs=1e-9)
        else:
            assert math.isnan(value)
    if vals:
        assert float(result.std) == pytest.approx(np.std(vals), abs=1e-9)


def test_half_precision_and_order() -> None:
    distances, same = worked_pairs()
    halves = fold_accuracy(distances.half(), same)
    assert halves.mean.dtype == torch.float64
    assert halves == fold_accuracy(distances.half().float(), same)
    order = torch.arange(39, -1, -1)
    # another order makes other folds
    assert fold_accuracy(distances[order], same[order]).std == pytest.approx(
        float(fold_accuracy(distances, same).std)
    )
    order = torch.arange(40).view(4, 10).T.flatten()
    assert fold_accuracy(distances[order], same[order]) != fold_accuracy(distances, same)


@pytest.mark.parametrize(
    ("pairs", "num_folds", "said"),
    [(3, 4, "3 pairs cannot be put in 4 folds"), (3, 1, "num_folds must be at least 2, got 1")],
)
def test_folds_that_cannot_be(pairs: int, num_folds: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fold_accuracy(torch.zeros(pairs), torch.ones(pairs, dtype=torch.bool), num_folds)
    with pytest.raises(ValueError, match=r"got \(3,\) and \(4,\)"):
        fold_accuracy(torch.zeros(3), torch.ones(4, dtype=torch.bool), 2)
