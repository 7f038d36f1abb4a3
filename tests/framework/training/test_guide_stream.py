"""Batches of held-out rows, pass after pass, from loaders of a person's own."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader, IterableDataset

from framework.objectives.errors import IncompatibleError
from framework.training.guide_stream import GuideStream

# batches stay as they are
TRAINER: Any = SimpleNamespace(
    precision_plugin=SimpleNamespace(convert_input=lambda batch: batch),
    strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
)


class Numbers(IterableDataset):
    """The numbers below three, as a stream without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def drawn(loader: Any, count: int, start: int = 0) -> list[int]:
    stream = GuideStream()
    stream.restart(start)
    stream.follow(loader)
    return [int(stream.next(TRAINER)) for _ in range(count)]


@pytest.mark.parametrize("loader", [[0, 1, 2], DataLoader(Numbers(), batch_size=None)])
def test_a_loader_is_passed_through_again_and_goes_on_where_it_stood(loader) -> None:
    assert drawn(loader, 7) == [0, 1, 2, 0, 1, 2, 0]
    for start in range(7):
        assert drawn(loader, 4, start) == ([0, 1, 2] * 4)[start : start + 4]


@pytest.mark.parametrize("loader", [[], iter([0, 1])])
def test_a_loader_that_runs_out_is_refused(loader) -> None:
    with pytest.raises(IncompatibleError, match="has no batch to give, or gives its batches once"):
        drawn(loader, 3)
