"""Seeds that any process can compute, and generators that a checkpoint can carry."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.utilities.randomness import capture_rng, restore_rng, seeded, stable_seed


def draw() -> list[float]:
    # gauss and standard_normal keep a second number for the next call
    return [random.gauss(0, 1), np.random.standard_normal(), float(torch.randn(()))]


def test_restored_generators_go_on_where_they_were(tmp_path: Path) -> None:
    draw()
    torch.save(capture_rng(), tmp_path / "rng.pt")
    expected = [draw() for _ in range(3)]
    draw()
    restore_rng(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("position", [-1, 625, 10**9])
def test_no_generator_reads_behind_its_state(position: int) -> None:
    state = capture_rng()
    state["numpy"][2] = position
    # NumPy takes more keys than it has words
    state["numpy"][1] = torch.zeros(2000, dtype=torch.int64)
    with pytest.raises(ValueError, match="'rng' is no state of generators: NumPy's position is"):
        restore_rng(state)


def test_seeded_leaves_the_global_generators_alone() -> None:
    before = capture_rng()
    first = draw()
    restore_rng(before)
    with seeded(3, "augment"):
        inside = draw()
    assert draw() == first
    restore_rng(before)
    try:
        with seeded(3, "augment"):
            assert draw() == inside
            raise KeyError
    except KeyError:
        assert draw() == first
    with seeded(4, "augment"):
        assert draw() != inside


def test_a_seed_is_a_function_of_its_key_alone() -> None:
    keys = [(), (0,), (0, 0), (1, 23), (12, 3), ("a", 1), (1, "a"), (-1,)]
    seeds = [stable_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # of every process, and of every version: a resumed run draws what the first would have drawn
    assert stable_seed("a", 1) == 4665976284724862560


@pytest.mark.parametrize("visible", [1, 2, 3])
def test_a_gpu_goes_on_whatever_others_are_visible(
    visible: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [torch.tensor([number], dtype=torch.uint8) for number in range(visible)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: visible - 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: gpus[visible - 1])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: set_to.append(int(state)))
    set_to: list[int] = []
    state = capture_rng()
    assert [int(own) for own in state["cuda"]] == [visible - 1]
    for saved in ([7], [4, 5, 6], []):
        restore_rng({**state, "cuda": [torch.tensor([n], dtype=torch.uint8) for n in saved]})
    assert set_to == [7, [4, 5, 6][visible - 1]]
