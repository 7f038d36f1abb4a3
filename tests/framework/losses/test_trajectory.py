"""The numbers of the specification, and what the divergence is at its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.distributed.collectives import barrier, rank
from framework.losses.trajectory import TrajectoryLoss, trajectory_divergence

NOW = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
PAST = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
WEIGHT = 0.3

WORKED = {
    1.0: (0.161760, 0.161760, 0.048528, [0.054492, -0.037054, -0.017437]),
    5.0: (0.00735934, 0.183983, 0.055195, [0.061487, -0.023412, -0.038075]),
    100.0: (1.808427e-5, 0.180843, 0.054253, [0.058546, -0.017014, -0.041532]),
}


@pytest.mark.parametrize("temperature", WORKED)
def test_worked_example(temperature):
    divergence, scaled, weighted, gradient = WORKED[temperature]
    now = NOW.clone().requires_grad_()
    per_sample = trajectory_divergence(now, PAST, temperature)
    assert per_sample.shape == (2,)
    assert per_sample[1] == 0
    (WEIGHT * per_sample.mean()).backward()
    mean = per_sample.detach().mean()
    assert float(mean / temperature**2) == pytest.approx(divergence, rel=4e-6)
    assert float(mean) == pytest.approx(scaled, abs=5e-7)
    assert float(WEIGHT * mean) == pytest.approx(weighted, abs=5e-7)
    assert now.grad[0].tolist() == pytest.approx(gradient, abs=5e-7)
    assert now.grad[1].abs().max() < 1e-14


def test_high_temperatures_match_logits():
    gap = NOW - PAST
    limit = (gap - gap.mean(1, keepdim=True)).square().sum(1) / (2 * gap.shape[1])
    assert float(limit.mean()) == pytest.approx(0.180556, abs=5e-7)
    assert float(WEIGHT * limit.mean()) == pytest.approx(0.054167, abs=5e-7)
    reached = trajectory_divergence(NOW, PAST, 1e4)
    assert reached.tolist() == pytest.approx(limit.tolist(), abs=1e-4)
    variance = gap.var(1, correction=0) / 2
    assert variance.tolist() == pytest.approx(limit.tolist())


def test_a_history_of_zeros_would_count():
    """What the mask of rows that were never written is there to prevent."""
    uniform = trajectory_divergence(NOW, torch.zeros_like(NOW), 5.0).mean()
    assert float(uniform) == pytest.approx(0.428948, abs=5e-7)


logits = st.lists(st.floats(-20, 20), min_size=8, max_size=8).map(
    lambda v: torch.tensor(v, dtype=torch.float64).view(2, 4)
)


@given(logits, logits, st.floats(0.5, 20))
def test_gradient_identity(now, past, temperature):
    now.requires_grad_()
    divergence = trajectory_divergence(now, past, temperature)
    (WEIGHT * divergence.mean()).backward()
    expected = (now / temperature).softmax(1) - (past / temperature).softmax(1)
    expected = WEIGHT * temperature / len(now) * expected.detach()
    assert torch.allclose(now.grad, expected, rtol=0, atol=1e-12)
    assert divergence.min() > -1e-10


@given(logits, logits, st.floats(-50, 50))
def test_only_differences_of_logits_count(now, past, shift):
    shifted = trajectory_divergence(now + shift, past - shift, 5.0)
    assert torch.allclose(shifted, trajectory_divergence(now, past, 5.0), atol=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_gradcheck(temperature):
    now = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    past = now.flip(0).clone().requires_grad_()
    now.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda z: trajectory_divergence(z, past.detach(), temperature), (now,))
    value = trajectory_divergence(now, past, temperature)
    assert value.shape == (3,)
    value.sum().backward()
    assert past.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 6e4])
def test_half_precision_under_autocast(dtype, size):
    now = (size * torch.tensor([[1.0, -1.0, 0.5], [0.0, 0.0, 0.0]])).to(dtype).requires_grad_()
    past = (size * torch.tensor([[-1.0, 1.0, 0.5], [1.0, 0.0, -1.0]])).to(dtype)
    with torch.autocast("cpu", dtype=dtype if dtype == torch.bfloat16 else torch.bfloat16):
        value = trajectory_divergence(now, past, 5.0)
        # what the authors' code computes there
        naive = (past / 5).softmax(1) * ((past / 5).softmax(1).log() - (now / 5).softmax(1).log())
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    exact = trajectory_divergence(now.double(), past.double(), 5.0)
    assert torch.allclose(value.double(), exact, rtol=1e-5)
    value.sum().backward()
    assert torch.isfinite(now.grad).all()
    assert now.grad.dtype == dtype
    assert size == 1.0 or not torch.isfinite(naive).all()


def test_history_in_half_precision_is_read_in_the_precision_of_the_run():
    half = PAST.half()
    assert torch.equal(
        trajectory_divergence(NOW, half, 5.0), trajectory_divergence(NOW, half.double(), 5.0)
    )


def test_no_rows():
    now = torch.zeros(0, 3, requires_grad=True)
    value = trajectory_divergence(now, torch.zeros(0, 3), 5.0)
    assert value.shape == (0,)
    value.sum().backward()
    assert now.grad.shape == (0, 3)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 1)])
def test_refuses_what_is_no_distribution(shape):
    with pytest.raises(ValueError, match="at least two classes"):
        trajectory_divergence(torch.zeros(shape), torch.zeros(shape), 5.0)


def test_refuses_another_shape():
    with pytest.raises(ValueError, match=r"changed their shape from \(2, 4\) to \(2, 3\)"):
        trajectory_divergence(torch.zeros(2, 3), torch.zeros(2, 4), 5.0)


# ---- the loss with its memory --------------------------------------------------------------------


def remembering(**kwargs):
    options = {"start_epoch": 1, "dtype": torch.float64, **kwargs}
    return TrajectoryLoss(6, 3, lag_epochs=2, **options)


def drawn(seed):
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_target_are_the_logits_of_the_same_sample_two_epochs_ago():
    loss, epochs = remembering(), [drawn(seed) for seed in range(4)]
    for epoch, logits in enumerate(epochs):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(epoch))
        found = [loss(logits[rows], rows, epoch) for rows in order.split(3)]
        if epoch < 2:
            assert found == [0, 0]
            continue
        for value, rows in zip(found, order.split(3), strict=True):
            past = epochs[epoch - 2][rows]
            expected = 0.3 * trajectory_divergence(logits[rows], past, 5.0).mean()
            assert float(value) == pytest.approx(float(expected), rel=1e-14)


def test_rows_without_an_entry_count_as_zero_in_the_mean():
    loss, rows = remembering(), torch.arange(6)
    loss(drawn(0)[:2], rows[:2], 0)
    expected = 0.3 * trajectory_divergence(drawn(1)[:2], drawn(0)[:2], 5.0).sum() / 6
    assert float(loss(drawn(1), rows, 2)) == pytest.approx(float(expected), rel=1e-14)


def test_nothing_is_remembered_in_evaluation_mode():
    loss, rows = remembering(), torch.arange(6)
    loss.eval()
    assert loss(drawn(0), rows, 0) == 0
    loss.train()
    assert loss(drawn(1), rows, 2) == 0


def test_the_memory_is_in_the_state():
    loss, again, rows = remembering(), remembering(), torch.arange(6)
    loss(drawn(0), rows, 0)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(drawn(1), rows, 2), loss(drawn(1), rows, 2))
    loss.reset()
    assert again(drawn(2), rows, 2) > 0
    assert loss(drawn(2), rows, 2) == 0


def test_an_empty_batch_and_half_precision():
    loss, rows = remembering(), torch.arange(6)
    loss(drawn(0).half(), rows, 0)
    assert loss(drawn(1)[:0], rows[:0], 2) == 0
    value = loss(drawn(1).bfloat16(), rows, 2)
    assert value.dtype == torch.float32
    assert value > 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"weight": -1.0}, "weight must be at least 0, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"start_epoch": 0}, "start_epoch must be at least 1, got 0"),
        ({"end_epoch": 2}, "No epoch lies between start_epoch=1 and end_epoch=2"),
    ],
)
def test_arguments_out_of_range(argument, message):
    with pytest.raises(ValueError, match=message):
        remembering(**argument)


def memory_of_two_ranks(layout):
    loss, rows = remembering(layout=layout), torch.arange(6)
    own = rows[rank() :: 2]
    loss(drawn(0)[own], own, 0)
    barrier()
    # every sample is on the other rank now
    other = rows[1 - rank() :: 2]
    return float(loss(drawn(1)[other], other, 2))


@pytest.mark.parametrize("layout", ["replicated", "exchange", "memmap"])
def test_a_sample_that_changes_its_rank_finds_its_past(layout, two_ranks):
    found = two_ranks(memory_of_two_ranks, layout)
    for number, value in enumerate(found):
        rows = torch.arange(6)[1 - number :: 2]
        expected = 0.3 * trajectory_divergence(drawn(1)[rows], drawn(0)[rows], 5.0).mean()
        assert value == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "index", "epoch", "words"),
    [
        (torch.zeros(4, 5), torch.arange(4), 0, r"must have the shape \(3,\).* got \(5,\)"),
        (torch.zeros(4), torch.arange(4), 0, r"must have the shape \(3,\).* got \(\)"),
        (torch.zeros(4, 3), torch.arange(3), 0, "one int64 position for each of the 4 rows"),
        (torch.zeros(4, 3), torch.arange(4.0), 0, "one int64 position for each of the 4 rows"),
        (torch.zeros(4, 3), torch.arange(4), 1.5, "epoch must be an integer of at least 0, got 1"),
        (torch.zeros(4, 3), torch.arange(4), -1, "epoch must be an integer of at least 0, got -1"),
    ],
)
def test_what_is_no_batch_of_the_run_is_refused(logits, index, epoch, words):
    term = TrajectoryLoss(num_samples=8, num_classes=3, lag_epochs=1, start_epoch=0)
    with pytest.raises(ValueError, match=words):
        term(logits, index, epoch)
