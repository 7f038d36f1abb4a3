import statistics
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

import trimtab
from framework.distributed.collectives import shared_generator
from framework.losses import EnsLoss
from framework.losses.ensloss import boxcox_inverse, loss_slopes
from framework.utilities.randomness import global_seed
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET

MARGINS = torch.tensor([-1.5, 0.2, 2.0, 0.9, 4.0], dtype=torch.float64)
DRAWS = torch.tensor([0.5, -1.0, 0.0, -0.3, 1.2], dtype=torch.float64)
NOW = {"epoch": 0, "step": 3}


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def drawn(*shape: int, step: int = NOW["step"]) -> Tensor:
    """Return the draws that a step uses."""
    generator = shared_generator(global_seed(), step, "ensloss")
    return torch.randn(*shape, generator=generator).double()


def near(values: list[float]) -> object:
    return pytest.approx(values, abs=6e-7)


# ---- the slopes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (0.0, [1.648721, 0.367879, 1.0, 0.740818, 3.320117]),
        (0.5, [1.5625, 0.25, 1, 0.7225, 2.56]),
        (1.0, [1.5, 0, 1, 0.7, 2.2]),
        (-0.5, [1.777778, 0.444444, 1, 0.756144, 6.25]),
    ],
)
def test_inverse_box_cox_of_the_worked_example(lam: float, expected: list[float]) -> None:
    assert boxcox_inverse(DRAWS, lam).tolist() == near(expected)


def test_inverse_box_cox_outside_its_domain_and_near_zero() -> None:
    far = torch.tensor([-3.0, 3.0])
    assert boxcox_inverse(far, 0.5)[0] == 0
    assert boxcox_inverse(far, -0.5)[1] == torch.inf
    for lam in (1e-7, -1e-7):
        torch.testing.assert_close(boxcox_inverse(DRAWS, lam), DRAWS.exp(), rtol=1e-5, atol=0)
    # a clip makes any draw a slope
    assert loss_slopes(far, far, lam=-0.5, clip=-1.0, tail=True).isfinite().all()


def test_slopes_of_the_worked_example() -> None:
    unclipped = loss_slopes(MARGINS.sort().values, DRAWS, 0.0, clip=-1e9, tail=False)
    assert unclipped.tolist() == near([-3.320118, -1.648722, -1.000001, -0.740819, -0.367880])
    matched = loss_slopes(MARGINS, DRAWS, 0.0, clip=-1.0, tail=False)
    assert matched.tolist() == near([-1.000001, -1.000001, -0.740819, -1.000001, -0.367880])
    slopes = loss_slopes(MARGINS, DRAWS, 0.0, clip=-1.0, tail=True)
    assert slopes.tolist() == near([-1.000001, -1.000001, -0.370410, -1.000001, -0.091971])
    assert slopes[0] < -1.0  # strictly negative, and no more than that
    assert (slopes * MARGINS).mean().item() == pytest.approx(-0.141741, abs=6e-7)


@given(seed=st.integers(0, 1000), lam=st.floats(-1, 1), clip=st.floats(-5, -0.1))
@settings(max_examples=40, deadline=None)
def test_slopes_are_those_of_a_calibrated_convex_loss(seed: int, lam: float, clip: float) -> None:
    margins, draws = random(17, seed=seed), random(17, seed=seed + 1)
    slopes = loss_slopes(margins, draws, lam, clip, tail=True)
    assert (slopes <= -1e-6).all()
    assert (slopes >= clip - 1e-6).all()
    low = margins <= 1
    assert (slopes[low][margins[low].argsort()].diff() >= 0).all()
    assert (slopes[~low] >= (clip - 1e-6) / margins[~low] - 1e-6).all()
    order = torch.randperm(17, generator=torch.Generator().manual_seed(seed))
    permuted = loss_slopes(margins[order], draws, lam, clip, tail=True)
    torch.testing.assert_close(permuted, slopes[order])


def test_equal_margins_keep_their_order() -> None:
    slopes = loss_slopes(torch.zeros(100), random(100).float(), 0.0, -1e9, tail=False)
    assert (slopes.diff() > 0).all()


def test_large_draws_make_a_perceptron_that_every_sample_takes_part_in() -> None:
    slopes = loss_slopes(MARGINS, torch.full((5,), 50.0).double(), 0.0, clip=-1.0, tail=False)
    assert slopes.tolist() == near([-1.000001] * 5)


# ---- the loss ---------------------------------------------------------------------------------


def test_gradient_of_scores_is_the_slope_over_the_rows() -> None:
    scores, labels = random(7).requires_grad_(), torch.tensor([1, 0, 1, 1, 0, 0, 1])
    sign = 2.0 * labels - 1
    slopes = loss_slopes(sign * scores.detach(), drawn(7), 0.0, -1.0, tail=True)
    value = EnsLoss()(scores, labels, **NOW)
    torch.testing.assert_close(value, (slopes * sign * scores).mean())
    value.backward()
    torch.testing.assert_close(scores.grad, sign * slopes / 7)


@pytest.mark.parametrize("multiclass", ["relative", "ovr"])
def test_scores_are_logits_of_two_classes(multiclass: str) -> None:
    logits, labels = random(9, 2), torch.arange(9) % 2
    scores = logits[:, 1] - logits[:, 0]
    expected = EnsLoss(reduction="none")(logits, labels, **NOW)
    for form in (scores, scores[:, None]):
        actual = EnsLoss(reduction="none", multiclass=multiclass)(form, labels, **NOW)
        assert torch.equal(actual, expected)


def test_relative_margins_are_sorted_all_together() -> None:
    logits, labels = random(4, 3), torch.tensor([2, 0, 1, 1])
    pairs = [(j, k) for j in range(4) for k in range(3) if k != labels[j]]
    margins = torch.stack([logits[j, labels[j]] - logits[j, k] for j, k in pairs])
    slopes = loss_slopes(margins, drawn(4, 2).flatten(), 0.0, -1.0, tail=True)
    rows = torch.zeros(4, dtype=torch.float64)
    for (j, _), margin, slope in zip(pairs, margins, slopes, strict=True):
        rows[j] += slope * margin
    torch.testing.assert_close(EnsLoss(reduction="none")(logits, labels, **NOW), rows)
    torch.testing.assert_close(EnsLoss()(logits, labels, **NOW), rows.sum() / 4)


def test_one_vs_rest_sorts_every_class_for_itself() -> None:
    logits, labels = random(5, 3), torch.tensor([2, 0, 1, 1, 0])
    draws = drawn(5, 3)
    rows = torch.zeros(5, dtype=torch.float64)
    for k in range(3):
        margins = torch.where(labels == k, logits[:, k], -logits[:, k])
        rows += loss_slopes(margins, draws[:, k], 0.0, -1.0, tail=True) * margins
    loss = EnsLoss(multiclass="ovr", reduction="none")
    torch.testing.assert_close(loss(logits, labels, **NOW), rows)


@pytest.mark.parametrize("multiclass", ["relative", "ovr"])
def test_the_order_of_the_rows_does_not_matter(multiclass: str) -> None:
    logits, labels = random(8, 5), torch.arange(8) % 5
    order = torch.tensor([3, 7, 0, 4, 6, 1, 2, 5])
    loss = EnsLoss(multiclass=multiclass, reduction="none")
    values = loss(logits, labels, **NOW)
    torch.testing.assert_close(loss(logits[order], labels[order], **NOW), values[order])


def test_the_options_reach_the_slopes() -> None:
    scores, labels = random(50).requires_grad_(), torch.ones(50, dtype=torch.int64)
    slopes = loss_slopes(scores.detach(), drawn(50), lam=0.7, clip=-3.0, tail=False)
    loss = EnsLoss(boxcox_lambda=0.7, clip=-3.0, tail=False, reduction="sum")
    (gradient,) = torch.autograd.grad(loss(scores, labels, **NOW), scores)
    torch.testing.assert_close(gradient, slopes)


def test_every_step_draws_anew_and_again_the_same() -> None:
    scores, labels = random(6), torch.ones(6, dtype=torch.int64)
    values = [EnsLoss()(scores, labels, epoch=0, step=step).item() for step in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


def test_every_batch_of_a_step_draws_its_own() -> None:
    scores, labels = random(16), torch.ones(16, dtype=torch.int64)
    values = [EnsLoss()(scores, labels, **NOW, micro_batch=k) for k in (0, 1, 2, 1)]
    assert values[0] == EnsLoss()(scores, labels, **NOW)
    assert values[1] == values[3]
    assert len({float(value) for value in values}) == 3


def test_lambda_is_drawn_once_per_period() -> None:
    loss = EnsLoss(lambda_period=3, boxcox_lambda=5.0)
    lambdas = [loss.lambda_at(epoch) for epoch in range(300)]
    assert all(lambdas[e] == lambdas[e - e % 3] for e in range(300))
    periods = torch.tensor(lambdas[::3])
    assert len(periods.unique()) == 100
    assert periods.min() < -0.9
    assert periods.max() > 0.9
    assert periods.mean().abs() < 0.2
    scores, labels = random(9), torch.ones(9, dtype=torch.int64)
    fixed = EnsLoss(boxcox_lambda=lambdas[7])(scores, labels, **NOW)
    assert loss(scores, labels, epoch=7, step=NOW["step"]) == fixed


def test_evaluation_reads_cross_entropy() -> None:
    logits, labels = random(6, 4), torch.arange(6) % 4
    loss = EnsLoss().eval()
    torch.testing.assert_close(loss(logits, labels, **NOW), F.cross_entropy(logits, labels))
    scores, labels = random(6), torch.arange(6) % 2
    expected = F.binary_cross_entropy_with_logits(scores, labels.double())
    torch.testing.assert_close(loss(scores, labels, **NOW), expected)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 3), (5, 2), (5, 300)])
def test_reductions_agree(shape: tuple[int, ...]) -> None:
    logits = random(*shape)
    labels = torch.arange(len(logits)) % 2
    values, total, mean = (
        EnsLoss(reduction=reduction)(logits, labels, **NOW) for reduction in ("none", "sum", "mean")
    )
    assert values.shape == (len(logits),)
    torch.testing.assert_close(total, values.sum())
    torch.testing.assert_close(mean, values.mean())


def test_learns_digits_as_well_as_the_logistic_loss() -> None:
    images, digits = load_digits(return_X_y=True)
    chosen = (digits == 3) | (digits == 8)
    images = torch.from_numpy(images[chosen] / 16).float()
    labels = torch.from_numpy(digits[chosen] == 8).long()

    def accuracy(loss: torch.nn.Module, seed: int) -> float:
        torch.manual_seed(seed)
        order = torch.randperm(len(labels))
        train, test = order[:100], order[100:]
        network = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
        for step in range(100):
            now = {"epoch": 0, "step": step} if isinstance(loss, EnsLoss) else {}
            optimizer.zero_grad()
            loss(network(images[train]), labels[train], **now).backward()
            optimizer.step()
        right = network(images[test]).argmax(1) == labels[test]
        return right.double().mean().item()

    ensemble, logistic = (
        statistics.mean(accuracy(loss, seed) for seed in range(4))
        for loss in (EnsLoss(), torch.nn.CrossEntropyLoss())
    )
    assert ensemble > 0.97
    assert ensemble >= logistic - 0.005


# ---- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"boxcox_lambda": float("nan")}, "boxcox_lambda must lie in"),
        ({"lambda_period": 0}, "lambda_period must be at least 1"),
        ({"clip": 0.0}, "clip must lie in"),
        ({"clip": float("-inf")}, "clip must lie in"),
        ({"multiclass": "ovo"}, "multiclass must be one of relative, ovr"),
        ({"sync": "rank"}, "sync must be one of global, local"),
    ],
)
def test_refuses_bad_arguments(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EnsLoss(**arguments)


def test_refuses_what_it_is_not_defined_for() -> None:
    loss = EnsLoss()
    with pytest.raises(ValueError, match="hard labels only"):
        loss(random(4, 3), random(4, 3).softmax(1), **NOW)
    with pytest.raises(ValueError, match=r"takes logits of shape \(B, K\)"):
        loss(random(4, 3, 2), torch.zeros(4, dtype=torch.int64), **NOW)
    with pytest.raises(TypeError, match="needs epoch, step"):
        loss(random(4), torch.zeros(4, dtype=torch.int64))
    for label in (-1, 2):
        with pytest.raises(RuntimeError, match=r"out of bounds|within bounds"):
            loss(random(1), torch.tensor([label]), **NOW)


@pytest.mark.parametrize("monitor", ["train/loss", "val/loss"])
def test_early_stopping_on_it_is_refused(monitor, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        trimtab.main(
            [
                "fit",
                *arguments("classifier", "with/ensloss"),
                "--trainer.callbacks+=EarlyStopping",
                f"--trainer.callbacks.monitor={monitor}",
                f"--run_folder={tmp_path}",
                *QUIET,
            ]
        )
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert said[-1:] == [
        f"trimtab: EarlyStopping monitors '{monitor}', but the value of EnsLoss means nothing; "
        "monitor a metric instead."
    ]


# ---- two ranks --------------------------------------------------------------------------------


def gradient_of_rank() -> tuple[Tensor, Tensor]:
    """Return this rank's rows, 5 or 3 of 8, of two-class scores and their gradient."""
    rows = slice(5) if dist.get_rank() == 0 else slice(5, 8)
    scores = random(8)[rows].requires_grad_()
    loss = EnsLoss(sync="local", reduction="sum")
    loss(scores, torch.ones(len(scores), dtype=torch.int64), **NOW).backward()
    return scores.detach(), scores.grad


def test_local_ranks_sort_their_own_margins(two_ranks: Callable) -> None:
    """Ranks that sort together are compared with one process in test_contract.py."""
    draws = drawn(8)
    ranks = two_ranks(gradient_of_rank)
    for (margins, gradient), own in zip(ranks, (draws[:5], draws[5:]), strict=True):
        torch.testing.assert_close(gradient, loss_slopes(margins, own, 0.0, -1.0, tail=True))
