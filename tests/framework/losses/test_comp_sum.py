import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.losses import CompSumLoss, h_consistency_transform

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -0.2]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])
TAUS = (0.0, 0.5, 1.0, 1.5, 1.7, 2.0, 3.0)


def random_logits(seed: int, rows: int = 16, classes: int = 5, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def losses(logits: Tensor, labels: Tensor, tau: float, **kwargs: float) -> Tensor:
    return CompSumLoss(tau, reduction="none", **kwargs)(logits, labels)


@pytest.mark.parametrize(
    ("tau", "first", "second", "mean"),
    [
        (0.0, 0.272917, 2.998580, 1.635749),
        (0.5, 0.256473, 1.999290, 1.127881),
        (1.0, 0.241311, 1.385939, 0.813625),
        (1.7, 0.222031, 0.887110, 0.554570),
        (2.0, 0.214403, 0.749911, 0.482157),
        (3.0, 0.191419, 0.468728, 0.330073),
    ],
)
def test_values_of_the_worked_example(tau: float, first: float, second: float, mean: float) -> None:
    assert losses(LOGITS, LABELS, tau).tolist() == pytest.approx([first, second], abs=6e-7)
    assert CompSumLoss(tau)(LOGITS, LABELS).item() == pytest.approx(mean, abs=6e-7)


def test_gradient_of_the_worked_example() -> None:
    logits = LOGITS.clone().requires_grad_()
    CompSumLoss(1.7, reduction="sum")(logits, LABELS).backward()
    expected = [[-0.181080, 0.033034, 0.148046], [0.156281, 0.127952, -0.284234]]
    torch.testing.assert_close(logits.grad, torch.tensor(expected).double(), atol=6e-7, rtol=0)


@pytest.mark.parametrize("tau", TAUS)
def test_gradient_is_that_of_cross_entropy_times_a_power_of_p(tau: float) -> None:
    logits = random_logits(0).requires_grad_()
    labels = torch.arange(16) % 5
    (gradient,) = torch.autograd.grad(losses(logits, labels, tau).sum(), logits)
    p = logits.detach().softmax(1)
    p_y = p.gather(1, labels[:, None])
    torch.testing.assert_close(gradient, p_y ** (tau - 1) * (p - F.one_hot(labels, 5)))


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(tau: float, label_smoothing: float, soft: bool) -> None:
    logits = random_logits(1, rows=3, classes=4, scale=1.0).requires_grad_()
    targets = random_logits(2, rows=3, classes=4).softmax(1) if soft else torch.tensor([0, 3, 1])
    loss = CompSumLoss(tau, label_smoothing=label_smoothing)
    assert torch.autograd.gradcheck(loss, (logits, targets))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_tau_1_is_torch_cross_entropy(label_smoothing: float) -> None:
    logits, labels = random_logits(3), torch.arange(16) % 5
    soft = random_logits(4).softmax(1)
    for targets in (labels, soft):
        expected = F.cross_entropy(
            logits, targets, reduction="none", label_smoothing=label_smoothing
        )
        actual = losses(logits, targets, 1.0, label_smoothing=label_smoothing)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("tau", TAUS)
def test_soft_targets_are_the_expectation_over_labels(tau: float) -> None:
    logits, soft = random_logits(5), random_logits(6).softmax(1)
    by_label = [losses(logits, torch.full((16,), k), tau) for k in range(5)]
    expected = (soft * torch.stack(by_label, 1)).sum(1)
    torch.testing.assert_close(losses(logits, soft, tau), expected)


@pytest.mark.parametrize("tau", TAUS)
def test_a_constant_added_to_the_logits_changes_nothing(tau: float) -> None:
    logits, labels = random_logits(7), torch.arange(16) % 5
    torch.testing.assert_close(losses(logits + 12.5, labels, tau), losses(logits, labels, tau))


@given(seed=st.integers(0, 1000), low=st.floats(0, 3), step=st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_decreases_in_tau(seed: int, low: float, step: float) -> None:
    logits, labels = random_logits(seed), torch.arange(16) % 5
    assert (losses(logits, labels, low + step) < losses(logits, labels, low)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [-1e-4, 1e-4])
def test_continuous_at_tau_1(dtype: torch.dtype, side: float) -> None:
    logits, labels = random_logits(8).to(dtype), torch.arange(16) % 5
    entropy = losses(logits, labels, 1.0)
    beside = losses(logits, labels, 1 + side)
    assert ((beside - entropy).abs() < 2e-4 * entropy**2).all()
    assert not torch.equal(beside, entropy)


def test_symmetric_at_tau_2() -> None:
    logits = random_logits(9)
    total = sum(losses(logits, torch.full((16,), k), 2.0) for k in range(5))
    torch.testing.assert_close(total, torch.full((16,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("tau", [1.5, 2.0, 3.0])
def test_bounded_above_tau_1(tau: float) -> None:
    logits = torch.tensor([[0.0, 1e4]])
    assert losses(logits, torch.tensor([0]), tau).item() == pytest.approx(1 / (tau - 1))


def test_below_tau_1_the_value_is_exact_until_it_stops_growing() -> None:
    # the exponent (1 - tau) * (-log p) is 79, 75 and, cut off, 80
    for tau, gap, exponent in ((0.0, 79.0, 79.0), (0.5, 150.0, 75.0), (0.0, 1e4, 80.0)):
        logits = torch.tensor([[0.0, gap]])
        value = losses(logits, torch.tensor([0]), tau).item()
        assert value == pytest.approx(math.expm1(exponent) / (1 - tau), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tau": -0.1}, "tau must be"),
        ({"tau": math.inf}, "tau must be"),
        ({"tau": math.nan}, "tau must be"),
        ({"label_smoothing": 1.1}, "label_smoothing must lie"),
        ({"reduction": "average"}, "reduction must be"),
    ],
)
def test_refuses_bad_arguments(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CompSumLoss(**arguments)


# ---- the H-consistency transform ------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "value"),
    [(0.0, 0.133975), (0.5, 0.125628), (1.0, 0.130812), (1.5, 0.136294), (2.0, 0.166667)],
)
def test_transform_of_the_worked_example(tau: float, value: float) -> None:
    assert h_consistency_transform(0.5, tau, 3).item() == pytest.approx(value, abs=6e-7)
    assert h_consistency_transform(0.5, 0.0, 3).item() == pytest.approx(1 - math.sqrt(0.75))


@pytest.mark.parametrize("tau", [*TAUS, 1.999])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_transform_rises_from_0_and_is_convex(tau: float, num_classes: int) -> None:
    betas = torch.linspace(0, 1, 101, dtype=torch.float64)
    values = h_consistency_transform(betas, tau, num_classes)
    slopes = values.diff()
    assert abs(values[0]) < 1e-12
    assert values.isfinite().all()
    assert (slopes > 0).all()
    assert (slopes.diff() > -1e-12).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 1.7])
@pytest.mark.parametrize("beta", [0.2, 0.9])
def test_transform_is_the_exact_excess_loss_of_two_classes(tau: float, beta: float) -> None:
    """The least loss among the wrong predictors, a tie at best, minus the least loss of all."""
    margins = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    grid = torch.stack([margins, torch.zeros_like(margins)], 1)
    truth = torch.tensor([(1 + beta) / 2, (1 - beta) / 2], dtype=torch.float64).expand_as(grid)
    risk = losses(grid, truth, tau)
    excess = risk[margins <= 1e-9].min() - risk.min()
    assert h_consistency_transform(beta, tau, 2).item() == pytest.approx(excess.item(), abs=1e-6)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_transform_is_continuous_in_tau(tau: float) -> None:
    middle = h_consistency_transform(0.5, tau, 3)
    for side in (-1e-4, 1e-4):
        near = h_consistency_transform(0.5, tau + side, 3)
        assert near.item() == pytest.approx(middle.item(), abs=1e-4)


def test_negative_soft_labels_are_refused() -> None:
    soft = torch.tensor([[0.6, 0.6, -0.2]])
    with pytest.raises(ValueError, match=r"CompSumLoss takes soft labels of at least 0, got -0\.2"):
        CompSumLoss()(torch.zeros(1, 3), soft)


@pytest.mark.parametrize("arguments", [(1.1, 1.0, 3), (-0.1, 1.0, 3), (0.5, -1.0, 3), (0.5, 1, 1)])
def test_transform_refuses_bad_arguments(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="must"):
        h_consistency_transform(*arguments)
