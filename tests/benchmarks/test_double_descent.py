"""The claim: the peak at P = N is that of the exact solution, and grows with the budget."""

from __future__ import annotations

import pytest
import torch

from benchmarks.double_descent import PEAK_WIDTHS, descent, measure, trained
from framework.dynamics.random_features import descended, exact_solution


def test_the_peak_is_that_of_the_exact_solution_and_not_of_100_steps() -> None:
    solvers = {"exact": exact_solution, "100": descent(100), "1e9": descent(10**9)}
    found, condition = measure(solvers, seeds=2, widths=(200, 1200))
    ratio = {name: float(f.mse[0].mean() / f.mse[1].mean()) for name, f in found.items()}
    assert ratio["exact"] > 1e3
    assert ratio["100"] < 1.1
    # what is between them lies between
    assert 1.1 < ratio["1e9"] < ratio["exact"]
    assert float(condition[0].min()) > 30 * float(condition[1].max())
    # the numbers of another split
    assert float(found["100"].mse[0].mean()) == pytest.approx(0.567, rel=0.05)
    assert float(found["exact"].mse[1].mean()) == pytest.approx(0.675, rel=0.15)
    assert float(found["exact"].train_mse.max()) < 1e-12


@pytest.mark.slow
def test_3000_steps_make_a_hump() -> None:
    found, _ = measure({"3000": descent(3000)}, seeds=3, widths=PEAK_WIDTHS)
    heights = found["3000"].peaks(PEAK_WIDTHS)
    assert all(1.1 < height < 1.6 for height in heights)


def test_trained_steps_of_plain_descent_are_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    solve = trained(lambda weights: torch.optim.SGD(weights, lr=1.0), 20)
    torch.testing.assert_close(solve(z, y), descended(z, y, 20), rtol=1e-4, atol=1e-5)
    # batches of all rows, in another order
    whole = trained(lambda weights: torch.optim.SGD(weights, lr=1.0), 20, batch_size=9)
    torch.testing.assert_close(whole(z, y), descended(z, y, 20), rtol=1e-4, atol=1e-5)
