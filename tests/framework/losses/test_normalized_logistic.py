import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.losses import NormalizedLogisticLoss
from framework.solvers import NormalizedLogisticRegression


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def path(step_size: float, normalize: bool) -> list[list[float]]:
    """Return three steps of gradient descent on the worked example."""
    inputs = torch.tensor([[1.0, -1.0], [-1.0, -4.0]], dtype=torch.float64)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = NormalizedLogisticLoss(1e6).train(normalize)
    steps = []
    for _ in range(3):
        value = loss(inputs @ theta, torch.tensor([1, 0]))
        (gradient,) = torch.autograd.grad(value, theta)
        theta = (theta - step_size * gradient).detach().requires_grad_()
        steps.append((theta / step_size).tolist())
    return steps


@pytest.mark.parametrize(
    ("step_size", "normalize", "expected"),
    [
        (1.0, True, [(1.0, 1.5), (2.0, 0.507307), (3.0, -0.057927)]),
        (1.0, False, [(0.5, 0.75), (0.795744, 0.527536), (1.038349, 0.414589)]),
        (100.0, False, [(0.5, 0.75), (1.0, 0.25), (1.0, 0.25)]),
    ],
)
def test_path_of_the_worked_example(step_size: float, normalize: bool, expected: list) -> None:
    for theta, numbers in zip(path(step_size, normalize), expected, strict=True):
        assert theta == pytest.approx(numbers, abs=6e-7)


@pytest.mark.parametrize("classes", [2, 4])
def test_gradient_descent_on_it_is_the_solver(classes: int) -> None:
    inputs, labels = random(20, 30), torch.arange(20) % classes
    solved = NormalizedLogisticRegression(step_size=3.0, fit_intercept=False)
    solved.fit(inputs.numpy(), labels.numpy())
    assert solved.n_iter_ > 3
    rows = 1 if classes == 2 else classes
    theta = torch.zeros(rows, 30, dtype=torch.float64, requires_grad=True)
    for _ in range(solved.n_iter_):
        (gradient,) = torch.autograd.grad(
            NormalizedLogisticLoss(1e6)(inputs @ theta.T, labels), theta
        )
        theta = (theta - 3.0 * gradient).detach().requires_grad_()
    torch.testing.assert_close(theta.detach(), torch.from_numpy(solved.coef_))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("margin", [10.0, 15.0, 17.0, 40.0, 80.0])
def test_slopes_in_float32_keep_their_digits_at_large_margins(classes: int, margin: float) -> None:
    logits = torch.zeros(1, classes)
    logits[0, 0] = margin
    slopes = []
    for values in (logits, logits.double()):
        values.requires_grad_()
        loss = NormalizedLogisticLoss(beta_max=1e300)
        slopes.append(torch.autograd.grad(loss(values, torch.tensor([0])), values)[0])
    single, exact = slopes
    assert exact[0, 0].item() == pytest.approx(-1)  # all that is wrong is this row
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=0)


def test_gradient_of_scores_is_their_share_in_what_is_wrong() -> None:
    margins = torch.tensor([-2.0, 0.5, 3.0, 30.0, 700.0], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 0, 1])
    sign = 2.0 * labels - 1
    scores = (sign * margins).requires_grad_()
    NormalizedLogisticLoss(1e6)(scores, labels).backward()
    shares = (-F.softplus(margins)).softmax(0)
    torch.testing.assert_close(scores.grad, -sign * shares, rtol=1e-9, atol=1e-15)


def test_value_is_the_logistic_loss_over_the_mean_weight() -> None:
    scores, labels = random(9), torch.arange(9) % 2
    p_wrong = torch.where(labels == 1, -scores, scores).sigmoid()
    plain = F.binary_cross_entropy_with_logits(scores, labels.double(), reduction="none")
    expected = plain / p_wrong.mean()
    torch.testing.assert_close(NormalizedLogisticLoss(reduction="none")(scores, labels), expected)
    torch.testing.assert_close(NormalizedLogisticLoss(1e6)(scores, labels), expected.mean())


def test_many_classes() -> None:
    logits, labels = random(9, 4), torch.arange(9) % 4
    p = logits.softmax(1).gather(1, labels[:, None])
    expected = F.cross_entropy(logits, labels) / (1 - p).mean()
    torch.testing.assert_close(NormalizedLogisticLoss(1e6)(logits, labels), expected)


def test_scores_are_logits_of_two_classes() -> None:
    logits, labels = random(9, 2), torch.arange(9) % 2
    scores = logits[:, 1] - logits[:, 0]
    expected = NormalizedLogisticLoss(1e6)(logits, labels)
    for form in (scores, scores[:, None]):
        torch.testing.assert_close(NormalizedLogisticLoss(1e6)(form, labels), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_margins_of_ten_thousand(dtype: torch.dtype, classes: int) -> None:
    logits = 1e4 * F.one_hot(torch.arange(6) % classes, classes).to(dtype)
    right, wrong = torch.arange(6) % classes, (torch.arange(6) + 1) % classes
    logits.requires_grad_()
    value = NormalizedLogisticLoss(1e6)(logits, wrong)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 1e4
    torch.testing.assert_close(gradient, (logits.softmax(1) - F.one_hot(wrong, classes)) / 6)
    value = NormalizedLogisticLoss(1e6)(logits, right)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert not gradient.any()


def test_beta_ends_at_its_largest_value() -> None:
    scores, labels = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64), torch.ones(3).long()
    plain = NormalizedLogisticLoss(1e6).eval()(scores, labels)
    beta = 1 / (-scores).sigmoid().mean()
    assert 100 < beta < 1000
    for largest, expected in ((1.0, 1.0), (100.0, 100.0), (1000.0, beta)):
        value = NormalizedLogisticLoss(beta_max=largest)(scores, labels)
        torch.testing.assert_close(value, expected * plain)


def test_evaluation_reads_cross_entropy() -> None:
    logits, labels = random(6, 4), torch.arange(6) % 4
    loss = NormalizedLogisticLoss(1e6).eval()
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 3), (5, 2), (5, 300)])
def test_reductions_agree(shape: tuple[int, ...]) -> None:
    logits = random(*shape)
    labels = torch.arange(len(logits)) % 2
    values, total, mean = (
        NormalizedLogisticLoss(reduction=reduction)(logits, labels)
        for reduction in ("none", "sum", "mean")
    )
    assert values.shape == (len(logits),)
    torch.testing.assert_close(total, values.sum())
    torch.testing.assert_close(mean, values.mean())


def test_its_value_cannot_be_monitored() -> None:
    # half as many errors and a smaller logistic loss, but a larger value
    labels = torch.ones(4, dtype=torch.int64)
    before = torch.tensor([-0.1, -0.1, 3.0, 3.0])
    after = torch.tensor([-1.0, 5.0, 5.0, 5.0])
    loss = NormalizedLogisticLoss(1e6)
    assert loss(after, labels) > loss(before, labels)
    assert loss.eval()(after, labels) < loss(before, labels)
    assert not loss.monitorable


@pytest.mark.parametrize("beta_max", [0.5, float("inf"), float("nan")])
def test_refuses_bad_arguments(beta_max: float) -> None:
    with pytest.raises(ValueError, match=r"beta_max must be (finite and )?at least 1"):
        NormalizedLogisticLoss(beta_max)
