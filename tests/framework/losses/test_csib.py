import math
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from framework.losses import CSQMI, ConditionalCSDivergenceLoss, CSIBLoss
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives

PAPER = ("square_of_sum", "sum_of_squares")
DENOMINATORS = (None, *PAPER)
X = torch.tensor([[0.0], [0.5], [2.0]], dtype=torch.float64)
Y = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
Y_HAT = torch.tensor([0.2, 0.7, 0.9], dtype=torch.float64)
T = torch.tensor([[0.3], [0.1], [1.0]], dtype=torch.float64)
BUILD = {
    "cs": lambda **kw: ConditionalCSDivergenceLoss(sigma_x=1.0, **kw),
    "cs_narrow": ConditionalCSDivergenceLoss,
    "cs_paper": lambda **kw: ConditionalCSDivergenceLoss(1.0, denominator="square_of_sum", **kw),
    "cs_code": lambda **kw: ConditionalCSDivergenceLoss(1.0, denominator="sum_of_squares", **kw),
    "qmi": CSQMI,
    "qmi_plain": lambda **kw: CSQMI(normalized=False, **kw),
    "csib": lambda **kw: CSIBLoss(beta=0.5, sigma_x=1.0, **kw),
    "csib_mse": lambda **kw: CSIBLoss(beta=0.5, prediction="mse", **kw),
    "csib_median": lambda **kw: CSIBLoss(
        beta=0.5, sigma_x="median", sigma_y="median", sigma_t=None, **kw
    ),
}
every_loss = pytest.mark.parametrize("name", BUILD)


def batch(rows: int, targets: int = 1, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return x (N, 3), y and ŷ (N,) or (N, T), and t (N, 4), the latter two with gradient."""
    generator = torch.Generator().manual_seed(rows)
    shape = (rows,) if targets == 1 else (rows, targets)
    x, t = (torch.randn(rows, d, generator=generator, dtype=dtype) for d in (3, 4))
    y, noise = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return [x, y, (y + 0.5 * noise).requires_grad_(), t.requires_grad_()]


def value(loss: torch.nn.Module, x: Tensor, y: Tensor, y_hat: Tensor, t: Tensor) -> Tensor:
    available = {"inputs": x, "features": t}
    return loss(y_hat, y, **{need: available[need] for need in loss.needs})


# ---- numbers of the paper's equations -----------------------------------------------------------


@pytest.mark.parametrize(
    ("denominator", "divergence", "swapped", "parts"),
    [
        ("square_of_sum", 0.053060, 0.040107, (4.071647, 4.871508, 2.131564)),
        ("sum_of_squares", 0.045976, 0.038132, (1.797116, 1.884200, 1.123715)),
    ],
)
def test_divergence_of_three_rows(denominator, divergence, swapped, parts):
    loss = ConditionalCSDivergenceLoss(1.0, denominator=denominator)
    assert loss(Y_HAT, Y, inputs=X).item() == pytest.approx(divergence, abs=6e-7)
    # not symmetric: row j of the cross term belongs to the prediction
    assert loss(Y, Y_HAT, inputs=X).item() == pytest.approx(swapped, abs=6e-7)
    k = (-(X - X.T).square() / 2).exp()
    density = k.sum(1).square() if denominator == "square_of_sum" else k.square().sum(1)
    assert density.tolist() == pytest.approx(parts, abs=1e-6)
    base_2 = loss(Y_HAT, Y, inputs=X).item() / math.log(2)
    assert base_2 == pytest.approx({"square_of_sum": 0.076549}.get(denominator, 0.066329), abs=1e-6)


@pytest.mark.parametrize("denominator", PAPER)
def test_both_denominators_agree_on_the_corners_of_a_square(denominator):
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    y, y_hat = torch.tensor([[0, 1, 1, 2], [0.2, 0.8, 1.3, 1.5]], dtype=torch.float64)
    loss = ConditionalCSDivergenceLoss(1.0, denominator=denominator)
    assert loss(y_hat, y, inputs=corners).item() == pytest.approx(0.033696, abs=6e-7)


@pytest.mark.parametrize(("sigma_x", "sigma_y"), [(1.0, 1.0), (0.4, 0.7)])
def test_the_exact_divergence_is_that_of_the_integrals(sigma_x, sigma_y):
    """By the trapezoidal rule, which is exact to rounding for sums of Gaussians."""
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    w = (-(X - X.T).square() / (2 * sigma_x**2)).softmax(1)
    p, q = (
        w @ (-(grid - values[:, None]).square() / (2 * sigma_y**2)).exp() for values in (Y, Y_HAT)
    )
    expected = (p * p).sum().log() + (q * q).sum().log() - 2 * (p * q).sum().log()
    loss = ConditionalCSDivergenceLoss(sigma_x, sigma_y)
    assert loss(Y_HAT, Y, inputs=X).item() == pytest.approx(expected.item(), abs=1e-12)
    # a divergence of densities is symmetric
    assert loss(Y, Y_HAT, inputs=X).item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_exact_divergence_is_never_negative():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        x, y, noise = (torch.randn(16, generator=generator) for _ in range(3))
        for size in (1e-4, 1e-2, 1.0):
            near = y + size * noise
            for sigma_x in (0.1, 1.0, 10.0):
                loss = ConditionalCSDivergenceLoss(sigma_x)
                assert loss(near, y, inputs=x[:, None]).item() >= 0


def descent(loss: torch.nn.Module) -> tuple[float, float]:
    """Return value and root of the mean squared error after descent over free predictions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator)
    y = (x[:, 0] * x[:, 1]).tanh() + x[:, 2]
    y = (y - y.mean()) / y.std()
    y_hat = torch.zeros(24, requires_grad=True)
    optimizer = torch.optim.Adam([y_hat], lr=0.05, fused=True)
    found = torch.zeros(())
    for _ in range(300):
        found = loss(y_hat, y, inputs=x)
        (y_hat.grad,) = torch.autograd.grad(found, y_hat)
        optimizer.step()
    return found.item(), F.mse_loss(y_hat, y).sqrt().item()


def test_the_paper_s_form_is_driven_away_from_the_targets_and_says_so():
    exact = descent(ConditionalCSDivergenceLoss())
    assert exact == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-3))
    paper = ConditionalCSDivergenceLoss(1.0, denominator="square_of_sum")
    with pytest.warns(UserWarning, match="the paper's form of the divergence is -0.0"):
        value, error = descent(paper)
    assert value < -0.05  # at the targets it is 0
    assert error > 1.5  # and was 1 at the start


def test_a_kernel_that_is_the_identity_is_said():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 200, generator=generator)
    y, t = torch.randn(64, generator=generator), torch.randn(64, 4, generator=generator)
    for loss in (CSQMI(sigma_x=1.0), CSIBLoss(sigma_x=1.0)):
        with pytest.warns(UserWarning, match="the kernel on 200 inputs is the identity"):
            value(loss, x, y, y + 0.1, t)
        value(loss, x, y, y + 0.1, t)  # once
    for loss in (CSQMI(sigma_x="median"), CSIBLoss(), CSIBLoss(beta=0.0, sigma_x=1.0)):
        value(loss, x, y, y + 0.1, t)


@pytest.mark.parametrize("unit", [1e-30, 1e25])
def test_the_unit_of_the_inputs_does_not_matter_to_a_width_from_the_data(unit):
    x, y, y_hat, t = batch(20, dtype=torch.float32)
    for loss in (ConditionalCSDivergenceLoss(), CSIBLoss(0.5), CSQMI("median")):
        found, expected = value(loss, x * unit, y, y_hat, t), value(loss, x, y, y_hat, t)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_information_of_three_rows():
    plain = CSQMI(normalized=False)
    assert plain(Y, Y, inputs=X, features=T).item() == pytest.approx(0.065996, abs=6e-7)
    assert plain(Y, Y, inputs=X, features=X).item() == pytest.approx(0.235985, abs=6e-7)
    assert plain(Y, Y, inputs=T, features=T).item() == pytest.approx(0.019963, abs=6e-7)
    normalized = CSQMI()(Y, Y, inputs=X, features=T).item()
    assert normalized == pytest.approx(0.961517, abs=6e-7)
    assert CSQMI()(Y, Y, inputs=X, features=X).item() == pytest.approx(1, abs=1e-9)


def test_the_bottleneck_is_the_sum_of_its_terms():
    terms = {"cs": 0.0530601, "mse": float(F.mse_loss(Y_HAT, Y))}
    for prediction, term in terms.items():
        for normalized, information in ((True, 0.961517), (False, 0.065996)):
            loss = CSIBLoss(0.3, 1.0, denominator="square_of_sum", prediction=prediction)
            loss.normalized = normalized
            found = value(loss, X, Y, Y_HAT, T).item()
            assert found == pytest.approx(term + 0.3 * information, abs=1e-6)
    code = CSIBLoss(beta=0, sigma_x=1.0, denominator="sum_of_squares")
    assert value(code, X, Y, Y_HAT, T).item() == pytest.approx(0.045976, abs=6e-7)


def test_widths_scale_with_what_they_are_for():
    x, y, y_hat, t = batch(20)
    expected = value(CSIBLoss(beta=0.5, sigma_x=1.0), x, y, y_hat, t)
    scaled = CSIBLoss(beta=0.5, sigma_x=2.0, sigma_y=3.0, sigma_t=5.0)
    torch.testing.assert_close(value(scaled, 2 * x, 3 * y, 3 * y_hat, 5 * t), expected)
    roots = CSIBLoss(beta=0.5, sigma_x=None, sigma_y=None, sigma_t=None)
    given = CSIBLoss(beta=0.5, sigma_x=math.sqrt(3), sigma_y=1.0, sigma_t=2.0)
    assert value(roots, x, y, y_hat, t) == value(given, x, y, y_hat, t)
    medians = CSIBLoss(beta=0.5, sigma_x="median", sigma_y="median", sigma_t="median")
    pairs = [F.pdist(v.detach().view(20, -1)).median().item() for v in (x, y, t)]
    given = CSIBLoss(beta=0.5, sigma_x=pairs[0], sigma_y=pairs[1], sigma_t=pairs[2])
    torch.testing.assert_close(value(medians, x, y, y_hat, t), value(given, x, y, y_hat, t))
    # the default: D of the near, I of all
    both = ConditionalCSDivergenceLoss(pairs[0] / 8)(y_hat, y, inputs=x) + 0.5 * CSQMI(pairs[0])(
        y, y, inputs=x, features=t
    )
    torch.testing.assert_close(value(CSIBLoss(beta=0.5), x, y, y_hat, t), both)


# ---- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_perfect_prediction_has_no_divergence(denominator, dtype, tolerance):
    x, y, _, _ = batch(64, dtype=dtype)
    y_hat = y.clone().requires_grad_()
    loss = ConditionalCSDivergenceLoss(1.0, denominator=denominator)(y_hat, y, inputs=x)
    assert abs(loss.item()) < tolerance
    (gradient,) = torch.autograd.grad(loss, y_hat)
    # the weights of the rows are not symmetric, hence a small bias of the paper's form
    assert (gradient.abs().max() < tolerance) == (denominator is None)
    assert gradient.abs().max() < 0.02
    angle = 2 * math.pi * torch.arange(8, dtype=dtype) / 8
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    y_hat = y[:8].clone().requires_grad_()
    loss = ConditionalCSDivergenceLoss(1.0, denominator=denominator)(y_hat, y[:8], inputs=circle)
    (gradient,) = torch.autograd.grad(loss, y_hat)
    assert gradient.abs().max() < tolerance


def test_a_constant_shift_costs_its_square():
    x, y, _, _ = batch(64)
    for sigma, denominator in ((1.0, "square_of_sum"), (0.5, "sum_of_squares"), (1.0, None)):
        loss = ConditionalCSDivergenceLoss(1.0, sigma, denominator)
        even = loss(torch.full_like(y, 0.3), torch.zeros_like(y), inputs=x).item()
        if denominator is None:
            assert even == pytest.approx(0.045)
            assert 0 < loss(y + 0.3, y, inputs=x).item() < 0.9 * even
            continue
        assert even == pytest.approx(0.09 / sigma**2)
        # targets that scatter hide it, as they would in a test of means
        scattered = loss(y + 0.3, y, inputs=x).item()
        assert 0.09 / (sigma**2 + 2) < scattered < 0.8 * even
        # the bias is odd in the shift
        large, small = (
            sum(loss(y + sign * shift, y, inputs=x).item() for sign in (-1, 1))
            for shift in (0.1, 0.01)
        )
        assert large == pytest.approx(100 * small, rel=0.01)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_features_have_no_information(normalized, dtype):
    x, y, _, _ = batch(64, dtype=dtype)
    t = torch.full((64, 4), 0.7, dtype=dtype, requires_grad=True)
    found = CSQMI(normalized=normalized)(y, y, inputs=x, features=t)
    (gradient,) = torch.autograd.grad(found, t)
    assert abs(found.item()) < 1e-6
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("spread", "tolerance"), [(1e-3, 2e-5), (1e-2, 2e-5), (1.0, 2e-5), (100.0, 2e-4)]
)
def test_information_of_nearly_equal_or_distant_features_keeps_its_digits(spread, tolerance):
    x, y, _, t = batch(100, dtype=torch.float32)
    t = 0.7 + spread * t.detach()
    single = CSQMI()(y, y, inputs=x, features=t).item()
    exact = CSQMI()(y.double(), y.double(), inputs=x.double(), features=t.double()).item()
    assert single == pytest.approx(exact, rel=tolerance)


def test_information_is_not_negative_and_biased_upwards():
    found = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        x, t = (torch.randn(16, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        found.append(CSQMI(normalized=False)(x, x, inputs=x, features=t).item())
    assert min(found) > 0.03


@pytest.mark.parametrize("offset", [1.0, 13.0, 100.0, 1e4])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_far_predictions_are_finite_and_are_pulled_back(offset, denominator):
    x, y, _, _ = batch(32, dtype=torch.float32)
    y_hat = (y + offset).requires_grad_()
    loss = ConditionalCSDivergenceLoss(denominator=denominator)(y_hat, y, inputs=x)
    (gradient,) = torch.autograd.grad(loss, y_hat)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.sum() > 0.5 * offset * (1 if denominator else 0.5)
    exact = ConditionalCSDivergenceLoss(denominator=denominator)(
        y_hat.double(), y.double(), inputs=x.double()
    )
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_one_row_has_its_squared_error(denominator):
    loss = ConditionalCSDivergenceLoss(sigma_y=2.0, denominator=denominator)
    y, y_hat = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
    expected = 25 / 4 if denominator else 25 / 8
    assert loss(y_hat, y, inputs=torch.ones(1, 3)).item() == pytest.approx(expected)
    t = torch.ones(1, 4, requires_grad=True)
    information = CSQMI()(y, y, inputs=torch.ones(1, 3), features=t)
    information.backward()
    assert information == 0
    assert t.grad.isfinite().all()


@every_loss
def test_no_row_gives_a_zero_that_reaches_the_parameters(name):
    encoder, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
    t = encoder(torch.empty(0, 3))
    loss = value(BUILD[name](), torch.empty(0, 3), torch.empty(0), head(t).squeeze(1), t)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())
    if not name.startswith("qmi"):
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


# ---- invariances --------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("targets", [1, 2])
def test_the_order_of_the_rows_does_not_matter(name, targets):
    rows = batch(20, targets)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    found, permuted = (value(BUILD[name](), *r) for r in (rows, [r[order] for r in rows]))
    torch.testing.assert_close(permuted, found, rtol=1e-12, atol=1e-12)


@every_loss
def test_moving_the_origin_does_not_matter(name):
    x, y, y_hat, t = batch(20)
    found = value(BUILD[name](), x, y, y_hat, t)
    moved = value(BUILD[name](), x + 3, y - 2, y_hat - 2, t + 1)
    torch.testing.assert_close(moved, found, rtol=1e-9, atol=1e-12)


@every_loss
@pytest.mark.parametrize("targets", [1, 2])
def test_gradient(name, targets):
    x, y, y_hat, t = batch(6, targets)
    assert torch.autograd.gradcheck(
        lambda y_hat, t: value(BUILD[name](), x, y, y_hat, t), (y_hat, t)
    )


@pytest.mark.parametrize("name", ["cs", "qmi", "csib"])
def test_gradient_with_respect_to_the_inputs(name):
    x, y, y_hat, t = batch(6)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value(BUILD[name](), x, y, y_hat, t), (x,))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    half = [r.detach().to(dtype) for r in batch(20)]
    with torch.autocast("cpu", dtype=dtype):
        found = value(BUILD[name](), *half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, value(BUILD[name](), *[r.float() for r in half]))


@every_loss
def test_float32_is_float64_rounded(name):
    rows = batch(64)
    single = value(BUILD[name](), *[r.float() for r in rows])
    assert single.item() == pytest.approx(value(BUILD[name](), *rows).item(), rel=1e-4, abs=1e-6)


# ---- memory -------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("chunk_size", [1, 7, 10])
def test_blocks_of_rows_give_the_same_value_and_gradient(name, chunk_size):
    x, y, y_hat, t = batch(20, targets=2)
    whole, blocks = (value(BUILD[name](chunk_size=c), x, y, y_hat, t) for c in (20, chunk_size))
    torch.testing.assert_close(blocks, whole, rtol=1e-13, atol=1e-13)
    gradients = (
        torch.autograd.grad(loss, (y_hat, t), allow_unused=True, materialize_grads=True)
        for loss in (whole, blocks)
    )
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-11, atol=1e-13)


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor held."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_blocks_of_rows_bound_the_memory_of_forward_and_backward():
    rows, kept = batch(60), {}
    for chunk_size, largest in ((60, 60 * 60), (10, 10 * 60)):
        saved: list[int] = []
        keep = lambda tensor, saved=saved: saved.append(tensor.numel()) or tensor  # noqa: E731
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with LargestTensor() as seen, hooks:
            loss = CSIBLoss(sigma_x=1.0, chunk_size=chunk_size)
            loss._warned = True  # the look at a sample of rows aside
            value(loss, *rows).backward()
        assert seen.numel == largest
        kept[chunk_size] = sum(saved)
    assert kept[10] < kept[60] / 5


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "arguments", "sentence"),
    [
        (ConditionalCSDivergenceLoss, {"sigma_x": 0.0}, "sigma_x must be above 0, 'median', "),
        (ConditionalCSDivergenceLoss, {"sigma_y": math.nan}, "sigma_y must be above 0"),
        (
            ConditionalCSDivergenceLoss,
            {"denominator": "sum"},
            "denominator must be one of square_of_sum",
        ),
        (ConditionalCSDivergenceLoss, {"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        (CSQMI, {"sigma_t": "mean"}, "sigma_t must be above 0, .* or None, got 'mean'"),
        (CSIBLoss, {"beta": -1.0}, "beta must be at least 0, got -1"),
        (CSIBLoss, {"prediction": "mae"}, "prediction must be one of cs, mse, got 'mae'"),
    ],
)
def test_bad_arguments(build, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**arguments)


@pytest.mark.parametrize("name", ["cs", "csib"])
def test_targets_of_another_shape_are_refused(name):
    x, y, y_hat, t = batch(4)
    with pytest.raises(ValueError, match=r"of one shape, \(B,\) or \(B, T\), got \(4,\) and"):
        value(BUILD[name](), x, y[:, None], y_hat, t)


# ---- two ranks ----------------------------------------------------------------------------------


def step(name: str, first: int, gather: bool) -> dict[str, Tensor]:
    """Return this rank's value and its gradient; rank 0 holds the ``first`` rows of 11."""
    alone = not dist.is_initialized()
    rows = slice(11) if alone else slice(first) if dist.get_rank() == 0 else slice(first, 11)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    x, y, _, _ = batch(11)
    t = x[rows] @ weight
    predictions = t.tanh().sum(1)
    objectives = Objectives(
        terms={"loss": value(BUILD[name](gather=gather), x[rows], y[rows], predictions, t)},
        count={"loss": torch.ones(())},
        predictions=predictions,
    )
    total = reduce_objectives(objectives).total
    return {"value": total.detach(), "gradient": torch.autograd.grad(total, weight)[0]}


@every_loss
@pytest.mark.parametrize("first", [6, 11])
def test_two_ranks_equal_one_process(name: str, first: int, two_ranks: Callable) -> None:
    one = step(name, first, gather=True)
    ranks = two_ranks(step, name, first, True)
    assert one["gradient"].abs().max() > 1e-3
    for key in ("value", "gradient"):  # averaged as DDP does
        average = (ranks[0][key] + ranks[1][key]) / 2
        torch.testing.assert_close(average, one[key], rtol=0, atol=1e-12)
    assert torch.equal(ranks[0]["value"], ranks[1]["value"])


def test_without_gather_every_rank_has_its_own_estimate(two_ranks: Callable) -> None:
    ranks = two_ranks(step, "csib", 6, False)
    x, y, _, _ = batch(11)
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rank, rows in zip(ranks, (slice(6), slice(6, 11)), strict=True):
        t = x[rows] @ weight
        expected = value(BUILD["csib"](), x[rows], y[rows], t.tanh().sum(1), t)
        torch.testing.assert_close(rank["value"], expected)
