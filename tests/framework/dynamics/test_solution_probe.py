"""Measures of a solution: by hand, their limits, on two ranks, and nothing left changed."""

from contextlib import suppress

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from framework.dynamics import (
    LayerFeatures,
    curve_area,
    logit_margins,
    loss_ascent,
    margin_quantiles,
    measure_solution,
    pruned_by_magnitude,
    pruning_curve,
    sparsity,
    weight_norms,
    weights_of,
)
from framework.metrics import ClassMeanCosine, EffectiveRank, StableRank
from framework.metrics.stable_rank import energy_rank_of


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()


def rows(part=slice(None)):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (12,), generator=generator)
    y[5] = -100
    return [((x[part][:7],), y[part][:7]), ((x[part][7:],), y[part][7:])]


def test_sparsity_is_of_each_tensor():
    small = 1e-6 * torch.tensor([[1.0, 1.0], [1.0, 1e-9]])
    assert float(sparsity([torch.ones(2, 2), small])) == 1 / 8
    assert float(sparsity([torch.zeros(3, 2), torch.ones(2, 1)])) == 6 / 8
    normal = torch.randn(200, 500, generator=torch.Generator().manual_seed(0))
    assert float(sparsity([normal])) == pytest.approx(0.00798, abs=1e-3)


def test_norms_are_of_all_parameters():
    length, largest = weight_norms([torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])])
    assert (float(length), float(largest)) == (5, 4)


def test_the_smallest_weights_of_all_tensors_are_pruned_and_put_back():
    weights = [torch.tensor([[1.0, -2.0], [0.1, 5.0]]), torch.tensor([[-0.5, 3.0, 4.0, -6.0]])]
    before = [w.clone() for w in weights]
    with pruned_by_magnitude(weights, 0.5):
        assert weights[0].tolist() == [[0, 0], [0, 5]]
        assert weights[1].tolist() == [[0, 3, 4, -6]]
    with suppress(KeyError), pruned_by_magnitude(weights, 1.0):
        assert not weights[0].any()
        raise KeyError
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    with pruned_by_magnitude([equal := torch.ones(2, 5)], 0.3):
        assert int(equal.sum()) == 7


def test_the_area_under_the_pruning_curve():
    weights = [torch.tensor([[4.0, 3.0, 2.0, 1.0]])]
    curve = pruning_curve(weights, lambda: (weights[0] != 0).double().mean(), (0.25, 0.5))
    assert {k: float(v) for k, v in curve.items()} == {0.0: 1.0, 0.25: 0.75, 0.5: 0.5}
    assert float(curve_area(curve)) == 0.75


def test_margins_are_the_lead_of_the_right_class():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]])
    assert logit_margins(logits, torch.tensor([0, 0])).tolist() == [2, -5]
    found = margin_quantiles(torch.arange(101.0))
    assert {k: float(v) for k, v in found.items()} == {0.05: 5, 0.5: 50, 0.95: 95}
    assert margin_quantiles(torch.zeros(0))[0.5].isnan()


def test_the_loss_rises_by_a_step_along_its_gradient():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    w.grad = torch.ones(2)
    before = w.detach().clone()
    rise = loss_ascent(lambda: [0.25 * (w**2).sum() for _ in range(2)], [w], rho=0.1)
    assert float(rise) == pytest.approx(5 * 0.1 + 0.1**2 / 2, rel=1e-5)
    assert torch.equal(w, before)
    assert torch.equal(w.grad, torch.ones(2))
    assert float(loss_ascent(lambda: [0 * w.sum()], [w])) == 0
    with pytest.raises(ValueError, match="rho must be"):
        loss_ascent(lambda: [], [w], rho=0.0)


def by_hand():
    """Return some of the measures from all rows at once."""
    network = model().eval()
    x = torch.cat([inputs[0] for inputs, _ in rows()])
    y = torch.cat([label for _, label in rows()])
    x, y = x[y >= 0], y[y >= 0]
    loss = F.cross_entropy(network(x), y)
    parameters = list(network.parameters())
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    hessian = torch.stack(
        [
            torch.cat([h.flatten() for h in torch.autograd.grad(g, parameters, retain_graph=True)])
            for g in flat
        ]
    )
    return {
        "accuracy": float((network(x).argmax(1) == y).double().mean()),
        "lambda_max": float(torch.linalg.eigvalsh(hessian)[-1]),
        "margin_50": float(logit_margins(network(x).detach().float(), y).quantile(0.5)),
    }


def check(found):
    for name, value in by_hand().items():
        assert float(found[name]) == pytest.approx(
            value, rel=2e-3 if name == "lambda_max" else 1e-5
        )


def test_all_measures_of_a_model_and_its_weights_are_as_before():
    network = model()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    found = measure_solution(network, rows())
    check(found)
    assert list(found)[:4] == ["sparsity", "norm_l2", "norm_max", "accuracy"]
    assert 0 <= float(found["pruned_98"]) <= 1
    assert float(found["ascent"]) > 0
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(layer.training for layer in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_groups_are_chosen():
    found = measure_solution(model(), rows(), ["sparsity", "norms"])
    assert sorted(found) == ["norm_l2", "norm_max", "sparsity"]
    with pytest.raises(ValueError, match="metrics must be one of"):
        measure_solution(model(), rows(), ["ranks"])
    with pytest.raises(ValueError, match="'pruning' is measured on batches, of which none"):
        measure_solution(model())
    assert [tuple(w.shape) for w in weights_of(model())] == [(5, 4), (3, 5)]


def features():
    z = torch.randn(12, 6, generator=torch.Generator().manual_seed(2)) + 1
    return z, torch.tensor([*[0, 1, 2, 3] * 2, 0, -100, 2, 3])


def of_layer(parts):
    z, label = features()
    layer = LayerFeatures()
    for part in parts:
        layer.add(z[part], label[part])
    return layer.compute()


def test_features_of_a_layer_are_those_of_the_metrics():
    z, label = features()
    metrics = {
        "effective_rank": EffectiveRank(6),
        "stable_rank": StableRank(6),
        "class_cosine": ClassMeanCosine(4, 6),
    }
    found = of_layer([slice(5), slice(5, 5), slice(5, 12)])
    for name, metric in metrics.items():
        metric.update(*((z, label) if name == "class_cosine" else (z,)))
        assert float(found[name]) == pytest.approx(float(metric.compute()), rel=1e-6)
    assert float(found["energy_rank"]) == float(energy_rank_of(torch.linalg.svdvals(z - z.mean(0))))


def test_positions_are_averaged_and_labels_may_be_missing():
    z, _ = features()
    expected = of_layer([slice(0, 12)])
    shift = torch.tensor([-1.0, 1.0])
    image = z[:, :, None, None] + shift[:, None] * torch.ones(3)
    for shaped in (image, (z[:, None] + shift[:, None])):
        layer = LayerFeatures()
        layer.add(shaped)
        found = layer.compute()
        assert float(found["stable_rank"]) == pytest.approx(
            float(expected["stable_rank"]), rel=1e-5
        )
        assert "class_cosine" not in found
    assert LayerFeatures().compute() == {}


def on_a_rank(split):
    part = slice(split) if dist.get_rank() == 0 else slice(split, 12)
    x, y = (torch.cat([r[k][0] if k == 0 else r[k] for r in rows()]) for k in (0, 1))
    found = measure_solution(model(), [((x[part],), y[part])] if part.start != part.stop else [])
    return found | of_layer([part] if part.start != part.stop else [])


@pytest.mark.parametrize("split", [5, 12])
def test_two_ranks_are_one(split, two_ranks):
    one = measure_solution(model(), rows()) | of_layer([slice(0, 12)])
    for found in two_ranks(on_a_rank, split):
        check(found)
        for name, value in found.items():
            assert float(value) == pytest.approx(float(one[name]), rel=1e-5), name
