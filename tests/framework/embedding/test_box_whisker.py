import pytest
import torch

from framework.embedding.box_whisker import box_whisker_bounds

VALUES = torch.tensor([-0.9, 0.05, 0.1, 0.1, 0.12, 0.15, 0.2, 0.22, 0.25, 0.9]).double()


def test_bounds_of_the_worked_example() -> None:
    low, high = box_whisker_bounds(VALUES, 1.5)
    assert (low.item(), high.item()) == pytest.approx((-0.08, 0.40))
    kept = VALUES[(low <= VALUES) & (high >= VALUES)]
    assert torch.equal(kept, VALUES[1:-1])


def test_numbers_that_do_not_count_change_nothing() -> None:
    shuffled = torch.cat([VALUES, torch.tensor([5.0, -5.0, 7.0]).double()])[torch.randperm(13)]
    assert box_whisker_bounds(shuffled, 1.5, shuffled.abs() < 1) == box_whisker_bounds(VALUES, 1.5)


@pytest.mark.parametrize("count", range(4))
def test_fewer_than_four_numbers_have_no_bounds(count: int) -> None:
    valid = torch.arange(10) < count
    assert box_whisker_bounds(VALUES, 0.0, valid) == (-torch.inf, torch.inf)
    assert box_whisker_bounds(VALUES[:count], 0.0) == (-torch.inf, torch.inf)


def test_bounds_are_inclusive_without_whiskers() -> None:
    low, high = box_whisker_bounds(torch.arange(4.0), 0.0)
    assert (low, high) == (1.0, 3.0)


def test_negative_whiskers_are_refused() -> None:
    with pytest.raises(ValueError, match="whisker must be at least 0"):
        box_whisker_bounds(VALUES, -1.0)
