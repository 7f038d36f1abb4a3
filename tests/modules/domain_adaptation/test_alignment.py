"""What aligns two domains: worked numbers, where gradients go, and ranks."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.adaptation import GroupedMLP
from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.layers import convert_sync_batchnorm
from modules.domain_adaptation import cdan
from modules.domain_adaptation.alignment import Alignment, domain_loss
from modules.domain_adaptation.cdan import CDAN, multilinear_map
from modules.domain_adaptation.dann import DANN
from modules.domain_adaptation.mdd import MDD

DOMAIN = torch.tensor([0, 1, 0])
# log-odds of the source: a half each of (softplus(-1) + softplus(1)) / 2 and softplus(2)
LOGIT = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def linear(weight: Any) -> GroupedMLP:
    """Return a discriminator that is a linear map."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    module = GroupedMLP(1, len(weight)).double()
    module.weights[0].data = weight[None, :, None]
    module.bias.data.zero_()
    return module


# ---- the loss of a discriminator ----------------------------------------------------------------


def test_each_domain_counts_half() -> None:
    expected = ((softplus(-1) + softplus(1)) / 2 + softplus(2)) / 2
    assert expected == pytest.approx(1.470095, abs=1e-6)
    assert float(domain_loss(LOGIT, DOMAIN)) == pytest.approx(expected)
    # whatever the number of its rows
    often = torch.tensor([0, 2, 1, 1, 1, 1])
    assert float(domain_loss(LOGIT[often], DOMAIN[often])) == pytest.approx(expected)


def test_it_is_torchs_binary_cross_entropy_where_domains_are_equal() -> None:
    logit, domain = torch.randn(8, dtype=torch.float64), torch.arange(8) % 2
    expected = F.binary_cross_entropy_with_logits(logit, (domain == 0).double())
    torch.testing.assert_close(domain_loss(logit, domain), expected)
    # 0 knows nothing
    assert float(domain_loss(0 * logit, domain)) == pytest.approx(math.log(2))


def test_weights_sum_to_one_within_a_domain() -> None:
    weight = torch.tensor([3.0, 7.0, 1.0], dtype=torch.float64)
    expected = ((3 * softplus(-1) + softplus(1)) / 4 + softplus(2)) / 2
    assert float(domain_loss(LOGIT, DOMAIN, weight)) == pytest.approx(expected)


def test_certain_and_wrong_costs_its_logit() -> None:
    logit = torch.tensor([-300.0, 400.0], requires_grad=True)
    loss = domain_loss(logit, torch.tensor([0, 1]))
    assert float(loss.detach()) == 350.0
    loss.backward()
    assert logit.grad.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("alignment", [DANN(), CDAN(entropy=True), MDD()])
@pytest.mark.parametrize("domain", [[], [0, 0], [1, 1]])
def test_a_domain_without_rows_gives_zero_with_a_path(alignment, domain) -> None:
    alignment = built(alignment).eval()  # batch statistics of no row do not exist
    domain = torch.tensor(domain, dtype=torch.int64)
    features = torch.zeros(len(domain), 4, dtype=torch.float64, requires_grad=True)
    term = alignment(features, torch.zeros(len(domain), 3), domain, 1.0).term
    gradients = torch.autograd.grad(term, [features, *alignment.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert len(domain) or float(term.detach()) == 0


# ---- DANN ---------------------------------------------------------------------------------------


def test_dann_by_hand() -> None:
    alignment = DANN()
    alignment.discriminator = linear([1.0, -0.5])
    features = torch.tensor([[1.0, 0.0], [1.0, -2.0], [0.0, 2.0]]).double().requires_grad_()
    term, logit = alignment(features, torch.zeros(3, 3), DOMAIN, 0.3)
    torch.testing.assert_close(logit, LOGIT)
    assert float(term.detach()) == pytest.approx(1.470095, abs=1e-6)
    # d/dlogit is (sigmoid(logit) - is source), a quarter of it in the source and half in the target
    slopes = torch.sigmoid(LOGIT) - torch.tensor([1.0, 0.0, 1.0])
    slopes = slopes * torch.tensor([0.25, 0.5, 0.25])
    term.backward()
    expected = -0.3 * slopes[:, None] * torch.tensor([[1.0, -0.5]])
    torch.testing.assert_close(features.grad, expected)
    # the discriminator learns at full strength
    learnt = (slopes[:, None] * features.detach()).sum(0)
    torch.testing.assert_close(alignment.discriminator.weights[0].grad.flatten(), learnt)


def test_the_discriminator_is_the_published_one() -> None:
    alignment = DANN()
    alignment.build(256, 31, 1024)
    shapes = [tuple(weight.shape) for weight in alignment.discriminator.weights]
    assert shapes == [(1, 256, 1024), (1, 1024, 1024), (1, 1024, 1)]
    assert [norm.num_features for norm in alignment.discriminator.norms] == [1024, 1024]


# ---- CDAN ---------------------------------------------------------------------------------------


def test_the_map_holds_every_product() -> None:
    f, g = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[0.5, 0.25, 0.25], [0, 1, 0]])
    expected = [[0.5, 1.0, 0.25, 0.5, 0.25, 0.5], [0, 0, 3, 5, 0, 0]]
    assert multilinear_map(f, g).tolist() == expected


def test_cdan_by_hand() -> None:
    alignment = CDAN()
    alignment.build(2, 2, 4)
    alignment.discriminator = linear([1.0, -1.0, 2.0, 0.5])
    f = torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double().requires_grad_()
    logits = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).double().log().requires_grad_()
    term, logit = alignment(f, logits, torch.tensor([0, 1]), 1.0)
    # (f1 - f2) p0 + (2 f1 + f2 / 2) p1
    torch.testing.assert_close(logit, torch.tensor([0.0, 1.0]).double())
    assert float(term.detach()) == pytest.approx((math.log(2) + softplus(1)) / 2)
    found, none = torch.autograd.grad(term, [f, logits], allow_unused=True)
    # the classifier gets no gradient, the features the reversed one
    assert none is None
    slope = torch.tensor([[-0.25], [0.5 * torch.sigmoid(torch.tensor(1.0))]]).double()
    weight = torch.tensor([[0.75 + 0.5, -0.75 + 0.125], [0.5 + 1.0, -0.5 + 0.25]]).double()
    torch.testing.assert_close(found, -slope * weight)


def test_entropy_conditioning_weighs_certain_rows_up() -> None:
    alignment = CDAN(entropy=True)
    alignment.build(1, 2, 4)
    alignment.discriminator = linear([1.0, 1.0])
    # of the source one row of entropy log 2, one of 0: weights 1.5 and 2
    logits = torch.tensor([[0.0, 0.0], [1e3, -1e3], [0.0, 0.0]]).double()
    f = torch.tensor([[1.0], [-1.0], [2.0]]).double()
    term, logit = alignment(f, logits, torch.tensor([0, 0, 1]), 1.0)
    torch.testing.assert_close(logit, f[:, 0])
    source = (1.5 * softplus(-1) + 2 * softplus(1)) / 3.5
    assert float(term.detach()) == pytest.approx((source + softplus(2)) / 2)


@pytest.mark.parametrize(("features", "projects"), [(1024, False), (1025, True)])
def test_a_large_map_is_projected(features, projects) -> None:
    alignment = CDAN(random_dim=50)
    alignment.build(features, 4, 8)
    assert alignment.discriminator.num_inputs == (50 if projects else 4096)
    shapes = {name: tuple(value.shape) for name, value in alignment.state_dict().items()}
    assert shapes.get("random_features") == ((features, 50) if projects else None)
    assert shapes.get("random_classes") == ((4, 50) if projects else None)
    joint = alignment.joint(torch.zeros(2, features), torch.zeros(2, 4))
    assert joint.shape == (2, alignment.discriminator.num_inputs)


def test_a_projection_keeps_inner_products_in_expectation(monkeypatch) -> None:
    monkeypatch.setattr(cdan, "LARGEST_MAP", 5)
    torch.manual_seed(0)
    alignment = CDAN(random_dim=200_000)
    alignment.build(3, 2, 4)
    f, g = torch.randn(2, 3), torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    exact = multilinear_map(f, g)
    joint = alignment.joint(f, g)
    torch.testing.assert_close(joint @ joint.T, exact @ exact.T, rtol=0.03, atol=0.03)


# ---- MDD ----------------------------------------------------------------------------------------


def test_mdd_by_hand() -> None:
    alignment = MDD(margin=4.0)
    alignment.adversary = nn.Identity()
    scores = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).double().requires_grad_()
    # what the classifier predicts: class 1 of the source row, class 0 of the target row
    logits = torch.tensor([[0.0, 0.3, 0.1], [5.0, 0.0, 4.0]]).double().requires_grad_()
    term, nothing = alignment(scores, logits, torch.tensor([0, 1]), 0.1)
    source, target = math.log(math.e**2 + 2), math.log((math.e + 2) / 2)
    assert float(term.detach()) == pytest.approx(4 * source + target)
    assert nothing is None
    found, none = torch.autograd.grad(term, [scores, logits], allow_unused=True)
    assert none is None
    sigma = scores.detach().softmax(1)
    agree = 4 * (sigma[0] - torch.tensor([0.0, 1.0, 0.0]))
    # of log(e + 2) - log 2: sigma less the share of each among the others
    disagree = sigma[1] - torch.tensor([0.0, 0.5, 0.5])
    torch.testing.assert_close(found, -0.1 * torch.stack([agree, disagree]))


def test_a_certain_adversary_costs_its_score() -> None:
    alignment = MDD()
    alignment.adversary = nn.Identity()
    scores = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    term = alignment(scores, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1]), 1.0).term
    assert float(term.detach()) == pytest.approx(300 - math.log(2))
    term.backward()
    torch.testing.assert_close(scores.grad, -torch.tensor([[1.0, -0.5, -0.5]]))


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_out_of_range_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin must be (finite and )?positive"):
        MDD(margin=margin)


def test_a_projection_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="random_dim must be at least 1, got 0"):
        CDAN(random_dim=0)


# ---- ranks --------------------------------------------------------------------------------------


def built(alignment: Alignment) -> Alignment:
    torch.manual_seed(0)
    alignment = copy.deepcopy(alignment)
    alignment.build(4, 3, 5)
    return alignment.double()


def step(alignment: Alignment, order: list[int], counts: list[int]) -> Any:
    """Return the term, the features' gradients and those of the networks, of the global batch."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    logits = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    domain = torch.tensor([0, 1, 0, 0, 1, 0, 1])
    own = torch.tensor(order).split(counts)[rank()]
    convert_sync_batchnorm(alignment)
    f = features[own].requires_grad_()
    term = alignment(f, logits[own], domain[own], 0.7).term
    gradients = torch.autograd.grad(term, [f, *alignment.parameters()])
    ranks = world_size()
    # what DDP's average makes of them
    shared = [all_reduce_sum(g) / ranks for g in gradients[1:]]
    return all_reduce_sum(term) / ranks, gradients[0] / ranks, shared


# in the last two, a rank has rows of one domain alone
@pytest.mark.parametrize("counts", [[4, 3], [7, 0], [1, 6], [4, -3]])
@pytest.mark.parametrize(
    "alignment", [DANN(), CDAN(entropy=True), MDD()], ids=["dann", "cdan", "mdd"]
)
def test_two_ranks_are_one_process(alignment, counts, two_ranks) -> None:
    order = [0, 2, 3, 5, 1, 4, 6] if counts[1] < 0 else list(range(7))
    counts = [abs(count) for count in counts]
    module = built(alignment)
    value, of_features, shared = step(copy.deepcopy(module), order, [7])
    zero, one = two_ranks(step, module, order, counts)
    torch.testing.assert_close(zero[0], value, rtol=1e-11, atol=1e-12)
    found: Tensor = torch.cat([zero[1], one[1]])
    torch.testing.assert_close(found, of_features, rtol=1e-9, atol=1e-12)
    for ours, whole in zip(one[2], shared, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-12)
