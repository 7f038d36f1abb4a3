"""What the headers of the two regression configs state, on 442 real patients."""

from pathlib import Path

import pytest

from tests.helpers.runs import CONFIGS, fit


def last_rmse(config: str, folder: Path, seed: int) -> float:
    args = [f"--config={CONFIGS / config}.yaml", f"--run_folder={folder / config}"]
    return fit([*args, f"--seed_everything={seed}"]).metrics["val/rmse"]


@pytest.mark.slow
def test_cs_ib_is_as_good_as_squared_error(tmp_path: Path) -> None:
    squared, csib = (
        sum(last_rmse(config, tmp_path / str(seed), seed) for seed in range(3)) / 3
        for config in ("regressor", "csib")
    )
    assert squared < 62
    assert csib < 1.02 * squared
