"""Torch's own losses through ``add_term`` give what torch's own reduction gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from framework.distributed.collectives import rank, world_size
from framework.losses.loss import Loss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import ReducedObjectives, reduce_objectives
from framework.training.terms import add_term, explained_labels

ROWS, SPLIT = 8, 5
CLASS_WEIGHT = torch.tensor([0.2, 3.0, 0.7], dtype=torch.float64)
SEED = torch.Generator().manual_seed(0)
LOGITS = torch.randn(ROWS, 3, generator=SEED, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1, 1, 0, 2, 0])
SOFT = torch.rand(ROWS, 3, generator=SEED, dtype=torch.float64).softmax(1)
DENSE_LOGITS = torch.randn(ROWS, 3, 4, 5, generator=SEED, dtype=torch.float64)
DENSE_LABELS = torch.randint(3, (ROWS, 4, 5), generator=SEED)
DENSE_IGNORED = DENSE_LABELS.where(torch.rand(ROWS, 4, 5, generator=SEED) > 0.4, -100)
DENSE_IGNORED[0] = -100
ENTROPY = nn.CrossEntropyLoss

CASES = {
    "entropy": (ENTROPY(), LOGITS, LABELS),
    "weighted": (ENTROPY(weight=CLASS_WEIGHT), LOGITS, LABELS),
    "ignored": (ENTROPY(ignore_index=1), LOGITS, LABELS),
    "smoothed": (ENTROPY(label_smoothing=0.2), LOGITS, LABELS),
    "smoothed-ignored": (ENTROPY(label_smoothing=0.2, ignore_index=0), LOGITS, LABELS),
    "smoothed-weighted": (ENTROPY(weight=CLASS_WEIGHT, label_smoothing=0.2), LOGITS, LABELS),
    "smoothed-weighted-ignored": (
        ENTROPY(weight=CLASS_WEIGHT, label_smoothing=0.2, ignore_index=2),
        LOGITS,
        LABELS,
    ),
    "soft": (ENTROPY(), LOGITS, SOFT),
    "soft-weighted-smoothed": (ENTROPY(weight=CLASS_WEIGHT, label_smoothing=0.1), LOGITS, SOFT),
    "sum": (ENTROPY(reduction="sum"), LOGITS, LABELS),
    "sum-weighted-ignored": (
        ENTROPY(weight=CLASS_WEIGHT, reduction="sum", ignore_index=0),
        LOGITS,
        LABELS,
    ),
    "dense": (ENTROPY(), DENSE_LOGITS, DENSE_LABELS),
    "dense-weighted-ignored": (ENTROPY(weight=CLASS_WEIGHT), DENSE_LOGITS, DENSE_IGNORED),
    "dense-sum": (ENTROPY(reduction="sum"), DENSE_LOGITS, DENSE_IGNORED),
    "dense-soft": (ENTROPY(), DENSE_LOGITS, DENSE_LOGITS.softmax(1)),
    "nll": (nn.NLLLoss(weight=CLASS_WEIGHT), LOGITS.log_softmax(1), LABELS),
    "margin": (nn.MultiMarginLoss(weight=CLASS_WEIGHT), LOGITS, LABELS),
    "mse": (nn.MSELoss(), LOGITS, SOFT),
    "mse-sum": (nn.MSELoss(reduction="sum"), LOGITS, SOFT),
    "mse-one-column": (nn.MSELoss(), LOGITS[:, 0], SOFT[:, 0]),
    "binary": (nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHT), LOGITS, SOFT.round()),
    "divergence-batchmean": (nn.KLDivLoss(reduction="batchmean"), LOGITS.log_softmax(1), SOFT),
}


def reduced(loss: nn.modules.loss._Loss, predictions: Tensor, targets: Tensor) -> ReducedObjectives:
    objectives = Objectives(predictions=predictions, targets=targets)
    add_term(objectives, "a", loss, predictions, targets)
    return reduce_objectives(objectives)


def step(name: str, rows: slice) -> tuple[Tensor, Tensor]:
    """Return value and gradient, averaged over the ranks as DDP does it."""
    loss, predictions, targets = CASES[name]
    predictions = predictions.clone().requires_grad_()
    total = reduced(loss, predictions[rows], targets[rows]).total
    total.backward()
    value = total.detach()
    for tensor in (value, predictions.grad):
        if world_size() > 1:
            torch.distributed.all_reduce(tensor)
            tensor /= world_size()
    return value, predictions.grad


def steps_on_rank() -> list[tuple[Tensor, Tensor]]:
    rows = (slice(SPLIT), slice(SPLIT, None))[rank()]
    return [step(name, rows) for name in CASES]


def torchs_own(name: str) -> tuple[Tensor, Tensor]:
    loss, predictions, targets = CASES[name]
    predictions = predictions.clone().requires_grad_()
    value = loss(predictions, targets)
    value.backward()
    return value.detach(), predictions.grad


@pytest.mark.parametrize("name", CASES)
def test_one_process_equals_torch(name: str) -> None:
    torch.testing.assert_close(step(name, slice(None)), torchs_own(name), rtol=0, atol=1e-12)


def test_two_uneven_ranks_equal_torch(two_ranks) -> None:
    for results in two_ranks(steps_on_rank):
        for name, result in zip(CASES, results, strict=True):
            torch.testing.assert_close(
                result, torchs_own(name), rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("name", CASES)
def test_an_empty_slice_keeps_the_gradient_path(name: str) -> None:
    value, gradient = step(name, slice(0))
    assert float(value) == 0
    assert not gradient.any()


def test_the_loss_keeps_its_reduction() -> None:
    loss = nn.MSELoss(reduction="sum")
    reduced(loss, LOGITS, SOFT)
    assert loss.reduction == "sum"
    with pytest.raises(ValueError, match="batch_size"):
        reduced(nn.CrossEntropyLoss(), LOGITS, LABELS[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_neither_round_nor_overflow_the_normalizer(dtype) -> None:
    logits = torch.randn(2, 3, 260, 260, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.randint(3, (2, 260, 260), generator=torch.Generator().manual_seed(1))
    for weight in (None, CLASS_WEIGHT.float()):
        loss = nn.CrossEntropyLoss(weight=weight)
        with torch.autocast("cpu", dtype=dtype):
            ours, torchs = reduced(loss, logits, labels).total, loss(logits, labels)
        assert float(ours) == pytest.approx(float(torchs), rel=1e-5)


class Coupled(Loss):
    """The squared norm of the global batch's mean, the same on every rank."""

    batch_coupled = True
    needs = ("index", "epoch")

    def compute(self, predictions, targets, *, index, epoch):
        from framework.distributed.collectives import gather_with_grad

        assert len(index) == len(predictions)
        return gather_with_grad(predictions).mean(0).square().sum() + epoch


def coupled_step(rows: slice) -> tuple[Tensor, Tensor]:
    predictions = LOGITS.clone().requires_grad_()
    objectives = Objectives(predictions=predictions[rows])
    index = torch.arange(ROWS)[rows]
    add_term(objectives, "a", Coupled(), predictions[rows], LABELS[rows], index=index, epoch=0)
    total = reduce_objectives(objectives).total
    total.backward()
    if world_size() > 1:
        torch.distributed.all_reduce(predictions.grad)
        predictions.grad /= world_size()
    return total.detach(), predictions.grad


def coupled_step_on_rank() -> tuple[Tensor, Tensor]:
    return coupled_step((slice(SPLIT), slice(SPLIT, None))[rank()])


def test_a_batch_coupled_loss_counts_once(two_ranks) -> None:
    expected = coupled_step(slice(None))
    assert float(expected[0]) == pytest.approx(float(LOGITS.mean(0).square().sum()), rel=1e-12)
    for result in two_ranks(coupled_step_on_rank):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("available", "message"), [({}, "needs `index`"), ({"index": LABELS}, "needs `epoch`")]
)
def test_what_a_loss_needs_and_has_not_is_named(available, message) -> None:
    with pytest.raises(IncompatibleError, match=message):
        add_term(Objectives(), "a", Coupled(), LOGITS, LABELS, **available)


class Scalar(Loss):
    def compute(self, predictions, targets, **needs):
        return predictions.mean()


def test_a_loss_that_hides_its_rows_is_refused() -> None:
    with pytest.raises(TypeError, match="no value per sample"):
        add_term(Objectives(), "a", Scalar(), LOGITS, LABELS)


@pytest.mark.parametrize(
    ("labels", "ignore_index", "found"),
    [([1, -100, 12], -100, 12), ([1, 255, 12], 255, 12), ([1, -100], 255, -100), ([-1], -100, -1)],
)
def test_the_label_at_fault_is_named(labels: list[int], ignore_index: int, found: int) -> None:
    logits, label = torch.zeros(len(labels), 10), torch.tensor(labels)
    message = rf"the label {found}, but the model has the classes 0\.\.9"
    with (
        pytest.raises(ValueError, match=message),
        explained_labels(logits, label, ignore_index),
    ):
        nn.functional.cross_entropy(logits, label, ignore_index=ignore_index)


def test_a_loss_that_counts_every_row_says_so_of_rows_without_a_label() -> None:
    logits, label = torch.zeros(2, 10), torch.tensor([1, -100])
    with (
        pytest.raises(ValueError, match="the loss counts every row: take another criterion"),
        explained_labels(logits, label, None),
    ):
        nn.functional.multi_margin_loss(logits, label)


@pytest.mark.parametrize("labels", [[1, -100, 9], [-100, -100]])
def test_labels_to_be_ignored_are_not_blamed_for_another_error(labels: list[int]) -> None:
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        explained_labels(torch.zeros(len(labels), 10), torch.tensor(labels)),
    ):
        raise RuntimeError("out of memory")
