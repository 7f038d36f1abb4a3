import math

import pytest
import torch
from torch import Tensor

from framework.contrastive import individual_contrast
from framework.contrastive.individual_contrast import temperature_step

H = torch.tensor([[0.5, 0.2, -0.1, -0.4]], dtype=torch.float64)
RHO = 0.3


def terms(tau: float, s_old: float = math.nan, gamma: float = 1.0, h: Tensor = H):
    zero, everything = h.new_zeros(len(h)), torch.ones_like(h, dtype=torch.bool)
    log_average = h.new_full((len(h),), s_old).log()
    temperature = h.new_full((len(h),), tau)
    return individual_contrast(h, zero, everything, temperature, log_average, gamma, RHO)


def objective(tau: float) -> float:
    return tau * float(terms(tau).log_average) + tau * RHO


def near(value: float | list[float]) -> object:
    return pytest.approx(value, abs=1e-6)


def test_first_visit_is_the_exact_objective():
    found = terms(0.5)
    assert float(found.log_average.exp()) == near(1.369542)
    assert objective(0.5) == near(0.307238)
    # the derivative by the temperature is the radius less the divergence
    p = (H / 0.5).softmax(1)
    assert p[0].tolist() == near([0.496203, 0.272322, 0.149453, 0.082022])
    divergence = float((p * (4 * p).log()).sum())
    assert divergence == near(0.195147)
    assert float(found.slope) == near(0.104853)
    assert float(found.slope) == pytest.approx(RHO - divergence, abs=1e-12)


def test_at_the_optimum_the_objective_is_the_worst_case():
    best = 0.386353
    assert float(terms(best).slope) == near(0.0)
    assert objective(best) == near(0.300684)
    assert float(((H / best).softmax(1) * H).sum()) == near(0.300684)


def test_limits_are_the_mean_and_the_largest():
    assert objective(1e6) - 1e6 * RHO == near(0.05)
    assert objective(1e-8) == near(0.5)


def test_average_continues_by_gamma():
    h = H.clone().requires_grad_()
    found = terms(0.5, s_old=1.2, gamma=0.8, h=h)
    assert float(found.log_average.exp()) == near(1.335633)
    assert float(found.slope) == near(0.066844)
    assert float(found.loss.detach()) == near(0.261281)
    tau, momentum = torch.tensor([0.5]), torch.tensor([0.0])
    tau, momentum = temperature_step(tau, momentum, found.slope, 0.03, 0.5, None, (0.05, 1.0))
    assert (float(momentum), float(tau)) == (near(0.033422), near(0.498997))
    found.loss.sum().backward()
    weights = (H / 0.5).exp() / 1.335633 / 4
    assert h.grad[0].tolist() == near(weights[0].tolist())


def test_a_low_temperature_does_not_overflow():
    found = terms(0.005, h=2 * torch.ones(1, 3))
    assert float(found.log_average) == pytest.approx(400.0)
    assert float(found.loss) == pytest.approx(2.0)
    assert float(found.slope) == pytest.approx(RHO, abs=1e-3)


def test_an_anchor_without_negatives_changes_nothing():
    h = torch.tensor([[0.3, 0.1]], requires_grad=True)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    for s_old in (math.nan, 2.0):
        log_average = torch.tensor([s_old]).log()
        found = individual_contrast(h, torch.zeros(1), nothing, torch.ones(1), log_average)
        assert (found.loss.item(), found.slope.item(), bool(found.compared)) == (0.0, 0.0, False)
        assert torch.equal(found.log_average.isnan(), log_average.isnan())
        assert float(found.log_average.nan_to_num()) == float(log_average.nan_to_num())
        found.loss.sum().backward()
        assert h.grad.tolist() == [[0.0, 0.0]]


def test_slopes_are_clipped_and_temperatures_bounded():
    tau, momentum = temperature_step(
        torch.tensor([0.06, 0.99, 0.5]),
        torch.zeros(3),
        torch.tensor([50.0, -50.0, 0.1]),
        eta=0.1,
        beta=0.5,
        clip=3.0,
        bounds=(0.05, 1.0),
    )
    assert momentum.tolist() == pytest.approx([1.5, -1.5, 0.05])
    assert tau.tolist() == pytest.approx([0.05, 1.0, 0.495])


FIRST = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
SECOND = torch.tensor([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
TAU = torch.tensor([0.5, 0.2, 1.0], dtype=torch.float64)


def batch_terms(first: Tensor, s_old: Tensor, gamma: float):
    """Return the terms of first views and then of second ones, negatives all of other samples."""
    views = torch.cat([first, SECOND])
    others = ~torch.eye(3, dtype=torch.bool).repeat(2, 2)
    positive = (first * SECOND).sum(1).repeat(2)
    log_average = s_old.log().repeat(2)
    return individual_contrast(
        views @ views.T, positive, others, TAU.repeat(2), log_average, gamma, RHO, False
    )


def test_every_anchor_of_a_batch_at_its_first_visit():
    first = FIRST.clone().requires_grad_()
    found = batch_terms(first, torch.full_like(TAU, math.nan), 0.8)
    assert found.log_average.exp().tolist() == near(
        [1.189162, 19.170922, 1.274371, 2.835743, 36.425235, 0.591505]
    )
    slope = found.slope.view(2, 3).mean(0)
    assert slope.tolist() == near([-0.183243, -0.469829, 0.203298])
    value = found.loss.view(2, 3).sum(0).mean()
    assert float(value.detach()) == near(-0.593515)
    value.backward()
    assert first.grad.flatten().tolist() == near(
        [-0.461672, -0.057087, -0.552622, -0.116117, 0.856964, 0.516369]
    )


def test_every_anchor_of_a_batch_later_on():
    s_old = torch.tensor([2.0, 30.0, 1.0], dtype=torch.float64)
    found = batch_terms(FIRST, s_old, 0.8)
    average = found.log_average.exp()
    assert average.tolist() == near([1.351329, 21.336737, 1.219496, 2.668594, 35.140188, 0.673204])
    assert average.view(2, 3).mean(0).tolist() == near([2.009962, 28.238463, 0.946350])
    slope = found.slope.view(2, 3).mean(0)
    assert slope.tolist() == near([-0.153681, -0.331295, 0.210841])
    assert float(found.loss.view(2, 3).sum(0).mean()) == near(-0.582492)
