"""Anchors: the recall of the published ones, and when and how others are found."""

import pytest
import torch

from modules.bpjdet.anchors import P6_ANCHORS, best_possible_recall, fit_anchors

PUBLISHED = torch.tensor(P6_ANCHORS).float()


def sizes(count=300, seed=0):
    u = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    return 3 * 10 ** u[:, :1] * (0.5 + u[:, 1:] * torch.tensor([1.0, 2.0]))


def test_an_object_is_found_where_both_sides_differ_by_less_than_four():
    box = torch.tensor([[90.0, 160]])
    on_p4 = PUBLISHED[1]
    ratios = torch.maximum(box / on_p4, on_p4 / box).amax(1)
    assert ratios.tolist() == pytest.approx([2.352941, 1.052632, 2.0], abs=1e-6)
    head = torch.tensor([[30.0, 36]])
    ratios = torch.maximum(head / PUBLISHED[:2], PUBLISHED[:2] / head).amax(-1)
    assert ratios[1].tolist() == pytest.approx([3.2, 4.222222, 6.0], abs=1e-6)
    assert ratios[0].tolist() == pytest.approx([1.578947, 1.466667, 2.611111], abs=1e-6)
    assert best_possible_recall(box, on_p4[:1]) == 1
    assert best_possible_recall(head, on_p4[1:]) == 0
    assert best_possible_recall(torch.tensor([[4.0, 1], [4.1, 1]]), torch.ones(1, 2)) == 0
    assert best_possible_recall(torch.zeros(0, 2), PUBLISHED) == 1


def test_anchors_that_fit_stay():
    assert fit_anchors(PUBLISHED.flatten(0, 1), PUBLISHED) is PUBLISHED


def test_anchors_that_do_not_fit_are_replaced_and_go_to_levels_by_area():
    objects = sizes()
    assert best_possible_recall(objects, PUBLISHED) < 0.98
    found = fit_anchors(objects, PUBLISHED, generations=50)
    assert best_possible_recall(objects, found) == 1
    assert found.shape == PUBLISHED.shape
    assert found.dtype == PUBLISHED.dtype
    area = found.prod(-1).flatten()
    assert torch.equal(area, area.sort().values)


def test_the_search_improves_the_clusters_and_repeats_itself():
    def closeness(anchors):
        quotient = objects[:, None] / anchors.reshape(-1, 2)
        return torch.minimum(quotient, 1 / quotient).amin(2).amax(1).mean()

    objects = sizes(100)
    before = fit_anchors(objects, PUBLISHED, generations=0)
    after = fit_anchors(objects, PUBLISHED, generations=200)
    assert closeness(after) > closeness(before)
    state = torch.get_rng_state()
    assert torch.equal(fit_anchors(objects, PUBLISHED, generations=200), after)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(fit_anchors(objects, PUBLISHED, generations=200, seed=1), after)


def test_many_sizes_are_thinned():
    objects = sizes(12_000)
    found = fit_anchors(objects, PUBLISHED, generations=2)
    assert best_possible_recall(objects, found) > 0.98


@pytest.mark.parametrize("count", [0, 1, 11])
def test_fewer_objects_than_anchors_leave_them(count):
    assert fit_anchors(sizes(count), PUBLISHED) is PUBLISHED


def test_sizes_without_area_or_all_the_same_leave_them():
    nothing = torch.tensor([[0.0, 5], [-1, 4], [torch.nan, 3], [torch.inf, 2]]).repeat(10, 1)
    assert fit_anchors(nothing, PUBLISHED) is PUBLISHED
    assert fit_anchors(torch.ones(50, 2), PUBLISHED) is PUBLISHED


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"sizes must be \(n, 2\), got \(3, 4\)\."):
        fit_anchors(torch.ones(3, 4), PUBLISHED)
    with pytest.raises(ValueError, match="threshold must lie in"):
        fit_anchors(torch.ones(3, 2), PUBLISHED, threshold=2)
