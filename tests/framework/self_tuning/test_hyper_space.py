"""The space of hyperparameters: entropy, perturbation, shared values, and float32 in any run."""

import math

import pytest
import torch
from torch import nn

from framework.self_tuning import HyperParameter, HyperSpace

RATE = HyperParameter(0.05, low=0.0, high=0.9)
DECAY = HyperParameter(0.05, low=0.0, shared=True)


def space(init_scale: float = 0.5) -> HyperSpace:
    return HyperSpace({"dropout.rate": RATE, "decay.weight": DECAY}, init_scale)


@pytest.mark.parametrize(("scale", "entropy"), [(0.5, 0.725791), (1.0, 1.418939)])
def test_the_entropy_of_one_hyperparameter(scale, entropy) -> None:
    one = HyperSpace({"rate": RATE}, scale)
    assert float(one.entropy()) == pytest.approx(entropy, abs=1e-6)
    assert float(space(scale).entropy()) == pytest.approx(2 * entropy, abs=2e-6)


def test_the_slope_of_the_entropy() -> None:
    s = space().raw_scales.double().requires_grad_()
    (slope,) = torch.autograd.grad(space().entropy(s), s)
    assert s.tolist() == pytest.approx([-0.432752] * 2, abs=1e-6)
    assert slope.tolist() == pytest.approx([0.786939] * 2, abs=1e-6)


def test_scales_stay_between_their_limits() -> None:
    s = torch.tensor([-100.0, 100.0])
    assert space().scales(s).tolist() == pytest.approx([1e-3, 5.0])
    for bad in (0.0, 6.0):
        with pytest.raises(ValueError, match="init_scale must lie in"):
            space(bad)


def test_a_perturbation_reaches_both_h_and_s() -> None:
    one = space()
    noise = torch.tensor([[1.0, -1.0], [0.5, -1.0]])
    h, s = one.raw.clone().requires_grad_(), one.raw_scales.clone().requires_grad_()
    perturbed = one.perturbed(noise, h, s)
    assert torch.allclose(perturbed, one.raw + 0.5 * noise)
    gradients = torch.autograd.grad(perturbed.sum(), (h, s))
    assert gradients[0].tolist() == [2, 2]
    # softplus'(s) at 0.5 is 1 - exp(-0.5)
    expected = [(1 - math.exp(-0.5)) * total for total in (1.5, -2.0)]
    assert gradients[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_values_of_rows_of_shared_ones_and_of_no_rows() -> None:
    one = space()
    h = torch.tensor([[0.0, 0.0], [1.0, 7.0]])
    values = one.values(h)
    assert values["dropout.rate"].tolist() == pytest.approx([0.45, 0.9 / (1 + math.exp(-1))])
    assert values["decay.weight"].tolist() == pytest.approx(math.log(2))
    alone = one.values(h[1])
    assert {value.ndim for value in alone.values()} == {0}
    assert float(alone["decay.weight"]) == pytest.approx(math.log(1 + math.exp(7)))
    nothing = one.values(h[:0])
    assert nothing["dropout.rate"].shape == (0,)
    assert float(nothing["decay.weight"]) == pytest.approx(0.05, abs=1e-6)
    given = one.values(h[:0], shared=h[0])
    assert float(given["decay.weight"]) == pytest.approx(math.log(2))


def test_a_scale_at_its_limit_can_come_back() -> None:
    one = space()
    one.raw_scales.copy_(torch.tensor([-100.0, 100.0]))
    one.clamp_scales()
    assert one.scales().tolist() == pytest.approx([1e-3, 5.0], rel=1e-5)
    raw_scales = one.raw_scales.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(one.scales(raw_scales).sum(), raw_scales)
    assert gradient.tolist() == pytest.approx([1e-3, 1.0], rel=1e-2)


def test_no_precision_and_no_optimizer_changes_its_numbers() -> None:
    module = nn.ModuleDict({"space": space(), "layer": nn.Linear(2, 2)})
    raw = module["space"].raw.clone()
    for cast in (module.half, module.double, module.bfloat16, lambda: module.to(torch.float64)):
        cast()
        assert module["space"].raw.dtype == module["space"].raw_scales.dtype == torch.float32
        assert torch.equal(module["space"].raw, raw)
    assert list(module["space"].parameters()) == []
    assert list(space().state_dict()) == ["raw", "raw_scales"]
    torch.set_default_dtype(torch.float64)
    try:
        assert space().raw.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_names_and_columns() -> None:
    one = space()
    assert one.size == 2
    assert one.columns == {"dropout.rate": 0, "decay.weight": 1}
    assert one.is_shared.tolist() == [False, True]
    assert str(one) == "HyperSpace(dropout.rate, decay.weight)"
    with pytest.raises(ValueError, match="no hyperparameter to tune"):
        HyperSpace({})
