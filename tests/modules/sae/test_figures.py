"""What a person finds in the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import trimtab
from modules import SparseAutoencoderModule
from modules.sae.activations import ReLUWithL1
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET

pytestmark = pytest.mark.pictures


def test_a_run_draws_densities_and_active_features(tmp_path: Path) -> None:
    args = arguments("sae", data=tmp_path)
    trimtab.main(["fit", *args, *QUIET, f"--run_folder={tmp_path}"])
    figures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert figures == {"learning_curves", "val_active_features", "val_density"}
    assert "val/duplicate_share" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_a_penalty_is_not_weighed_against_a_normalized_error() -> None:
    with pytest.raises(ValueError, match="set denominator to none"):
        SparseAutoencoderModule(d_in=8, d_sae=32, selection=ReLUWithL1())
