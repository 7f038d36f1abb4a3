from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from framework.embedding.metrics import Utilization, utilization

QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.8, 0.6], [-1.0, 0.0]], dtype=torch.float64)


def random(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def test_values_of_the_worked_example() -> None:
    assert utilization(QUERY, REFERENCE).item() == pytest.approx(0.6, abs=6e-7)
    plain = utilization(QUERY, REFERENCE, squared=False)
    assert plain.item() == pytest.approx(0.763441, abs=6e-7)
    midpoint = F.normalize(REFERENCE[:1] + QUERY[1:])
    mixed = utilization(QUERY, torch.cat([REFERENCE, midpoint]))
    assert mixed.item() == pytest.approx(0.305573, abs=6e-7)


def test_equals_the_mean_of_the_least_distances() -> None:
    query, reference = random(30, 0), random(50, 1)
    distances = torch.cdist(F.normalize(query).double(), F.normalize(reference).double())
    expected = distances.min(1).values.square().mean()
    torch.testing.assert_close(utilization(query, reference).double(), expected)


def test_references_more_never_make_it_larger() -> None:
    query, reference = random(30, 0), random(50, 1)
    values = torch.stack([utilization(query, reference[:n]) for n in range(1, 51)])
    assert (values.diff() <= 0).all()
    assert values[-1] > 0
    assert (values <= 4).all()
    assert utilization(query, torch.cat([reference, query])) == 0
    assert utilization(QUERY, -QUERY.sum(0, keepdim=True)) <= 4


@pytest.mark.parametrize(("queries", "references"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_compare_is_not_a_number(queries: int, references: int) -> None:
    assert utilization(random(queries, 0), random(references, 1)).isnan()


def measured(squared: bool, first: int) -> Tensor:
    """Return the metric over all ranks; rank 0 has the ``first`` rows of both."""
    alone = not dist.is_initialized()
    rows = slice(9) if alone else slice(first) if dist.get_rank() == 0 else slice(first, 9)
    metric = Utilization(embedding_dim=4, squared=squared)
    for seed, is_reference in ((0, False), (1, True)):
        for batch in random(9, seed)[rows].split(2):
            if len(batch):
                metric.update(batch, is_reference)
    return metric.compute()


@pytest.mark.parametrize(("squared", "first"), [(True, 4), (False, 9)])
def test_batches_and_ranks_do_not_matter(squared: bool, first: int, two_ranks: Callable) -> None:
    expected = utilization(random(9, 0), random(9, 1), squared)
    for value in (measured(squared, first), *two_ranks(measured, squared, first)):
        torch.testing.assert_close(value, expected)
