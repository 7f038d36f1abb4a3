"""Which snapshots of the codes are kept in runs of any length."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
import torch

from framework.metrics.embedding_sample import EmbeddingSnapshot
from modules.depict.snapshots import Snapshots


def codes(moment: int) -> EmbeddingSnapshot:
    return EmbeddingSnapshot(
        torch.full((2, 3), float(moment)), torch.tensor([0, 1]), torch.tensor([1, -1])
    )


def taken(snapshots: Snapshots) -> list[int]:
    """The moments that are kept; titles and codes belong together."""
    moments = [int(title) for title, _ in snapshots.kept]
    assert [int(kept.code.max()) for _, kept in snapshots.kept] == moments
    return moments


def test_up_to_eight_are_all_kept() -> None:
    snapshots = Snapshots()
    assert snapshots.kept == []
    for moment in range(8):
        snapshots.add(str(moment), codes(moment))
        assert taken(snapshots) == list(range(moment + 1))


def test_then_every_second_one_is_forgotten() -> None:
    snapshots = Snapshots()
    expected = {
        8: [0, 2, 4, 6, 8],
        9: [0, 2, 4, 6, 8, 9],
        10: [0, 2, 4, 6, 8, 10],
        14: [0, 2, 4, 6, 8, 10, 12, 14],
        15: [0, 4, 8, 12, 15],
        16: [0, 4, 8, 12, 16],
        17: [0, 4, 8, 12, 16, 17],
    }
    for moment in range(18):
        snapshots.add(str(moment), codes(moment))
        if moment in expected:
            assert taken(snapshots) == expected[moment]


def test_they_are_evenly_spread_over_runs_of_any_length() -> None:
    snapshots = Snapshots()
    for moment in range(1000):
        snapshots.add(str(moment), codes(moment))
        moments = taken(snapshots)
        assert len(moments) <= 8
        assert moments[0] == 0
        assert moments[-1] == moment
        steps = [later - earlier for earlier, later in pairwise(moments)]
        # all the same, but for the latest, which is nearer
        assert len(set(steps[:-1])) <= 1
        if len(steps) > 1:
            assert steps[-1] <= steps[0]
        if moment >= 8:
            assert len(moments) >= 5


@pytest.mark.parametrize("stop", [0, 1, 8, 9, 15, 16, 21])
def test_a_restart_changes_nothing(stop: int) -> None:
    whole = Snapshots()
    for moment in range(stop):
        whole.add(str(moment), codes(moment))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = Snapshots()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert taken(resumed) == taken(whole)
    for moment in range(stop, stop + 20):
        for snapshots in (whole, resumed):
            snapshots.add(str(moment), codes(moment))
        assert taken(resumed) == taken(whole)
    for (_, kept), (_, expected) in zip(resumed.kept, whole.kept, strict=True):
        assert isinstance(kept, EmbeddingSnapshot)
        assert all(map(torch.equal, kept, expected))
