"""Accuracy under attack, in a loop of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.attacks.pgd import PGDAttack
from framework.metrics.accuracy_under_attack import correct_under_attack, robust_accuracy

# the margin between the two classes is 0.8, 0.1 and -0.8
IMAGES = torch.tensor([[0.9, 0.1], [0.55, 0.45], [0.1, 0.9]])
LABELS = torch.tensor([0, 0, 0])


@pytest.mark.parametrize(("eps", "right"), [(0.0, 2), (0.04, 2), (0.06, 1), (0.5, 0)])
def test_a_row_is_lost_where_the_attack_reaches_over_half_its_margin(eps, right):
    attack = PGDAttack(eps=eps, steps=10)
    correct = correct_under_attack(nn.Identity(), IMAGES, LABELS, attack)
    assert correct.tolist() == [right > 0, right > 1, False]
    assert robust_accuracy(nn.Identity(), IMAGES, LABELS, attack) == pytest.approx(right / 3)


def test_the_model_is_attacked_in_evaluation_mode_and_left_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack = PGDAttack(eps=0.1, steps=3)
    with torch.inference_mode():
        first = correct_under_attack(model, IMAGES, LABELS, attack)
    assert torch.equal(first, correct_under_attack(model, IMAGES, LABELS, attack))
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rows_to_be_ignored_do_not_count():
    attack, labels = PGDAttack(eps=0.04, steps=10), torch.tensor([0, -100, 0])
    assert correct_under_attack(nn.Identity(), IMAGES, labels, attack).tolist() == [1, 0, 0]
    assert robust_accuracy(nn.Identity(), IMAGES, labels, attack) == 0.5


def test_no_rows_are_no_accuracy():
    attack = PGDAttack(eps=0.1, steps=3)
    assert len(correct_under_attack(nn.Identity(), IMAGES[:0], LABELS[:0], attack)) == 0
    assert robust_accuracy(nn.Identity(), IMAGES[:0], LABELS[:0], attack).isnan()


def test_other_outputs_than_logits_are_refused():
    with pytest.raises(ValueError, match=r"needs logits \(B, C\), got \(3,\)"):
        correct_under_attack(lambda x: x.sum(1), IMAGES, LABELS, PGDAttack(eps=0.1, steps=1))
