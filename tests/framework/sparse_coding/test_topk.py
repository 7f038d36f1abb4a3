"""The largest entries per row, per column and overall, with the order of ties fixed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from framework.distributed.collectives import rank
from framework.sparse_coding import topk
from framework.sparse_coding.topk import top_overall, top_per_column, top_per_row

NAN, INF = float("nan"), float("inf")
# few different values, so that there are ties, and those that compare in unusual ways
entries = st.sampled_from([NAN, INF, -INF, -1.5, -0.0, 0.0, 1e-40, 0.5, 1.0, 1.0 + 2**-23, 3e38])
matrices = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.lists(entries, min_size=width, max_size=width), min_size=1, max_size=6
    )
)


def best(values: list[float], k: int) -> set[int]:
    """Return the first k places of a stable sort, NaN last."""
    keys = [(-INF if v != v else v) for v in values]
    return set(sorted(range(len(keys)), key=lambda i: -keys[i])[:k])


@given(matrices, st.data())
def test_rows(rows: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(rows[0])))
    chosen = top_per_row(torch.tensor(rows), k)
    assert chosen.shape == (len(rows), k)
    assert [set(row) for row in chosen.tolist()] == [best(row, k) for row in rows]


@given(matrices, st.data())
def test_overall(rows: list[list[float]], data: st.DataObject) -> None:
    flat = [value for row in rows for value in row]
    k = data.draw(st.integers(0, len(flat)))
    chosen = top_overall(torch.tensor(rows), k).tolist()
    assert chosen == sorted(best(flat, k))


@given(matrices, st.data())
def test_columns(rows: list[list[float]], data: st.DataObject) -> None:
    columns = list(zip(*rows, strict=True))
    counts = [data.draw(st.integers(0, len(rows))) for _ in columns]
    chosen = top_per_column(torch.tensor(rows), torch.tensor(counts)).tolist()
    assert chosen == sorted(
        row * len(columns) + i
        for i, (column, count) in enumerate(zip(columns, counts, strict=True))
        for row in best(list(column), count)
    )


def big(ties: bool) -> Tensor:
    """A matrix large enough for the sampled bound, with or without equal entries."""
    x = torch.randn(96, 1024, generator=torch.Generator().manual_seed(0))
    return (8 * x).round() / 8 if ties else x


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 96, 3000, 98_303])
def test_a_large_matrix(ties: bool, k: int) -> None:
    x = big(ties)
    expected = x.flatten().sort(descending=True, stable=True).indices[:k].sort().values
    assert torch.equal(top_overall(x, k), expected)


def test_a_bound_from_a_misleading_sample_does_no_harm() -> None:
    # what is sampled, every 61st entry, is all that is large
    x = torch.rand(96 * 1024, generator=torch.Generator().manual_seed(0))
    x[:: topk._SAMPLE_STRIDE] += 10
    x = x.view(96, 1024)
    expected = x.flatten().sort(descending=True, stable=True).indices[:5000].sort().values
    assert topk._candidates(x.flatten(), 5000) is None
    assert torch.equal(top_overall(x, 5000), expected)


@pytest.mark.parametrize("budget", [1, 3, 20, 90, 96])
def test_columns_of_a_large_matrix(budget: int) -> None:
    x = big(ties=True)
    counts = torch.full((1024,), budget)
    counts[::7] = 0
    counts[5] = 96
    ranks = x.sort(dim=0, descending=True, stable=True).indices
    mask = torch.zeros_like(x, dtype=torch.bool)
    taken = torch.arange(96)[:, None] < counts
    mask[ranks[taken], torch.arange(1024).expand(96, -1)[taken]] = True
    assert torch.equal(top_per_column(x, counts), mask.flatten().nonzero().squeeze(1))


def on_a_rank(x: Tensor, bounds: list[int], what: str, argument: object) -> Tensor:
    """Return what this rank chooses among its rows, as positions in the global matrix."""
    start, stop = bounds[rank()], bounds[rank() + 1]
    choose = {"overall": top_overall, "columns": top_per_column}[what]
    return choose(x[start:stop], argument) + start * x.shape[1]


@pytest.mark.parametrize("bounds", [[0, 48, 96], [0, 31, 96], [0, 0, 96], [0, 96, 96]])
@pytest.mark.parametrize("ties", [False, True])
def test_two_ranks_choose_what_one_process_does(ties, bounds, two_ranks) -> None:
    x = big(ties)
    for k in (1, 3000, 98_304):
        parts = two_ranks(on_a_rank, x, bounds, "overall", k)
        assert torch.equal(torch.cat(parts), top_overall(x, k))
    budgets = torch.randint(0, 97, (1024,), generator=torch.Generator().manual_seed(1))
    parts = two_ranks(on_a_rank, x, bounds, "columns", budgets)
    assert torch.equal(torch.cat(parts), top_per_column(x, budgets))


def without_sync(x: Tensor) -> list[int]:
    own = x[2 * rank() : 2 * rank() + 2]
    counts = torch.ones(2, dtype=torch.int64)
    return [len(top_overall(own, 2, sync=False)), len(top_per_column(own, counts, sync=False))]


def test_without_sync_each_rank_chooses_alone(two_ranks) -> None:
    x = torch.tensor([[9.0, 8.0], [7.0, 6.0], [1.0, 2.0], [3.0, 4.0]])
    assert two_ranks(without_sync, x) == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: top_per_row(torch.zeros(3), 1), "must be a matrix"),
        (lambda: top_per_row(torch.zeros(3, 2), 3), r"k must be in 0\.\.2"),
        (lambda: top_overall(torch.zeros(3, 2), -1), "k must be at least 0"),
        (lambda: top_overall(torch.zeros(3, 2), 7), "only 6 entries"),
        (lambda: top_per_column(torch.zeros(3, 2), torch.ones(3).long()), "one per column"),
        (lambda: top_per_column(torch.zeros(3, 2), torch.tensor([1, 4])), "budget of 4 exceeds"),
    ],
)
def test_refuses(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@given(matrices, st.data())
def test_what_a_gpu_does_chooses_the_same(rows: list[list[float]], data: st.DataObject) -> None:
    x = torch.tensor(rows)
    number = torch.tensor([data.draw(st.integers(1, len(row))) for row in rows])
    most, total = int(number.max()), int(number.sum())
    row, column = topk._best_by_bound(x, number, most, total)
    chosen = [set(column[row == i].tolist()) for i in range(len(rows))]
    assert chosen == [best(row, int(k)) for row, k in zip(rows, number, strict=True)]
    one, other = (
        torch.stack(pair).T.tolist()
        for pair in ((row, column), topk._best_of_rows(x, number, most, total))
    )
    assert one == sorted(other)


def test_a_number_per_row_is_that_of_the_whole_matrix() -> None:
    x = big(ties=True)
    assert torch.equal(top_overall(x, 3, per_row=True), top_overall(x, 3 * 96))


@pytest.mark.parametrize("shift", [0.0, 10.0])
@pytest.mark.parametrize("ties", [False, True])
def test_ranks_that_differ_choose_what_one_process_does(shift, ties, two_ranks) -> None:
    # a rank with all of the largest entries sends more than its share
    x = big(ties)
    x[:48] += shift
    x[5, :900] = 20.0
    for k in (700, 3000):
        parts = two_ranks(on_a_rank, x, [0, 48, 96], "overall", k)
        assert torch.equal(torch.cat(parts), top_overall(x, k))
