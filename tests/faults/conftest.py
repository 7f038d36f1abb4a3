"""The run that those of a quick test are compared with."""

from __future__ import annotations

import pytest

from tests.faults.invariant import Whole, whole_run
from tests.helpers.configs import arguments


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A classifier with sharded per-sample memory, of twelve steps, that nothing hurts."""
    folder = tmp_path_factory.mktemp("unhurt")
    return whole_run(arguments("classifier", "with/saf"), folder / "whole")
