"""The published gain of further inner steps, on fewer steps than the benchmark takes."""

from __future__ import annotations

import pytest

from benchmarks.sso import loss_after


@pytest.mark.parametrize("eta", [0.1, 1.0, 4.0])
def test_more_inner_steps_lower_the_loss_at_equal_gradients(eta):
    one, five, twenty = (loss_after(eta, m, seed=0, steps=25) for m in (1, 5, 20))
    assert twenty < five < one
    assert five < 0.95 * one
