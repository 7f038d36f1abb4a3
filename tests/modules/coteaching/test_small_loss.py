"""Which rows the small-loss trick keeps, on one process and on two ranks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.distributed.collectives import rank
from modules.coteaching.small_loss import SmallLossSelector

NAN = math.nan
both_scopes = pytest.mark.parametrize("scope", ["global", "local"])


@both_scopes
def test_the_example_of_the_spec(scope: str) -> None:
    losses = torch.tensor([0.1, 2.0, 0.5, 3.0])
    assert SmallLossSelector(0.25, scope=scope).select(losses).tolist() == [True, True, True, False]
    assert SmallLossSelector(0.0, scope=scope).select(losses).all()


@both_scopes
@pytest.mark.parametrize(
    ("forget_rate", "rows", "kept"),
    [(0.3, 10, 7), (0.43, 100, 57), (0.1, 10, 9), (0.42, 50, 29), (0.9, 1, 1), (0.5, 0, 0)],
)
def test_the_number_of_rows_is_not_lost_to_rounding(
    scope: str, forget_rate: float, rows: int, kept: int
) -> None:
    mask = SmallLossSelector(forget_rate, scope=scope).select(torch.rand(rows))
    assert int(mask.sum()) == kept


@both_scopes
@given(
    losses=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12),
    forget_rate=st.floats(0, 0.99),
)
def test_no_row_left_out_has_a_smaller_loss(
    scope: str, losses: list[float], forget_rate: float
) -> None:
    values = torch.tensor(losses)
    mask = SmallLossSelector(forget_rate, scope=scope).select(values)
    assert mask.any()
    if not mask.all():
        assert values[mask].max() <= values[~mask].min()


@both_scopes
def test_candidates_are_chosen_among_themselves(scope: str) -> None:
    losses = torch.tensor([0.0, 5.0, 0.0, 4.0, 0.0, 6.0])
    candidates = torch.tensor([False, True] * 3)
    mask = SmallLossSelector(0.3, scope=scope).select(losses, candidates=candidates)
    assert mask.tolist() == [False, True, False, True, False, False]


@both_scopes
def test_nan_ranks_last_and_the_earlier_of_equal_losses_first(scope: str) -> None:
    selector = SmallLossSelector(0.5, scope=scope)
    assert selector.select(torch.tensor([NAN, 9.0, NAN, 8.0])).tolist() == [False, True] * 2
    assert selector.select(torch.zeros(4)).tolist() == [True, True, False, False]


def test_the_forget_rate_grows_linearly() -> None:
    selector = SmallLossSelector(0.4, ramp_epochs=4)
    rates = [selector.rate(epoch) for epoch in range(6)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    losses = torch.arange(10.0)
    assert [int(selector.select(losses, epoch).sum()) for epoch in (0, 2, 9)] == [10, 8, 6]
    assert SmallLossSelector(0.4).rate(0) == 0.4


LOSSES = [0.5, 3.0, 0.2, NAN, 0.1, 2.0, 0.3, 0.4, 9.0]
CANDIDATES = [True, True, False, True, True, True, False, True, True]


def select_on_this_rank(counts: list[int], scope: str) -> list[bool]:
    start = sum(counts[: rank()])
    rows = slice(start, start + counts[rank()])
    selector = SmallLossSelector(0.4, scope=scope)
    candidates = torch.tensor(CANDIDATES)[rows]
    return selector.select(torch.tensor(LOSSES)[rows], candidates=candidates).tolist()


@pytest.mark.parametrize("counts", [[5, 4], [2, 7], [0, 9], [9, 0]])
def test_global_ranks_select_what_one_process_does(counts: list[int], two_ranks) -> None:
    whole = SmallLossSelector(0.4).select(torch.tensor(LOSSES), candidates=torch.tensor(CANDIDATES))
    assert int(whole.sum()) == 4
    first, second = two_ranks(select_on_this_rank, counts, "global")
    assert first + second == whole.tolist()


def test_local_ranks_select_among_their_own(two_ranks) -> None:
    first, second = two_ranks(select_on_this_rank, [5, 4], "local")
    assert first == [True, False, False, False, True]
    assert second == [False, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"forget_rate": 1.0}, r"forget_rate must lie in \[0, 1\)"),
        ({"forget_rate": -0.1}, r"forget_rate must lie in \[0, 1\)"),
        ({"forget_rate": 0.1, "ramp_epochs": -1}, "ramp_epochs must be at least 0"),
        ({"forget_rate": 0.1, "scope": "world"}, "scope must be one of global, local"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SmallLossSelector(**arguments)
