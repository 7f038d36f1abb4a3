"""The term against averaged weights, in a loop of one's own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from framework.losses.averaged_model import AveragedModelLoss
from framework.losses.trajectory import trajectory_divergence
from framework.objectives.errors import IncompatibleError

INPUTS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
        ).double()


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return model


def test_the_average_follows_the_weights():
    model = network()
    loss = AveragedModelLoss(model, decay=0.6, warmup=False)
    before = deepcopy(model)
    loss.update(moved(model))
    for mine, first, latest in zip(
        loss.average.parameters(), before.parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, 0.6 * first + 0.4 * latest)


def test_buffers_that_are_not_averaged_are_copied():
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    loss = AveragedModelLoss(model, decay=0.6, buffers="copy")
    model[1].running_mean += 2
    loss.update(model)
    for mine, latest in zip(loss.average.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, latest)


def test_the_warm_up_starts_at_two_elevenths():
    model = network()
    loss = AveragedModelLoss(model)
    first = model[0].weight.detach().clone()
    loss.update(moved(model))
    expected = 2 / 11 * first + 9 / 11 * model[0].weight
    torch.testing.assert_close(loss.average[0].weight, expected.detach())


def test_the_term_is_the_divergence_from_the_average_in_evaluation_mode():
    model = network()
    loss = AveragedModelLoss(model, decay=0.6, start_epoch=0).train()
    loss.update(moved(model))
    logits = model(INPUTS)
    past = deepcopy(loss.average).eval()(INPUTS)
    expected = 0.8 * trajectory_divergence(logits, past, 5.0).mean()
    torch.testing.assert_close(loss(INPUTS, logits, epoch=1), expected)
    torch.testing.assert_close(loss((INPUTS,), logits, epoch=1), expected)
    assert loss(INPUTS, logits, epoch=0) == 0
    assert loss.eval()(INPUTS, logits, epoch=1) == 0


def test_no_gradient_reaches_the_average():
    model = network()
    loss = AveragedModelLoss(model, start_epoch=0)
    loss.update(moved(model))
    loss(INPUTS, model(INPUTS), epoch=1).backward()
    assert all(parameter.grad is None for parameter in loss.average.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_average_is_in_the_state():
    model = network()
    loss, again = AveragedModelLoss(model, decay=0.9), AveragedModelLoss(network(2), decay=0.9)
    for _ in range(3):
        loss.update(moved(model))
    again.load_state_dict(loss.state_dict())
    moved(model)
    for term in (loss, again):
        term.update(model)
    assert again.updates == 4
    for mine, theirs in zip(loss.average.buffers(), again.average.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(loss.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_other_outputs_than_logits():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, inputs):
            return {"logits": self.network(inputs)}

    model = Wrapped()
    loss = AveragedModelLoss(model, start_epoch=0, logits_of=lambda output: output["logits"])
    loss.update(moved(model))
    assert loss(INPUTS, model(INPUTS)["logits"], epoch=1) > 0


def test_weights_too_coarse_for_the_average_are_refused():
    with pytest.raises(IncompatibleError, match=r"bfloat16 are too coarse .* decay=0\.9995"):
        AveragedModelLoss(network().bfloat16())


@pytest.mark.parametrize(
    "other", [nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))]
)
def test_the_weights_of_another_model_are_refused(other):
    term = AveragedModelLoss(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="update takes the model that the average was made from"):
        term.update(other)
    assert term.updates == 0


def test_an_epoch_that_is_no_integer_is_refused():
    term = AveragedModelLoss(nn.Linear(4, 3), start_epoch=-1)
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0"):
        term(torch.zeros(2, 4), torch.zeros(2, 3), epoch=0.5)


def test_a_buffer_that_holds_an_infinity_is_copied_where_others_are_averaged():
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    loss = AveragedModelLoss(model, decay=0.6, warmup=False)
    model[1].running_mean += 2
    loss.update(model)
    assert loss.average.mask.tolist() == [0.0, -torch.inf]
    torch.testing.assert_close(loss.average[1].running_mean, model[1].running_mean - 0.6 * 2)
