"""The optimizers of many networks at once are torch's, and every arm sees the same batches."""

from __future__ import annotations

import pytest
import torch

from benchmarks.refined import RATES, Update, arms_of, digits, train


@pytest.mark.parametrize("kind", RATES)
def test_many_networks_take_the_steps_of_torchs_optimizer(kind: str) -> None:
    torch.manual_seed(0)
    whole = [torch.randn(3, 4, 2)]
    single = [torch.nn.Parameter(w.clone()) for w in whole[0]]
    rates = torch.tensor([0.1, 0.01, 0.001])
    optimizers = [
        torch.optim.SGD([w], float(lr), momentum=0.9)
        if kind == "sgd"
        else torch.optim.AdamW([w], float(lr), weight_decay=0.01)
        for w, lr in zip(single, rates, strict=True)
    ]
    update = Update(kind, whole)
    for _ in range(4):
        gradient = torch.randn(3, 4, 2)
        update(whole, (gradient,), rates)
        for weight, part, optimizer in zip(single, gradient, optimizers, strict=True):
            weight.grad = part
            optimizer.step()
    torch.testing.assert_close(whole[0], torch.stack([w.detach() for w in single]))


def test_arms_of_the_same_schedule_are_the_same_runs() -> None:
    schedules = torch.linspace(1, 0, 6, dtype=torch.float64).expand(2, -1)
    one = train("noisy", "sgd", schedules, seeds=2)
    accuracy, loss, norms = train("noisy", "sgd", torch.cat([schedules, schedules]), seeds=2)
    assert accuracy == one[0] * 2
    assert loss == pytest.approx(one[1] * 2, rel=1e-5)
    torch.testing.assert_close(norms, one[2].repeat(2, 1))
    assert loss[0] != loss[1]
    arms = arms_of(6, "sgd", one[2])
    assert {tuple(schedule.shape) for schedule in arms.values()} == {(2, 6)}


def test_a_fifth_of_the_labels_is_random_where_they_are_noisy() -> None:
    clean, noisy = digits(0, 0.0), digits(0, 0.2)
    share = float((clean[1] != noisy[1]).double().mean())
    assert share == pytest.approx(0.2 * 0.9, abs=0.03)
    assert torch.equal(clean[3], noisy[3])
