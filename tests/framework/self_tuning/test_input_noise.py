"""Noise on the input: its distributions row by row, and the same numbers on any number of ranks."""

import pytest
import torch

from framework.distributed.collectives import rank
from framework.self_tuning import (
    ColorJitter,
    Cutout,
    Draws,
    GaussianNoise,
    InputDropout,
    ScaleNoise,
    TunedMixup,
)
from framework.self_tuning.effects.input_effect import InputEffect

EFFECTS = {
    "dropout": lambda: InputDropout(),
    "scale": lambda: ScaleNoise(),
    "gauss": lambda: GaussianNoise(),
    "color": lambda: ColorJitter(),
    "cutout": lambda: Cutout(),
    "mixup": lambda: TunedMixup(),
}


def changed(effect: InputEffect, x: torch.Tensor, **values: torch.Tensor) -> torch.Tensor:
    with effect.at(values, Draws(3, 1)):
        return effect.change_batch({effect.field: x})[effect.field]


def test_one_factor_a_row_within_its_range() -> None:
    u = torch.tensor([0.0, 0.1, 0.3]).repeat_interleave(2000)
    factors = changed(ScaleNoise("input"), torch.ones(6000, 3), amount=u)
    assert (factors == factors[:, :1]).all()
    for row, amount in enumerate((0.0, 0.1, 0.3)):
        part = factors[2000 * row : 2000 * (row + 1), 0]
        low, high = 1 / (1 + amount), 1 + amount
        assert float(part.min()) == pytest.approx(low, abs=1e-3)
        assert float(part.max()) == pytest.approx(high, abs=1e-3)
        assert float(part.mean()) == pytest.approx((low + high) / 2, abs=0.01)


def test_normal_noise_has_the_deviation_of_its_row() -> None:
    x = torch.full((3, 10_000), 2.0)
    y = changed(GaussianNoise("input"), x, std=torch.tensor([0.0, 0.5, 2.0]))
    assert torch.equal(y[0], x[0])
    assert y.std(1).tolist() == pytest.approx([0, 0.5, 2], rel=0.03)
    assert y.mean(1).tolist() == pytest.approx([2, 2, 2], abs=0.08)


def by_slices(name: str, slices: list[tuple[int, ...]], x: torch.Tensor) -> list[torch.Tensor]:
    """What a step sees of this rank's slice of ``x``, once for each division of the rows."""
    effect, found = EFFECTS[name](), []
    for counts in slices:
        values = {
            key: torch.linspace(*one.range if one.high is not None else (0.1, 2), 9)[1:-1]
            for key, one in effect.hyperparameters.items()
        }
        own = {key: value.floor() if effect.hyperparameters[key].discrete else value
               for key, value in values.items()}  # fmt: skip
        own = {key: value.split(counts)[rank()] for key, value in own.items()}
        found.append(changed(effect, x.split(counts)[rank()], **own))
    return found


SLICES = [(4, 3), (7, 0), (0, 7), (1, 6)]


@pytest.mark.parametrize("name", EFFECTS)
def test_ranks_see_what_one_process_sees(name, two_ranks) -> None:
    x = torch.rand(7, 3, 8, 8)
    whole = by_slices(name, [(7,)], x)[0]
    assert (whole != x).flatten(1).any(1).sum() >= 4
    parts = two_ranks(by_slices, name, SLICES, x)
    for step in range(len(SLICES)):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", EFFECTS)
def test_the_type_of_the_input_stays(name, dtype) -> None:
    effect = EFFECTS[name]()
    values = {
        key: one.constrained(torch.full((2,), one.unconstrained(one.init)))
        for key, one in effect.hyperparameters.items()
    }
    assert changed(effect, torch.rand(2, 3, 8, 8).to(dtype), **values).dtype == dtype


@pytest.mark.parametrize("name", EFFECTS)
def test_one_value_for_all_rows_is_that_value_for_each(name) -> None:
    effect, x = EFFECTS[name](), torch.rand(4, 3, 8, 8)
    values = {
        key: one.constrained(torch.tensor(one.unconstrained(one.init) + 1))
        for key, one in effect.hyperparameters.items()
    }
    each = {key: value.expand(4) for key, value in values.items()}
    assert torch.equal(changed(EFFECTS[name](), x, **values), changed(effect, x, **each))
