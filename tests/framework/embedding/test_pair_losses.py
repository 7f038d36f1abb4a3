from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_metric_learning import losses as peer
from torch import Tensor

from framework.embedding import (
    BinomialDevianceLoss,
    ContrastiveLoss,
    GenericPairLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NCALoss,
    ProxyAnchorLoss,
)
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.training.terms import add_term

A, P, N = (
    F.normalize(torch.tensor([point], dtype=torch.float64))
    for point in ([1.0, 0.0], [1.0, 0.5], [0.2, 1.0])
)
LAMBDA = 0.7
CLASSES, DIM = 4, 6


def proxies(**kwargs: str) -> ProxyAnchorLoss:
    loss = ProxyAnchorLoss(DIM, CLASSES, **kwargs).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        loss.proxies.copy_(torch.randn(CLASSES, DIM, generator=generator))
    return loss


BUILD: dict[str, Callable[..., GenericPairLoss]] = {
    "distance": ContrastiveLoss,
    "similarity": lambda **kw: ContrastiveLoss(form="similarity", **kw),
    "lifted": lambda **kw: LiftedStructureLoss(margin=-3.0, **kw),
    "binomial": BinomialDevianceLoss,
    "ms": MultiSimilarityLoss,
    "nca": NCALoss,
    "proxy_anchor": proxies,
}
every_loss = pytest.mark.parametrize("name", BUILD)
every_loss_of_rows = pytest.mark.parametrize("name", [n for n in BUILD if n != "proxy_anchor"])


def batch(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, DIM, generator=generator).double()
    return x, torch.randint(CLASSES, (rows,), generator=generator)


def mixed() -> Tensor:
    return F.normalize(LAMBDA * P + (1 - LAMBDA) * N)


@pytest.mark.parametrize(
    ("loss", "clean", "of_mixed"),
    [
        (ContrastiveLoss(form="similarity"), -0.894427, -0.449312),
        (ContrastiveLoss(), 0.459506, 0.496674),
        (MultiSimilarityLoss(18, 75, 0.77), 0.005622, 0.040231),
        (MultiSimilarityLoss(2, 40, 0.5), 0.187285, 0.395634),
    ],
    ids=["similarity", "distance", "ms18", "ms2"],
)
def test_values_of_the_worked_example(loss: GenericPairLoss, clean: float, of_mixed: float) -> None:
    hard = loss.of_similarities(A @ torch.cat([P, N]).T, torch.tensor([[1, 0]]))
    soft = loss.of_similarities(A @ mixed().T, LAMBDA)
    assert hard.item() == pytest.approx(clean, abs=6e-7)
    assert soft.item() == pytest.approx(of_mixed, abs=6e-7)


def test_similarities_of_the_worked_example() -> None:
    values = [A @ P.T, A @ N.T, A @ mixed().T, A @ (LAMBDA * P + (1 - LAMBDA) * N).T]
    expected = [0.894427, 0.196116, 0.748280, 0.684934]
    assert [v.item() for v in values] == pytest.approx(expected, abs=6e-7)
    assert (A - mixed()).norm().item() == pytest.approx(0.709535, abs=6e-7)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("ms", peer.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)),
        ("distance", peer.ContrastiveLoss(pos_margin=0, neg_margin=0.5)),
    ],
)
def test_hard_labels_equal_the_peer(name: str, oracle: torch.nn.Module) -> None:
    x, y = batch(12)
    x.requires_grad_()
    ours, theirs = BUILD[name]()(x, y), oracle(x, y)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(value, x)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_proxy_anchor_equals_the_peer() -> None:
    x, y = batch(3)  # not every class has a row
    x.requires_grad_()
    loss = proxies()
    oracle = peer.ProxyAnchorLoss(CLASSES, DIM).double()
    oracle.load_state_dict({**oracle.state_dict(), "proxies": loss.proxies.detach()})
    ours, theirs = loss(x, y), oracle(x, y)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours, (x, loss.proxies)),
        torch.autograd.grad(theirs, (x, oracle.proxies)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def plain(name: str, s: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """Return the losses of the paper's table, as they stand there."""
    if name == "lifted":
        value = (weight * (-s).exp()).sum(1).log() + (other * (s + 3).exp()).sum(1).log()
        return value.relu()
    if name == "binomial":
        positive = weight * (1 + (-2 * (s - 0.5)).exp()).log()
        return (positive + other * (1 + (50 * (s - 0.5)).exp()).log()).sum(1)
    positive, negative = ((w * (s / 0.1).exp()).sum(1) for w in (weight, other))
    return negative.log() - positive.log()


@pytest.mark.parametrize("name", ["lifted", "binomial", "nca"])
def test_equals_the_table_of_the_paper(name: str) -> None:
    s = 2 * torch.rand(5, 7).double() - 1
    y = torch.rand(5, 7).double()
    mask = torch.rand(5, 7) < 0.7
    expected = plain(name, s, mask * y, mask * (1 - y))
    torch.testing.assert_close(BUILD[name]().of_similarities(s, y, mask), expected)


@every_loss
def test_soft_labels_of_zero_and_one_are_hard(name: str) -> None:
    s = 2 * torch.rand(CLASSES, 7).double() - 1
    y = torch.rand(CLASSES, 7) < 0.5
    loss = BUILD[name]()
    assert torch.equal(loss.of_similarities(s, y), loss.of_similarities(s, y.double()))


@every_loss_of_rows
def test_order_of_rows_does_not_matter(name: str) -> None:
    x, y = batch(12)
    order = torch.randperm(12)
    loss = BUILD[name](reduction="none")
    torch.testing.assert_close(loss(x, y)[order], loss(x[order], y[order]))


@every_loss
@pytest.mark.parametrize("y", [[0, 0, 0], [0, 1, 2], [0], []])
def test_anchors_without_positives_or_negatives_leave_gradients_finite(
    name: str, y: list[int]
) -> None:
    x = batch(12)[0][: len(y)].requires_grad_()
    loss = BUILD[name]()(x, torch.tensor(y, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if BUILD[name]().needs_both or (len(y) < 2 and name != "proxy_anchor"):
        assert loss == 0
        assert not gradient.any()


@pytest.mark.parametrize("name", ["lifted", "nca"])
def test_anchors_that_lack_a_positive_are_left_out_of_the_mean(name: str) -> None:
    x, y = batch(12)
    alone = torch.cat([y, torch.tensor([CLASSES])])
    s = F.normalize(torch.cat([x, x[:1].flip(1)]))
    values = BUILD[name](reduction="none")(s, alone)
    assert values[-1] == 0
    # its place in the mean goes to the others
    mask = ~torch.eye(13, dtype=torch.bool)[:12]
    others = BUILD[name]().of_similarities(s[:12] @ s.T, y[:, None] == alone, mask)
    torch.testing.assert_close(values.mean(), others.mean())


@every_loss
def test_equal_embeddings_have_a_finite_gradient(name: str) -> None:
    x = torch.ones(4, DIM, dtype=torch.float64, requires_grad=True)
    loss = BUILD[name]()(x, torch.tensor([0, 0, 1, 1]))
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_steep_pairs_do_not_overflow() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = MultiSimilarityLoss(beta=200, gamma=200)(x, torch.tensor([0, 0, 1]))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_base_class_has_no_parts() -> None:
    with pytest.raises(NotImplementedError, match="GenericPairLoss defines no part of positives"):
        GenericPairLoss()(*batch(4))


def step(name: str, first: int) -> list[Tensor]:
    """Return this rank's value and gradients; rank 0 holds the ``first`` rows of 11."""
    alone = not dist.is_initialized()
    rows = slice(11) if alone else slice(first) if dist.get_rank() == 0 else slice(first, 11)
    x, y = batch(11)
    network = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    loss = BUILD[name]()
    embeddings = (x @ network)[rows]
    objectives = Objectives(terms={}, predictions=embeddings)
    add_term(objectives, "pairs", loss, embeddings, y[rows])
    total = reduce_objectives(objectives).total
    return [total.detach(), *torch.autograd.grad(total, (network, *loss.parameters()))]


@every_loss
@pytest.mark.parametrize("first", [6, 11])
def test_two_ranks_equal_one_process(name: str, first: int, two_ranks: Callable) -> None:
    one, ranks = step(name, first), two_ranks(step, name, first)
    for expected, *parts in zip(one, *ranks, strict=True):  # averaged as DDP does
        torch.testing.assert_close(sum(parts) / 2, expected, rtol=0, atol=1e-12)
        assert expected.abs().max() > 1e-3
