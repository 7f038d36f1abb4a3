"""Random numbers of a step: the same on any number of ranks, other ones for each name and step."""

from unittest import mock

import pytest
import torch

from framework.distributed.collectives import rank, rows_per_rank
from framework.self_tuning import Draws, HyperParameter, HyperSpace

SLICES = [(4, 3), (7, 0), (0, 7), (1, 6)]


def space() -> HyperSpace:
    return HyperSpace(
        {"a": HyperParameter(0.0), "b": HyperParameter(0.0, shared=True), "c": HyperParameter(0.0)}
    )


def drawn(slices: list[tuple[int, ...]]) -> list[list[torch.Tensor]]:
    """What this rank draws, for each division of the rows."""
    found = []
    for counts in slices:
        draws, rows = Draws(3, 5), counts[rank()]
        own = [draws.uniform("a", rows, 2), draws.normal("a", rows), draws.one("a", 4)]
        found.append([*own, draws.perturbation(rows, space()), draws.shared_perturbation(space())])
    return found


def test_ranks_draw_what_one_process_draws(two_ranks) -> None:
    whole = drawn([(7,)])[0]
    parts = two_ranks(drawn, SLICES)
    for step, counts in enumerate(SLICES):
        first, second = parts[0][step], parts[1][step]
        assert (len(first[0]), len(second[0])) == counts
        for number in (0, 1, 3):
            assert torch.equal(torch.cat([first[number], second[number]]), whole[number])
        for number in (2, 4):
            assert torch.equal(first[number], whole[number])
            assert torch.equal(second[number], whole[number])


def test_shared_columns_are_equal_in_all_rows() -> None:
    noise = Draws(0, 0).perturbation(5, space())
    assert (noise[:, 1] == Draws(0, 0).shared_perturbation(space())[1]).all()
    assert all(len(set(noise[:, column].tolist())) == 5 for column in (0, 2))


def test_rows_that_are_not_those_of_the_batch() -> None:
    draws = Draws(0, 0)
    assert draws.perturbation(3, space()).shape == (3, 3)
    with pytest.raises(ValueError, match="drawn for 6 rows, but the batch has 3 here"):
        draws.uniform("a", 6)
    expected = Draws(0, 0).uniform("a", 6)
    assert torch.equal(draws.uniform("a", 6, of_batch=False), expected)


def exchanges(rows: int) -> int:
    """How often the ranks tell each other their rows."""
    with mock.patch("framework.self_tuning.draws.rows_per_rank", wraps=rows_per_rank) as asked:
        draws = Draws(0, 0)
        draws.perturbation(rows - rank(), space())
        draws.uniform("a", rows - rank(), 2)
        draws.partners("b", rows - rank())
    return asked.call_count


def test_ranks_tell_their_rows_once(two_ranks) -> None:
    assert two_ranks(exchanges, 3) == [1, 1]


def test_it_is_a_function_of_seed_step_micro_batch_and_name() -> None:
    first = Draws(1, 2).uniform("a", 6)
    assert torch.equal(Draws(1, 2, 0).uniform("a", 6), first)
    for draws in (Draws(2, 2), Draws(1, 3), Draws(1, 2, 1)):
        assert not torch.equal(draws.uniform("a", 6), first)
    assert not torch.equal(Draws(1, 2).uniform("b", 6), first)
    state = torch.get_rng_state()
    Draws(1, 2).normal("a", 6)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_moments() -> None:
    noise = Draws(0, 0).perturbation(20_000, space())[:, [0, 2]]
    assert noise.mean(0).tolist() == pytest.approx([0, 0], abs=4 / 20_000**0.5)
    assert noise.std(0).tolist() == pytest.approx([1, 1], abs=0.02)
    assert float(noise.T.corrcoef()[0, 1]) == pytest.approx(0, abs=4 / 20_000**0.5)


def test_numbers_are_float32_in_any_run() -> None:
    expected = Draws(1, 2).normal("a", 6)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(Draws(1, 2).normal("a", 6), expected)
    finally:
        torch.set_default_dtype(torch.float32)
