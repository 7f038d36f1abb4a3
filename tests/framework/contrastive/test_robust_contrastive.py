import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.contrastive import RobustContrastiveLoss
from framework.distributed.collectives import rank

FIRST = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
SECOND = torch.tensor([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
TAU = torch.tensor([0.5, 0.2, 1.0], dtype=torch.float64)
INDEX = torch.arange(3)
EXACT = 1e-6


def make(samples: int = 3, **options: object) -> RobustContrastiveLoss:
    loss = RobustContrastiveLoss(**options)  # type: ignore[arg-type]
    loss.setup(samples, None, torch.device("cpu"))
    return loss


def start(loss: RobustContrastiveLoss, s: Tensor | None = None, tau: Tensor = TAU) -> None:
    s = torch.full_like(tau, math.nan) if s is None else s
    row = torch.stack([s.log(), torch.zeros_like(tau), tau], 1)[:, None]
    modes = loss.memory.shape[0]
    loss.memory.write(torch.arange(len(tau)), row.expand(-1, modes, -1))


def state(loss: RobustContrastiveLoss, index: Tensor = INDEX) -> Tensor:
    return loss.memory.read(index)[:, 0]


def near(values: object) -> object:
    return pytest.approx(values, abs=EXACT)


def exact_objective(first: Tensor, second: Tensor, tau: Tensor, rho: float = 0.3) -> Tensor:
    """Return F of every anchor (2, B), from the definition."""
    first, second = F.normalize(first), F.normalize(second)
    rows, views = len(first), torch.cat([first, second])
    values = []
    for anchors in (first, second):
        for i in range(rows):
            h = views @ anchors[i] - first[i] @ second[i]
            others = torch.arange(2 * rows) % rows != i
            values.append(tau[i] * (h[others] / tau[i]).exp().mean().log() + tau[i] * rho)
    return torch.stack(values).view(2, rows)


def test_first_visit():
    loss = make(center_positive=False)
    start(loss)
    assert float(loss(FIRST, SECOND, index=INDEX)) == near(-0.593515)
    g = torch.tensor([[1.189162, 19.170922, 1.274371], [2.835743, 36.425235, 0.591505]])
    assert state(loss)[:, 0].exp().tolist() == pytest.approx(g.mean(0).tolist(), rel=EXACT)
    assert (2 * state(loss)[:, 1]).tolist() == near([-0.183243, -0.469829, 0.203298])


def test_an_average_goes_on():
    loss = make(center_positive=False)
    start(loss, torch.tensor([2.0, 30.0, 1.0], dtype=torch.float64))
    assert float(loss(FIRST, SECOND, index=INDEX)) == near(-0.582492)
    log_s, momentum, tau = state(loss).T
    assert log_s.exp().tolist() == pytest.approx([2.009962, 28.238463, 0.946350], rel=EXACT)
    assert (2 * momentum).tolist() == near([-0.153681, -0.331295, 0.210841])
    assert tau.tolist() == near([0.502305, 0.204969, 0.996837])


def test_gradient_is_that_of_the_exact_objective():
    loss = make(gamma=1.0)
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    tau = TAU.clone().requires_grad_()
    values = exact_objective(first, second, tau)
    assert values.flatten().tolist() == near(
        [-0.563376, -0.149321, -0.057548, -0.128848, -0.020948, -0.825085]
    )
    total = values.sum(0).mean()
    exact = torch.autograd.grad(total, [first, second, tau])
    for center_positive in (True, False):
        loss = make(center_positive=center_positive)
        start(loss)
        value = loss(first, second, index=INDEX)
        for found, expected in zip(
            torch.autograd.grad(value, [first, second]), exact, strict=False
        ):
            # temperatures are remembered in single precision
            torch.testing.assert_close(found, expected, atol=2e-7, rtol=0)
        slope = 2 * state(loss)[:, 1]
        assert slope.tolist() == near((3 / 2 * exact[2]).tolist())


def test_without_memory_it_is_the_decoupled_contrastive_loss():
    torch.manual_seed(0)
    tau = 0.25
    first, second = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = make(5, temperature=tau, gamma=1.0, learn_temperature=False)
    for _ in range(2):
        found = torch.autograd.grad(loss(first, second, index=torch.arange(5)), [first, second])
    views = torch.cat([F.normalize(first), F.normalize(second)])
    similarity = views @ views.T / tau
    same = torch.eye(5, dtype=torch.bool).repeat(2, 2)
    denominator = similarity.masked_fill(same, -torch.inf).logsumexp(1)
    decoupled = (denominator - similarity.diagonal(5).repeat(2)).sum() / 5
    expected = torch.autograd.grad(tau * decoupled, [first, second])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    assert torch.equal(loss.temperatures(), torch.full((5, 1), tau))


def test_half_a_share_of_memory_is_no_decoupled_loss():
    loss = make(gamma=0.5, learn_temperature=False)
    start(loss, torch.tensor([2.0, 30.0, 1.0], dtype=torch.float64))
    first = FIRST.clone().requires_grad_()
    loss(first, SECOND, index=INDEX).backward()
    other = FIRST.clone().requires_grad_()
    exact_objective(other, SECOND, TAU).sum(0).mean().backward()
    assert (first.grad - other.grad).abs().max() > 0.01


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"learn_temperature": False}])
def test_temperatures_stay(options):
    loss = make(**options)
    start(loss)
    for _ in range(3):
        loss(FIRST, SECOND, index=INDEX)
    assert torch.equal(loss.temperatures()[:, 0], TAU.float())


def test_order_of_the_batch_does_not_matter():
    torch.manual_seed(1)
    first, second = torch.randn(6, 3), torch.randn(6, 3)
    here, there = make(6), make(6)
    for shift in (1, 4):
        order = torch.arange(6).roll(shift)
        value = here(first, second, index=torch.arange(6))
        other = there(first[order], second[order], index=order)
        torch.testing.assert_close(value, other)
    torch.testing.assert_close(
        here.memory.read(torch.arange(6)), there.memory.read(torch.arange(6))
    )


def test_rows_of_the_same_sample_are_no_negatives_and_leave_their_mean():
    torch.manual_seed(2)
    first, second = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    index = torch.tensor([5, 2, 5, 7])
    loss = make(9)
    loss(first, second, index=index)
    log_s, momentum, _ = loss.memory.read(torch.tensor([5]))[0, 0]
    views = torch.cat([F.normalize(first), F.normalize(second)])
    slopes, averages = [], []
    for row in (0, 2):
        for anchor in (row, row + 4):
            positive = views[row] @ views[row + 4]
            h = views[[1, 3, 5, 7]] @ views[anchor] - positive
            averages.append((h / 0.1).exp().mean())
            slopes.append(averages[-1].log() + 0.3 - ((h / 0.1).softmax(0) * h / 0.1).sum())
    assert float(log_s.exp()) == pytest.approx(float(torch.stack(averages).mean()), rel=1e-5)
    # each of the two rows adds the mean of its views, clipped after the mean of the rows
    assert float(momentum) == pytest.approx(float(torch.stack(slopes).mean()) / 2, rel=1e-5)


def test_alone_in_a_batch_a_sample_learns_nothing():
    loss, first = make(), FIRST[:1].clone().requires_grad_()
    value = loss(first, SECOND[:1], index=INDEX[:1])
    value.backward()
    assert value.item() == 0.0
    assert first.grad.tolist() == [[0.0, 0.0]]
    log_s, momentum, tau = state(loss)[0].tolist()
    assert math.isnan(log_s)
    assert (momentum, tau) == (0.0, pytest.approx(0.1))
    empty = loss(first[:0], SECOND[:0], index=INDEX[:0])
    empty.backward()
    assert empty.item() == 0.0


def test_evaluation_neither_reads_nor_writes():
    loss = make()
    start(loss, torch.ones(3, dtype=torch.float64))
    before = state(loss)
    loss.eval()
    fresh = make()
    value = loss(FIRST, SECOND, index=INDEX + 100)
    torch.testing.assert_close(value, fresh(FIRST, SECOND, index=INDEX))
    assert torch.equal(state(loss), before)


def test_two_modes_have_their_own_negatives_and_memory():
    loss = make(mode="bimodal", temperature=0.5)
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    value = loss(first, second, index=INDEX)
    found = torch.autograd.grad(value, [first, second])
    similarity = F.normalize(first) @ F.normalize(second).T
    h = similarity - similarity.diagonal()[:, None]
    h_other = similarity.T - similarity.diagonal()[:, None]
    others = ~torch.eye(3, dtype=torch.bool)

    def mean_exp(h: Tensor) -> Tensor:
        return (h[others].view(3, 2) / 0.5).exp().mean(1)

    exact = 0.5 * (mean_exp(h).log().mean() + mean_exp(h_other).log().mean())
    for mine, theirs in zip(found, torch.autograd.grad(exact, [first, second]), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    memory = loss.memory.read(INDEX).double()
    torch.testing.assert_close(memory[:, 0, 0].exp(), mean_exp(h).detach(), atol=1e-6, rtol=1e-6)
    other = mean_exp(h_other).detach()
    torch.testing.assert_close(memory[:, 1, 0].exp(), other, atol=1e-6, rtol=1e-6)
    assert loss.temperatures().shape == (3, 2)
    assert (loss.temperatures()[:, 0] != loss.temperatures()[:, 1]).all()


def test_the_share_falls_by_a_cosine():
    loss = make(gamma=0.8, gamma_epochs=4)
    assert [loss.share(epoch) for epoch in (0, 2, 4, 9)] == pytest.approx([1.0, 0.9, 0.8, 0.8])
    with pytest.raises(TypeError, match="needs epoch"):
        loss(FIRST, SECOND, index=INDEX)
    start(loss, torch.tensor([2.0, 30.0, 1.0], dtype=torch.float64))
    loss(FIRST, SECOND, index=INDEX, epoch=4)
    constant = make(gamma=0.8)
    start(constant, torch.tensor([2.0, 30.0, 1.0], dtype=torch.float64))
    constant(FIRST, SECOND, index=INDEX)
    assert torch.equal(state(loss), state(constant))


def test_half_precision_is_computed_in_float32():
    loss = make(temperature=0.005, min_temperature=0.005)
    first = torch.randn(3, 2).bfloat16()
    value = loss(first, -first, index=INDEX)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert state(loss).isfinite().all()


def steps(index: Tensor, rows: Callable[[Tensor], Tensor], saved: dict | None, **options):
    """Return value, gradient and memory of three steps on this rank's rows."""
    torch.manual_seed(3)
    views = torch.randn(3, 2, 7, 4, dtype=torch.float64)
    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = RobustContrastiveLoss(temperature=0.2, **options)
    loss.setup(9, None, torch.device("cpu"))
    if saved is not None:
        loss.memory.load_state_dict(saved)
    values = []
    for first, second in views:
        value = loss(rows(first) @ weight, rows(second) @ weight, index=rows(index))
        value.backward()
        values.append(value.item())
    return values, weight.grad, loss.memory.state_dict()


def uneven_rows(x: Tensor) -> Tensor:
    return x[:5] if rank() == 0 else x[5:]


def all_on_one_rank(x: Tensor) -> Tensor:
    return x if rank() == 0 else x[:0]


def everything(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("mode", ["unimodal", "bimodal"])
@pytest.mark.parametrize("rows", [uneven_rows, all_on_one_rank])
def test_two_ranks_are_one_process(two_ranks, rows, mode):
    index = torch.tensor([8, 1, 3, 2, 0, 1, 6])
    values, gradient, memory = steps(index, everything, None, mode=mode)
    results = two_ranks(steps, index, rows, None, mode=mode)
    for theirs, _, their_memory in results:
        assert theirs == near(values)
        # untouched rows are equal as well
        torch.testing.assert_close(
            their_memory["table"], memory["table"], atol=1e-6, rtol=1e-6, equal_nan=True
        )
    mean = sum(result[1] for result in results) / 2
    torch.testing.assert_close(mean, gradient, atol=1e-6, rtol=0)


def test_a_run_goes_on_with_another_number_of_ranks(two_ranks):
    index = torch.tensor([8, 1, 3, 2, 0, 4, 6])
    _, _, one = steps(index, everything, None)
    _, _, two = two_ranks(steps, index, uneven_rows, None)[1]
    values, gradient, memory = steps(index, everything, one)
    for saved in (one, two):
        there = two_ranks(steps, index, uneven_rows, saved)
        here = steps(index, everything, saved)
        for found, _, table in (*there, here):
            assert found == near(values)
            torch.testing.assert_close(
                table["table"], memory["table"], atol=1e-6, rtol=1e-6, equal_nan=True
            )
        mean = (there[0][1] + there[1][1]) / 2
        torch.testing.assert_close(mean, gradient, atol=1e-6, rtol=0)


def test_a_plain_loop_saves_and_restores():
    """Four lines of plain PyTorch, as the page of the method shows them."""
    torch.manual_seed(4)
    views = torch.randn(8, 2, 6, 4)

    def train(loss: RobustContrastiveLoss, network: torch.nn.Linear, views: Tensor) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for first, second in views:
            value = loss(network(first), network(second), index=torch.arange(6))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    whole, network = make(6), torch.nn.Linear(4, 3)
    train(whole, network, views[:4])
    saved = {"network": network.state_dict(), "loss": whole.memory.state_dict()}
    saved = {name: {k: v.clone() for k, v in part.items()} for name, part in saved.items()}
    train(whole, network, views[4:])
    half, again = make(6), torch.nn.Linear(4, 3)
    again.load_state_dict(saved["network"])
    half.memory.load_state_dict(saved["loss"])
    train(half, again, views[4:])
    assert torch.equal(again.weight, network.weight)
    assert torch.equal(half.temperatures(), whole.temperatures())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="temperature must lie in"):
        RobustContrastiveLoss(temperature=0.01)
    with pytest.raises(ValueError, match="gamma"):
        RobustContrastiveLoss(gamma=0.0)
    with pytest.raises(ValueError, match="mode"):
        RobustContrastiveLoss(mode="trimodal")
    loss = RobustContrastiveLoss()
    with pytest.raises(RuntimeError, match=r"setup\(num_samples"):
        loss(FIRST, SECOND, index=INDEX)
    loss.setup(3, None, torch.device("cpu"))
    with pytest.raises(ValueError, match="two matrices"):
        loss(FIRST, SECOND[:, :1], index=INDEX)
    with pytest.raises(ValueError, match="one position for each of the 3 rows"):
        loss(FIRST, SECOND, index=INDEX[:2])
    assert RobustContrastiveLoss(temperature=2.0, learn_temperature=False).temperature == 2.0
