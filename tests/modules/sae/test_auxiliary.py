"""Auxiliary losses: the spec's numbers, which features they help, and what they cannot do."""

import math

import pytest
import torch

from framework.objectives.reduction import reduce_objectives
from framework.sparse_coding.selection import FeatureChoice, MutualChoice, TokenChoice
from framework.sparse_coding.zipf import zipf_density
from modules import SparseAutoencoderModule
from modules.sae.auxiliary import DeadLatentAuxLoss, ZipfAuxLoss
from modules.sae.statistics import FiringStatistics

F64 = torch.float64
X = torch.tensor([[1.0, 0.5], [0.9, 1.2], [0.1, 0.8]], dtype=F64)
W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-0.8, 0.6]], dtype=F64)
B_PRE = torch.tensor([0.1, -0.2], dtype=F64)


def example(loss: object, selection: object = None) -> SparseAutoencoderModule:
    """The spec's example, in which only feature 3 is dead after the step."""
    module = SparseAutoencoderModule(
        d_in=2,
        d_sae=4,
        selection=selection or TokenChoice(k=1),
        auxiliary=loss,
        dead_tokens=100,
    ).double()
    with torch.no_grad():
        module.sae.W_enc.copy_(W)
        module.sae.W_dec.copy_(W)
        module.sae.b_dec.copy_(B_PRE)
    module.sae.statistics.tokens_since_fired.copy_(torch.tensor([0, 0, 0, 97]))
    return module


def step(module: SparseAutoencoderModule):
    objectives = module.objectives({"activation": X, "index": torch.arange(3)})
    return objectives, reduce_objectives(objectives)


@pytest.mark.parametrize(("normalizer", "expected"), [("residual", 3.552632), ("input", 0.613636)])
def test_the_example_of_the_spec(normalizer: str, expected: float) -> None:
    module = example(DeadLatentAuxLoss(auxk=1, normalizer=normalizer))
    objectives, reduced = step(module)
    assert objectives.per_sample["auxiliary"].tolist() == pytest.approx([0.09, 0.0, 0.36])
    assert float(reduced.terms["auxiliary"].detach()) == pytest.approx(expected, abs=1e-6)
    total = reduced.terms["reconstruction"] + reduced.terms["auxiliary"] / 32
    assert float(reduced.total.detach()) == pytest.approx(float(total.detach()))


@pytest.mark.parametrize(("scaled", "expected"), [(True, 1 / 32 / 4), (False, 1 / 32)])
def test_few_dead_features_pull_less(scaled: bool, expected: float) -> None:
    objectives, _ = step(example(DeadLatentAuxLoss(auxk=4, scale_by_count=scaled)))
    assert objectives.weights["auxiliary"] == pytest.approx(expected)


def test_the_residual_is_a_constant_and_the_bias_is_not_pushed() -> None:
    module = example(DeadLatentAuxLoss(auxk=1))
    with torch.no_grad():
        module.sae.b_dec.zero_()
    objectives, _ = step(module)
    objectives.per_sample["auxiliary"].sum().backward()
    assert not module.sae.W_dec.grad[:3].any()
    assert module.sae.W_dec.grad[3].any()
    assert not module.sae.W_enc.grad[:3].any()
    # the reconstruction of the residual has no bias, which then gets none but the encoder's
    pushed = -(module.sae.b_enc.grad @ module.sae.W_enc)
    torch.testing.assert_close(module.sae.b_dec.grad, pushed.detach())


def test_nothing_is_added_while_no_feature_is_dead() -> None:
    module = example(DeadLatentAuxLoss(auxk=1))
    module.sae.statistics.tokens_since_fired.zero_()
    objectives, reduced = step(module)
    assert objectives.weights["auxiliary"] == 0
    gradient = torch.autograd.grad(reduced.terms["auxiliary"], module.sae.W_dec)[0]
    assert not gradient.any()


def test_no_variance_is_no_loss() -> None:
    module = example(DeadLatentAuxLoss(auxk=1))
    batch = {"activation": X[:1], "index": torch.arange(1)}
    reduced = reduce_objectives(module.objectives(batch))
    assert float(reduced.terms["auxiliary"].detach()) == 0


def test_the_clock_moves_before_the_dead_are_counted() -> None:
    module = example(DeadLatentAuxLoss(auxk=1))
    module.sae.statistics.tokens_since_fired[3] = 96
    objectives, _ = step(module)
    assert objectives.weights["auxiliary"] == 0
    objectives, _ = step(module)
    assert objectives.weights["auxiliary"] > 0
    # features 1 and 2 fired, feature 0 did not, and only training counts
    assert module.sae.statistics.tokens_since_fired.tolist() == [6, 0, 0, 102]
    module.eval()
    step(module)
    assert module.sae.statistics.tokens_since_fired.tolist() == [6, 0, 0, 102]


# ---- which features the Zipf loss helps ----------------------------------------------------------


def counted(counts: torch.Tensor, tokens: int = 100_000) -> FiringStatistics:
    statistics = FiringStatistics(len(counts), horizon=1e15)
    statistics.update(counts, tokens)
    return statistics


def test_features_below_the_law() -> None:
    law = zipf_density(50, 5.0, alpha=1.0, beta=10.0)
    counts = (law * 100_000).round()
    counts[45:] = (counts[45:] * 0.4).round()
    statistics = counted(counts)
    for phi, under in ((0.5, 5), (0.3, 0)):
        chosen = ZipfAuxLoss(phi, alpha=1.0, beta=10.0).candidates(statistics, 5.0, 10**9)
        assert chosen.nonzero().squeeze(1).tolist() == list(range(50 - under, 50))
    fitted = ZipfAuxLoss(0.5).candidates(statistics, 5.0, 10**9)
    assert fitted.nonzero().squeeze(1).tolist() == list(range(45, 50))


def test_a_small_phi_leaves_the_features_that_never_fired() -> None:
    counts = torch.tensor([900, 500, 300, 1, 0, 0])
    statistics = counted(counts)
    chosen = ZipfAuxLoss(phi=1e-9, alpha=1.0).candidates(statistics, 2.0, 10**9)
    assert torch.equal(chosen, counts == 0)
    # with a clock as long as the count these are the dead ones
    dead = DeadLatentAuxLoss().candidates(statistics, 2.0, 100_000)
    assert torch.equal(chosen, dead)


def test_a_uniform_law_compares_with_the_mean() -> None:
    counts = torch.tensor([60_000, 21_000, 19_000, 10_000])
    chosen = ZipfAuxLoss(phi=0.5, alpha=0.0).candidates(counted(counts), 1.6, 10**9)
    # phi k / F is 0.2
    assert chosen.tolist() == [False, False, True, True]


def test_dead_features_are_always_among_them() -> None:
    statistics = counted(torch.tensor([50, 40, 30, 0]), tokens=100)
    statistics.tokens_since_fired[0] = 500
    for loss in (ZipfAuxLoss(), ZipfAuxLoss(alpha=1.0)):
        assert loss.candidates(statistics, 1.0, 500)[0]


def test_chance_does_not_decide() -> None:
    # of 100 tokens the law expects below 5 for all but the first rank
    law = zipf_density(4, 0.12, alpha=1.0) * 100
    assert (law < 5).tolist() == [False, True, True, True]
    loss = ZipfAuxLoss(phi=0.5, alpha=1.0)
    counts = torch.tensor([60, 30, 0, 0])
    assert not loss.candidates(counted(counts, tokens=100), 0.12, 10**9).any()
    # of 10,000 tokens it expects enough of each
    many = loss.candidates(counted(100 * counts, tokens=10_000), 0.12, 10**9)
    assert many.tolist() == [False, False, True, True]


def test_exactly_phi_of_what_is_expected_is_enough() -> None:
    # the uniform law expects 0.4 of every feature
    counts = torch.tensor([20_001, 20_000, 19_999, 90_000])
    chosen = ZipfAuxLoss(phi=0.5, alpha=0.0).candidates(counted(counts), 1.6, 10**9)
    assert chosen.tolist() == [False, False, True, False]


@pytest.mark.parametrize("selection", [TokenChoice(1), MutualChoice(1), FeatureChoice(1)])
def test_features_below_zero_everywhere_are_reported_and_not_moved(selection: object) -> None:
    module = example(DeadLatentAuxLoss(auxk=4), selection)
    with torch.no_grad():
        module.sae.b_enc[2:] = -100.0
    for _ in range(60):
        objectives, reduced = step(module)
    assert module.sae.statistics.dead(100).tolist() == [False, False, True, True]
    gradient = torch.autograd.grad(reduced.total, module.sae.b_enc)[0]
    assert not gradient[2:].any()
    assert float(objectives.logs["dead_share"]) == 0.5


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: DeadLatentAuxLoss(auxk=0), "auxk must be at least 1"),
        (lambda: DeadLatentAuxLoss(weight=-1.0), "weight must be at least 0"),
        (lambda: DeadLatentAuxLoss(normalizer="none"), "normalizer must be one of"),
        (lambda: ZipfAuxLoss(phi=0.0), r"phi must lie in \(0, 1\]"),
        (lambda: ZipfAuxLoss(alpha=math.nan), "alpha must be finite and at least 0"),
    ],
)
def test_refuses(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
