import statistics

import pytest

from benchmarks.tuning import best_loss, digits, validation_loss


def test_a_trial_depends_on_its_settings_and_seed_alone():
    data = digits()
    losses = [validation_loss(data, 0.01, 0.01, seed, steps=5) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_a_gaussian_process_finds_at_least_what_chance_finds():
    data = digits()
    medians = {
        name: statistics.median(best_loss(data, name, seed)[0] for seed in range(5))
        for name in ("random", "gp", "noisy_ei")
    }
    assert medians["gp"] <= medians["random"]
    assert medians["noisy_ei"] <= medians["random"]
