"""Means over an epoch: weighted by rows, over all ranks, and through a restart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from framework.distributed.collectives import rank, world_size
from framework.training.term_means import TermMeans

CPU = torch.device("cpu")
# (names, global means, rows of the global batch), `late` comes with the second step
STEPS = [
    (("loss", "a"), [1.0, 4.0], 6),
    (("loss", "a", "late"), [3.0, 2.0, 7.0], 2),
    (("late", "loss", "a"), [1.0, 5.0, 0.0], 2),
]
EXPECTED = {"loss": 2.2, "a": 2.8, "late": 4.0}


def feed(means: TermMeans, steps: list[Any]) -> None:
    """Add this rank's share of every step: rank 0 holds three quarters."""
    share = 1.0 if world_size() == 1 else (0.75, 0.25)[rank()]
    for names, values, rows in steps:
        means.update(names, torch.tensor(values, dtype=torch.float64) * share, rows)


def computed(state: Any = None, start: int = 0, stop: int = 3) -> tuple[dict[str, float], Any]:
    means = TermMeans()
    if state is not None:
        means.load_state_dict(state, CPU)
    feed(means, STEPS[start:stop])
    return {n: float(v) for n, v in means.compute().items()}, means.state_dict()


def test_means_are_weighted_by_rows(two_ranks) -> None:
    one, _ = computed()
    assert one == pytest.approx(EXPECTED)
    for two, _ in two_ranks(computed):
        assert two == pytest.approx(EXPECTED)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_restart_on_any_number_of_ranks_changes_nothing(two_ranks, before, after) -> None:
    run = {1: lambda *a: computed(*a), 2: lambda *a: two_ranks(computed, *a)[1]}
    _, state = run[before](None, 0, 2)
    assert run[after](state, 2, 3)[0] == pytest.approx(EXPECTED)


def test_the_state_is_loaded_safely(tmp_path) -> None:
    _, state = computed()
    torch.save(state, tmp_path / "means.pt")
    loaded = torch.load(tmp_path / "means.pt", weights_only=True)
    assert computed(loaded, 3)[0] == pytest.approx(EXPECTED)


def test_what_is_added_is_left_alone() -> None:
    means, values = TermMeans(), torch.tensor([1.0, 2.0], dtype=torch.float64)
    for _ in range(2):
        means.update(("loss", "a"), values, 8)
    assert values.tolist() == [1.0, 2.0]


def test_nothing_added_is_nothing_computed() -> None:
    means = TermMeans()
    assert means.compute() == {}
    means.load_state_dict(means.state_dict(), CPU)
    assert means.compute() == {}
    feed(means, STEPS)
    means.reset()
    assert means.compute() == {}


def test_what_had_no_row_is_left_out() -> None:
    means = TermMeans()
    means.update(("loss",), torch.tensor([0.0]), 0)
    assert means.compute() == {}
    means.update(("loss",), torch.tensor([3.0]), 2)
    means.update(("loss",), torch.tensor([0.0]), 0)
    assert float(means.compute()["loss"]) == 3.0
