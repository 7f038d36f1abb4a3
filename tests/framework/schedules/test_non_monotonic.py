"""The rate falls where a value is above the best one of before the window."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.schedules import NonMonotonicDecay
from tests.framework.runs.test_run_checkpoint import Scored, run


def schedule(**options: float) -> NonMonotonicDecay:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return NonMonotonicDecay(optimizer, **options)  # type: ignore[arg-type]


@given(
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, float("nan")]), max_size=20),
    st.integers(1, 6),
)
def test_it_is_the_rule_of_the_code(losses: list[float], window: int) -> None:
    found = schedule(factor=0.5, window=window)
    rate, before = 1.0, []
    for loss in losses:
        earlier = [x for x in before[:-window] if not math.isnan(x)]
        if len(before) > window and earlier and loss > min(earlier):
            rate /= 2
        before.append(loss)
        found.step(loss)
        assert found.optimizer.param_groups[0]["lr"] == rate or rate < 1e-6


def test_a_restored_schedule_goes_on() -> None:
    losses = [4.0, 3.0, 3.5, 3.875, 3.25, 2.0, 3.125, 3.0625]
    whole = schedule(window=2)
    for loss in losses:
        whole.step(loss)
    one, two = schedule(window=2), schedule(window=2)
    for loss in losses[:4]:
        one.step(loss)
    two.load_state_dict(one.state_dict())
    two.optimizer.load_state_dict(one.optimizer.state_dict())
    for loss in losses[4:]:
        two.step(torch.tensor(loss))
    assert two.state_dict() == whole.state_dict()
    assert two.get_last_lr() == whole.get_last_lr() == [0.25**3]


def test_it_does_not_fall_below_the_smallest_rate() -> None:
    found = schedule(window=1, factor=0.1, min_lr=0.05)
    for loss in (1.0, 2.0, 2.0, 2.0, 2.0):
        found.step(loss)
    assert found.get_last_lr() == [0.05]


def test_it_is_stepped_by_what_was_measured(tmp_path: Path) -> None:
    module = Scored()
    module.lr_scheduler = lambda optimizer: NonMonotonicDecay(  # type: ignore[assignment]
        optimizer, monitor="val/score", factor=0.5, window=1
    )
    events = run(tmp_path, module=module, val_check_interval=2)
    rates = [event[-2] for event in events if event[0] == "batch"]
    # of .5 .4 .9 .3 .6 .7 the third, the fifth and the sixth are above what came before the last
    assert rates == [0.25] * 6 + [0.125] * 4 + [0.0625] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"factor": 1.0}, r"factor must lie in \(0, 1\), got 1.0"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"min_lr": -1.0}, "min_lr must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedule(**options)
