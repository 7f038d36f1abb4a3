from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import framework.losses.loss as loss_module
from framework.losses import AggregateResponseLoss, ClassificationLoss, RegressionLoss
from framework.losses.loss import LOOK_EVERY
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives

every_base = pytest.mark.parametrize("base", ["mse", "bce", "ce"])
PLAIN = {
    "mse": lambda f, y: F.mse_loss(f, y, reduction="none"),
    "bce": lambda f, y: F.binary_cross_entropy_with_logits(f, y, reduction="none"),
    "ce": lambda f, y: F.cross_entropy(f, y, reduction="none"),
}


def mean_responses(group: Tensor, responses: Tensor) -> Tensor:
    """Return for every row the mean response of its bag, by a loop."""
    return torch.stack([responses[group == bag].mean(0) for bag in group.tolist()])


def make(base: str, group: list[int], scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return predictions that require a gradient, mean responses and groups."""
    generator = torch.Generator().manual_seed(len(group))
    rows, bag_of_row = len(group), torch.tensor(group)
    shape = (rows, 3) if base == "ce" else (rows,)
    predictions = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    if base == "mse":
        responses = torch.randn(rows, generator=generator, dtype=torch.float64)
    elif base == "bce":
        responses = torch.rand(rows, generator=generator, dtype=torch.float64).round()
    else:
        labels = torch.randint(3, (rows,), generator=generator)
        responses = F.one_hot(labels, 3).double()
    return predictions.requires_grad_(), mean_responses(bag_of_row, responses), bag_of_row


# ---- worked numbers and identities --------------------------------------------------------------


@pytest.mark.parametrize(("rho", "value"), [(0, 0.156250), (1, 0.312500), (0.3, 0.203125)])
def test_squared_error_of_the_worked_example(rho: float, value: float) -> None:
    predictions, group = torch.tensor([1.5, 2.0, 4.0, 5.0]), torch.tensor([0, 0, 1, 1])
    targets = mean_responses(group, torch.tensor([1.0, 3.0, 2.0, 6.0]))
    assert targets.tolist() == [2, 2, 4, 4]
    loss = AggregateResponseLoss(rho=rho)(predictions, targets, group=group)
    assert loss.item() == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(("rho", "value"), [(0, 0.468351), (1, 0.522971)])
def test_binary_cross_entropy_of_the_worked_example(rho: float, value: float) -> None:
    logits = torch.tensor([0.2, 0.6, 0.7, 0.9], dtype=torch.float64).logit()
    targets = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1])
    loss = AggregateResponseLoss("bce", rho=rho)
    assert loss(logits, targets, group=group).item() == pytest.approx(value, abs=5e-7)
    # two classes whose logits differ by as much are the same problem
    two = AggregateResponseLoss("ce", rho=rho)(
        torch.stack([logits, torch.zeros(4)], 1),
        torch.stack([targets, 1 - targets], 1),
        group=group,
    )
    assert two.item() == pytest.approx(value, abs=5e-7)


BAGS = st.lists(st.integers(-2, 3), min_size=1, max_size=9)


@settings(max_examples=25, deadline=None)
@given(BAGS, st.sampled_from([0.0, 0.03, 0.4, 1.0]))
def test_squared_error_is_the_bag_level_loss_plus_the_variance_inside(
    group: list[int], rho: float
) -> None:
    predictions, targets, bag_of_row = make("mse", group)
    mean = mean_responses(bag_of_row, predictions)
    bag_level = (targets - mean).square().mean()
    penalty = (predictions - mean).square().mean()
    value = AggregateResponseLoss(rho=rho)(predictions, targets, group=bag_of_row)
    torch.testing.assert_close(value, bag_level + rho * penalty)
    # the penalty by pairs, for bags of any size
    same = (bag_of_row[:, None] == bag_of_row).double()
    pairs = (predictions[:, None] - predictions).square() * same / same.sum(1, keepdim=True)
    torch.testing.assert_close(pairs.sum() / (2 * len(group)), penalty)


@settings(max_examples=25, deadline=None)
@given(BAGS)
def test_the_penalty_moves_no_bags_mean(group: list[int]) -> None:
    predictions, targets, bag_of_row = make("mse", group)
    values = [
        AggregateResponseLoss(rho=rho)(predictions, targets, group=bag_of_row) for rho in (1, 0)
    ]
    (gradient,) = torch.autograd.grad(values[0] - values[1], predictions)
    for bag in set(group):
        assert gradient[bag_of_row == bag].sum().item() == pytest.approx(0, abs=1e-12)


@every_base
@settings(max_examples=15, deadline=None)
@given(group=BAGS)
def test_instance_level_is_never_below_bag_level(base: str, group: list[int]) -> None:
    predictions, targets, bag_of_row = make(base, group, scale=3.0)
    bag, instance = (
        AggregateResponseLoss(base, rho)(predictions, targets, group=bag_of_row) for rho in (0, 1)
    )
    assert instance >= bag - 1e-12


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_cross_entropy_averages_probabilities(rho: float) -> None:
    group = [0, 1, 0, 0, 1, 2]
    for base, link in (("bce", torch.sigmoid), ("ce", lambda f: f.softmax(1))):
        logits, targets, bag_of_row = make(base, group, scale=2.0)
        p = link(logits)
        pairs = [(targets, p)] if base == "ce" else [(targets, p), (1 - targets, 1 - p)]
        expected = torch.zeros(6, dtype=torch.float64)
        for share, chance in pairs:
            mean = mean_responses(bag_of_row, chance)
            losses = -share * ((1 - rho) * mean.log() + rho * chance.log())
            expected = expected + (losses if losses.ndim == 1 else losses.sum(1))
        loss = AggregateResponseLoss(base, rho, reduction="none")
        torch.testing.assert_close(loss(logits, targets, group=bag_of_row), expected)


@every_base
@pytest.mark.parametrize("rho", [0.0, 0.1, 0.77, 1.0])
def test_bags_of_one_row_give_the_plain_loss(base: str, rho: float) -> None:
    predictions, targets, group = make(base, [4, 2, 9, 0, 7])
    values = AggregateResponseLoss(base, rho, reduction="none")(predictions, targets, group=group)
    alone = AggregateResponseLoss(base, 0.0, reduction="none")(predictions, targets, group=group)
    assert torch.equal(values, alone), "rho leaves no trace"
    torch.testing.assert_close(values, PLAIN[base](predictions, targets), rtol=1e-14, atol=1e-15)


def test_hard_labels_of_single_rows_are_cross_entropy() -> None:
    logits, _, group = make("ce", [0, 1, 2, 3])
    labels = torch.tensor([2, 0, 0, 1])
    value = AggregateResponseLoss("ce")(logits, labels, group=group)
    torch.testing.assert_close(value, F.cross_entropy(logits, labels))


@every_base
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_gradient(base: str, rho: float) -> None:
    predictions, targets, group = make(base, [0, 0, 1, 0, 1, 5])
    loss = AggregateResponseLoss(base, rho, reduction="none")
    assert torch.autograd.gradcheck(lambda f: loss(f, targets, group=group), predictions)


# ---- what every loss must do --------------------------------------------------------------------


@every_base
def test_only_who_shares_a_bag_matters(base: str) -> None:
    predictions, targets, group = make(base, [0, 3, 0, 1, 3, 3])
    loss = AggregateResponseLoss(base, 0.2, reduction="none")
    values = loss(predictions, targets, group=group)
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    permuted = loss(predictions[order], targets[order], group=group[order])
    torch.testing.assert_close(permuted, values[order])
    renamed = loss(predictions, targets, group=10**12 - group)
    torch.testing.assert_close(renamed, values)
    merged = loss(predictions, targets, group=torch.zeros_like(group))
    assert not torch.allclose(merged, values)


@every_base
@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_predictions_stay_finite(base: str, scale: float, dtype: torch.dtype) -> None:
    predictions, targets, group = make(base, [0, 0, 1, 0, 1, 5], scale)
    half = predictions.detach().to(dtype).requires_grad_()
    loss = AggregateResponseLoss(base, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, targets.float(), group=group)
    exact = loss(half.detach().double(), targets, group=group)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    value.backward()
    assert half.grad is not None
    if base != "mse":  # whose gradient leaves the range of half precision
        assert half.grad.isfinite().all()


def test_sure_and_wrong_bags_have_a_gradient() -> None:
    logits = torch.tensor([[-1e4, 1e4], [-2e4, 1e4]], requires_grad=True)
    targets, group = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0])
    value = AggregateResponseLoss("ce", 0.0)(logits, targets, group=group)
    assert value.item() == pytest.approx(2e4, rel=1e-4)
    (gradient,) = torch.autograd.grad(value, logits)
    # the likelier of the two rows carries the bag's mean
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


@every_base
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_an_empty_batch_gives_a_zero_that_reaches_the_parameters(base: str, reduction: str) -> None:
    layer = torch.nn.Linear(4, 3)
    predictions = layer(torch.empty(0, 4))
    predictions = predictions if base == "ce" else predictions[:, 0]
    group = torch.empty(0, dtype=torch.int64)
    loss = AggregateResponseLoss(base, reduction=reduction)
    value = loss(predictions, torch.zeros_like(predictions), group=group).sum()
    value.backward()
    assert value == 0
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("base", ["mse", "bce"])
def test_several_outputs_are_averaged(base: str) -> None:
    columns = [make(base, [0, 0, 1, 0, 1, 5], scale) for scale in (1.0, 2.0)]
    group = columns[0][2]
    loss = AggregateResponseLoss(base, 0.2, reduction="none")
    alone = [loss(f, y, group=group) for f, y, _ in columns]
    both = loss(*(torch.stack([c[i] for c in columns], 1) for i in (0, 1)), group=group)
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_reductions_agree() -> None:
    predictions, targets, group = make("ce", [0, 0, 1, 0, 1, 5])
    values, total, mean = (
        AggregateResponseLoss("ce", reduction=reduction)(predictions, targets, group=group)
        for reduction in ("none", "sum", "mean")
    )
    torch.testing.assert_close(total, values.sum())
    torch.testing.assert_close(mean, values.mean())


def test_fits_regression_and_classification() -> None:
    loss = AggregateResponseLoss()
    assert isinstance(loss, RegressionLoss)
    assert isinstance(loss, ClassificationLoss)
    assert loss.needs == ("group",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "hinge"}, "base must be one of mse, bce, ce, got 'hinge'"),
        ({"rho": -0.1}, r"rho must lie in \[0, 1\], got -0.1"),
        ({"rho": 1.1}, r"rho must lie in \[0, 1\], got 1.1"),
        ({"rho": float("nan")}, "rho must lie"),
        ({"reduction": "avg"}, "reduction must be"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AggregateResponseLoss(**arguments)


def test_bad_inputs() -> None:
    row, table, group = torch.zeros(4), torch.zeros(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="equal shape"):
        AggregateResponseLoss()(table, row, group=group)
    with pytest.raises(ValueError, match="equal shape"):
        AggregateResponseLoss("bce")(table[:, :, None], table[:, :, None], group=group)
    with pytest.raises(ValueError, match=r"logits of shape \(B, K\)"):
        AggregateResponseLoss("ce")(row, row, group=group)
    with pytest.raises(ValueError, match=r"\(B,\) int64 or \(B, K\) float"):
        AggregateResponseLoss("ce")(table, row, group=group)
    with pytest.raises(ValueError, match=r"group of each of the 4 rows, got shape \(3,\)"):
        AggregateResponseLoss()(row, row, group=group[:3])
    with pytest.raises(TypeError, match="needs group as keyword"):
        AggregateResponseLoss()(row, row)


def test_targets_that_are_no_probabilities_are_refused_or_clamped():
    logits, group = torch.zeros(4), torch.tensor([0, 0, 1, 1])
    targets = torch.tensor([0.3, 0.3, 1.2, 1.2])
    with pytest.raises(ValueError, match=r"takes targets in \[0, 1\], got 0.3 to 1.2: scale them"):
        AggregateResponseLoss("bce")(logits, targets, group=group)
    clamped = AggregateResponseLoss("bce", clamp=True)(logits, targets, group=group)
    assert clamped == AggregateResponseLoss("bce")(logits, targets.clamp(0, 1), group=group)
    shares = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.3], [0.9, 0.3]])
    with pytest.raises(ValueError, match=r"proportions that sum to 1, got a row that sums to 1\.2"):
        AggregateResponseLoss("ce")(torch.zeros(4, 2), shares, group=group)
    with pytest.raises(ValueError, match=r"takes soft labels of at least 0, got -0\.5"):
        AggregateResponseLoss("ce")(torch.zeros(1, 2), torch.tensor([[-0.5, 1.5]]), group=group[:1])


def test_proportions_on_a_gpu_are_looked_at_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "FREE_TO_LOOK", ())
    good, group = torch.tensor([[0.7, 0.3]]), torch.tensor([0])
    for bad in (good * 2, torch.tensor([[-0.5, 1.5]])):  # two checks of one call
        loss = AggregateResponseLoss("ce")
        for _ in range(2):
            with pytest.raises(ValueError, match=r"sum to 1|at least 0"):
                loss(torch.zeros(1, 2), bad, group=group)
            for _ in range(LOOK_EVERY - 1):
                loss(torch.zeros(1, 2), bad, group=group)


# ---- two ranks ----------------------------------------------------------------------------------


def step(base: str, split: int) -> tuple[Tensor, Tensor]:
    """Return value and gradient of this rank's share: whole bags, ``split`` rows on rank 0."""
    alone = not dist.is_initialized()
    rows = slice(8) if alone else slice(split) if dist.get_rank() == 0 else slice(split, 8)
    inputs, targets, group = make(base, [3, 3, 3, 0, 0, 1, 2, 2])
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = AggregateResponseLoss(base, 0.3, reduction="none")
    values = loss((inputs.detach() * weight)[rows], targets[rows], group=group[rows])
    total = reduce_objectives(
        Objectives(per_sample={"loss": values}, index=torch.arange(8)[rows])
    ).total
    return total.detach(), torch.autograd.grad(total, weight)[0]


@every_base
@pytest.mark.parametrize("split", [5, 8])
def test_two_ranks_of_whole_bags_equal_one_process(
    base: str, split: int, two_ranks: Callable
) -> None:
    one = step(base, split)
    ranks = two_ranks(step, base, split)
    assert one[1].abs() > 1e-3
    for alone, first, second in zip(one, *ranks, strict=True):
        torch.testing.assert_close((first + second) / 2, alone, rtol=0, atol=1e-12)
