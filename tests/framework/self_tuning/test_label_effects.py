"""Label smoothing and mixup: exact corrections of the cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum, rank, world_size
from framework.objectives import Objectives, reduce_objectives
from framework.self_tuning import Draws, LabelSmoothing, TunedMixup
from framework.self_tuning.effects.beta_draws import TRIES, symmetric_beta
from framework.training.terms import add_term

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 3, -100, 1, 2, 2])
SOFT = torch.softmax(3 * torch.arange(24.0, dtype=torch.float64).sin().view(6, 4), dim=1)


def objectives_of(labels: Tensor, logits: Tensor = LOGITS) -> Objectives:
    found = Objectives(predictions=logits, targets=labels)
    add_term(found, "classification", nn.CrossEntropyLoss(), logits, labels)
    return found


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "distributions"])
@pytest.mark.parametrize("amount", [0.0, 0.1, 1.0])
def test_one_share_is_torchs_label_smoothing(labels, amount) -> None:
    logits = LOGITS.clone().requires_grad_()
    objectives, effect = objectives_of(labels, logits), LabelSmoothing()
    with effect.at({"amount": torch.tensor(amount, dtype=torch.float64)}, Draws(0, 0)):
        effect.change_objectives(objectives, {}, nn.Identity())
    total = reduce_objectives(objectives).total
    expected = nn.CrossEntropyLoss(label_smoothing=amount)(logits, labels)
    assert total.item() == pytest.approx(expected.item(), abs=1e-12)
    found, wanted = (torch.autograd.grad(loss, logits)[0] for loss in (total, expected))
    assert torch.allclose(found, wanted, atol=1e-12)


def test_a_share_for_each_row() -> None:
    objectives, effect = objectives_of(LABELS), LabelSmoothing()
    shares = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.9, 1.0], dtype=torch.float64)
    with effect.at({"amount": shares}, Draws(0, 0)):
        effect.change_objectives(objectives, {}, nn.Identity())
    for row, share in enumerate(shares):
        expected = F.cross_entropy(
            LOGITS[row], LABELS[row].clamp(min=0), label_smoothing=float(share)
        )
        found = sum(values[row] for values in objectives.per_sample.values())
        assert float(found) == pytest.approx(0 if row == 2 else float(expected), abs=1e-12)
    assert objectives.count["label_smoothing"].tolist() == [1, 1, 0, 1, 1, 1]


def test_outside_of_a_step_no_term_is_added() -> None:
    for effect in (LabelSmoothing(), TunedMixup()):
        objectives = objectives_of(LABELS)
        effect.change_objectives(objectives, {}, nn.Identity())
        assert list(objectives.per_sample) == ["classification"]


def test_predictions_of_other_shapes() -> None:
    effect = LabelSmoothing()
    with effect.at({"amount": torch.tensor(0.1)}, Draws(0, 0)):
        with pytest.raises(ValueError, match=r"logits \(B, K\), but the predictions are \(6,\)"):
            effect.change_objectives(
                Objectives(predictions=LOGITS[:, 0], targets=LABELS), {}, nn.Identity()
            )
        with pytest.raises(ValueError, match=r"torch.int64 of the shape \(5,\)"):
            effect.change_objectives(
                Objectives(predictions=LOGITS, targets=LABELS[:5]), {}, nn.Identity()
            )


def mixed(
    counts: tuple[int, ...], labels: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor, float, Tensor]:
    """This rank's mixed inputs and terms, and the loss and its gradient of all ranks."""
    effect, x = TunedMixup(field="input"), torch.arange(6.0, dtype=torch.float64)[:, None]
    mine = x.split(counts)[rank()], labels.split(counts)[rank()]
    alpha = torch.tensor([1e-6, 0.2, 1.0, 1.0, 5.0, 2.0]).split(counts)[rank()]
    weight = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    with effect.at({"alpha": alpha}, Draws(seed, 0)):
        seen = effect.change_batch({"input": mine[0]})["input"]
        logits = (seen * weight * torch.arange(4, dtype=torch.float64)).cos()
        objectives = objectives_of(mine[1], logits)
        effect.change_objectives(objectives, {}, nn.Identity())
    total = reduce_objectives(objectives).total
    gradient = all_reduce_sum(torch.autograd.grad(total, weight)[0]) / world_size()
    loss = float(all_reduce_sum(total.detach())) / world_size()
    return seen, objectives.per_sample["mixup"].detach(), loss, gradient


@pytest.mark.parametrize("labels", [LABELS.clamp(min=0), SOFT], ids=["classes", "distributions"])
def test_the_loss_is_that_of_mixed_labels(labels) -> None:
    seen, _, loss, _ = mixed((6,), labels)
    partners = Draws(0, 0).partners("mixup.input.1.partners", 6)
    share = 1 - (seen[:, 0] - torch.arange(6)) / (partners - torch.arange(6))
    assert float(share[0]) == 1
    assert (share[1:] < 1).any()
    assert (share >= 0.5).all()
    soft = labels if labels.is_floating_point() else F.one_hot(labels, 4).double()
    targets = share[:, None] * soft + (1 - share[:, None]) * soft[partners]
    logits = (seen * torch.arange(4)).cos()
    assert loss == pytest.approx(float(F.cross_entropy(logits, targets)), abs=1e-12)


def test_a_label_that_does_not_count_is_not_mixed() -> None:
    _, correction, loss, _ = mixed((6,), LABELS)
    partners = Draws(0, 0).partners("mixup.input.1.partners", 6)
    assert correction[2] == 0
    assert correction[(partners == 2).nonzero()] == 0
    assert math.isfinite(loss)
    assert int((correction != 0).sum()) >= 2


def test_ranks_mix_what_one_process_mixes(two_ranks) -> None:
    whole = mixed((6,), LABELS)
    for counts in ((3, 3), (6, 0), (0, 6), (1, 5)):
        parts = two_ranks(mixed, counts, LABELS)
        for number in (0, 1):
            found = torch.cat([part[number] for part in parts])
            assert torch.allclose(found, whole[number], atol=1e-12)
        for part in parts:
            assert part[2] == pytest.approx(whole[2], abs=1e-12)
            assert torch.allclose(part[3], whole[3], atol=1e-12)


def test_partners_are_others_each_once() -> None:
    for step in range(5):
        partners = Draws(0, step).partners("a", 7)
        assert sorted(partners.tolist()) == list(range(7))
        assert (partners != torch.arange(7)).all()
    assert Draws(0, 0).partners("a", 1).tolist() == [0]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 4.0])
def test_the_moments_of_the_beta_distribution(alpha) -> None:
    n, draws = 40_000, Draws(0, 0)
    m = symmetric_beta(
        torch.full((n,), alpha),
        draws.normal("normal", n, 2, TRIES),
        draws.uniform("uniform", n, 2, TRIES + 1),
    ).double()
    assert 0 <= float(m.min()) <= float(m.max()) <= 1
    assert float(m.mean()) == pytest.approx(0.5, abs=0.01)
    # the second and fourth central moments
    variance = 1 / (4 * (2 * alpha + 1))
    assert float(m.var()) == pytest.approx(variance, rel=0.03)
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert float((m - 0.5).pow(4).mean()) == pytest.approx(fourth, rel=0.04)


def test_a_strength_near_0_mixes_nothing() -> None:
    draws = Draws(0, 0)
    m = symmetric_beta(
        torch.tensor([0.0, 1e-30, 1e-6]).repeat(100),
        draws.normal("normal", 300, 2, TRIES),
        draws.uniform("uniform", 300, 2, TRIES + 1),
    )
    assert set(m.tolist()) == {0, 1}
