"""A copy of a compiled module computes with its own weights."""

from __future__ import annotations

import functools
from copy import deepcopy

import pytest
import torch
from lightning.pytorch.utilities.compile import from_compiled
from torch import nn

from framework.utilities.module_copy import copy_module
from tests.helpers.tiny import TinyModule

INPUTS = torch.ones(2, 5)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_forward(model: nn.Module) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def part_compiled(model: nn.Module) -> nn.Module:
    return nn.Sequential(compiled_forward(model))


def decorated(model: nn.Module) -> nn.Module:
    forward = model.forward
    model.forward = functools.wraps(forward)(lambda x: forward(x))
    return model


@pytest.mark.parametrize(
    "prepare",
    [compiled, compiled_in_place, compiled_forward, part_compiled, decorated],
    ids=lambda function: function.__name__,
)
def test_the_copy_has_a_forward_of_its_own(prepare):
    model = prepare(nn.Linear(5, 3))
    copied = copy_module(model)
    before = model(INPUTS)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(INPUTS).any()
    torch.testing.assert_close(model(INPUTS), before)


def test_a_training_module_that_lightning_compiled_is_copied_by_deepcopy():
    module = from_compiled(torch.compile(TinyModule(), backend="eager"))
    copied = deepcopy(module)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(INPUTS).any()
    assert module(INPUTS).any()
    assert copied._compiler_ctx is None
