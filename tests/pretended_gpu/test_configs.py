"""Every config and overlay runs on a GPU, and does no more there than is pinned.

After a change that makes a count lower, ``python -m tests.pretended_gpu --pin NAME`` pins that.
"""

from __future__ import annotations

import pytest

from tests.helpers.configs import one_of_many
from tests.pretended_gpu.bounds import exceeded, of_one_process, of_two_ranks, pinned
from tests.pretended_gpu.configs import (
    COMMANDS,
    ON_ONE_PROCESS,
    ON_TWO_RANKS_ALONE,
    measured,
    measured_on_two_ranks,
)

QUICK = ("classifier", "sae_mutual")
QUICK_ON_TWO_RANKS = ("sae_mutual",)


@pytest.mark.parametrize(
    "name", [one_of_many(name, quick=name in QUICK) for name in ON_ONE_PROCESS]
)
def test_one_process(name, tmp_path, data_folder):
    found = measured(name, data_folder, tmp_path)
    assert [measurement.error for measurement in found.values()] == [None] * len(COMMANDS)
    for measurement in found.values():
        assert not measurement.faults
    assert len(found["fit"].steps["training step"]) > 2
    counts = of_one_process(found)
    assert counts["launches"] > 20
    assert not exceeded(name, counts)


@pytest.mark.parametrize(
    "name",
    [
        one_of_many(name, quick=name in QUICK_ON_TWO_RANKS)
        for name in (*ON_ONE_PROCESS, *ON_TWO_RANKS_ALONE)
    ],
)
def test_two_ranks(name, tmp_path, data_folder, two_ranks):
    ranks = measured_on_two_ranks(name, data_folder, tmp_path, two_ranks)
    assert [rank.error for rank in ranks] == [None, None]
    assert not any(rank.faults for rank in ranks)
    assert not exceeded(name, of_two_ranks(ranks))


def test_the_table_has_a_row_for_every_config_and_overlay():
    assert set(pinned()) == {*ON_ONE_PROCESS, *ON_TWO_RANKS_ALONE}
