"""Drawn lists of pairs: balance, folds, no repetition."""

from __future__ import annotations

import pytest
import torch

from framework.embedding.pair_lists import balanced_pairs

LABEL = torch.arange(60).remainder(7)


def unordered(pairs, rows=slice(None)):
    return {*map(frozenset, torch.stack([pairs.first, pairs.second], 1)[rows].tolist())}


@pytest.mark.parametrize("num_pairs", [20, 200, 6000])
def test_pairs_are_balanced_and_of_different_images(num_pairs):
    pairs = balanced_pairs(LABEL, num_pairs, num_folds=10, seed=3)
    folds = pairs.same.view(10, 2, -1)
    assert folds[:, 0].all()
    assert not folds[:, 1].any()
    assert torch.equal(LABEL[pairs.first] == LABEL[pairs.second], pairs.same)
    assert (pairs.first != pairs.second).all()
    assert len(unordered(pairs)) == pairs.count
    # 4 classes of 9 images and 3 of 8 make 228 pairs of one class, of which 22 go into each fold
    assert pairs.count == min(num_pairs, 440)


def test_a_list_is_a_function_of_labels_and_seed():
    one, same, other = (balanced_pairs(LABEL, 100, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.first, same.first)
    assert torch.equal(one.second, same.second)
    assert unordered(one) != unordered(other)


def test_all_pairs_of_few_images_are_drawn():
    pairs = balanced_pairs(torch.tensor([1, 0, 1, 0]), num_folds=2)
    assert unordered(pairs, pairs.same) == {frozenset((0, 2)), frozenset((1, 3))}
    assert pairs.count == 4


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="4 images of 2 classes make 2 pairs of one class and 4 "):
        balanced_pairs(torch.tensor([0, 0, 1, 1]), num_folds=3)


def test_many_images_cost_no_list_of_their_pairs():
    label = torch.arange(200_000) % 1000
    pairs = balanced_pairs(label, 600)
    assert pairs.count == 600
    assert len(unordered(pairs)) == 600
    assert torch.equal(label[pairs.first] == label[pairs.second], pairs.same)
