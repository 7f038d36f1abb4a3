"""Pruning: the paper's example, the optimum of quadratic losses, masks, schedules."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from framework.optim import EmpiricalFisherInverse
from framework.pruning import WeightPruner, cubic_sparsity, remove_weights, saliencies

G = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])


def fisher_of(gradients: torch.Tensor, damping: float, **options) -> EmpiricalFisherInverse:
    fisher = EmpiricalFisherInverse(*gradients.shape, damping, **options)
    for g in gradients:
        fisher.push(g)
    return fisher


def problem(seed: int = 0, size: int = 30) -> tuple[nn.Parameter, nn.Parameter, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(4, 5, generator=generator), torch.randn(10, generator=generator)
    gradients = torch.randn(size, 30, generator=generator)
    return nn.Parameter(first), nn.Parameter(second), gradients


def stream(gradients: torch.Tensor):
    return lambda: ((g[:20].view(4, 5), g[20:]) for g in gradients)


def test_example_of_the_paper():
    fisher, weights = fisher_of(G, 0.1), torch.tensor([0.5, -0.2, 0.1])
    assert saliencies(weights, fisher).tolist() == pytest.approx(
        [0.017748, 0.006643, 0.002583], abs=1e-6
    )
    moved, leaving = remove_weights(weights, fisher, 1)
    assert moved.tolist() == pytest.approx([0.666667, -0.283333, 0], abs=1e-6)
    assert leaving.tolist() == [False, False, True]
    assert weights.tolist() == pytest.approx([0.5, -0.2, 0.1])


def test_one_removal_is_the_best_one_of_a_quadratic_loss():
    """The loss (w - v)^T F (w - v) / 2 with one weight at 0, minimized over the others."""
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, generator=generator, dtype=torch.float64)
    matrix = 0.1 * torch.eye(6, dtype=torch.float64) + gradients.T @ gradients / 8
    losses, solutions = [], []
    for p in range(6):
        others = [i for i in range(6) if i != p]
        change = torch.zeros(6, dtype=torch.float64)
        change[p] = -weights[p]
        change[others] = torch.linalg.solve(
            matrix[others][:, others], -matrix[others, p] * change[p]
        )
        losses.append(float(change @ matrix @ change / 2))
        solutions.append(weights + change)
    fisher = fisher_of(gradients, 0.1, storage_dtype=torch.float64)
    assert saliencies(weights, fisher).tolist() == pytest.approx(losses, rel=1e-9)
    moved, leaving = remove_weights(weights, fisher, 1)
    best = min(range(6), key=losses.__getitem__)
    assert leaving[best]
    assert torch.allclose(moved, solutions[best], atol=1e-9)


@pytest.mark.parametrize("method", ["mfac", "magnitude"])
@pytest.mark.parametrize("block_size", [4, None])
def test_removed_weights_are_zero_and_stay_removed(method, block_size):
    first, second, gradients = problem()
    pruner = WeightPruner({"a": first, "b": second}, method, 12, block_size, 1e-3, 3)
    removed = torch.zeros(30, dtype=torch.bool)
    for sparsity, zeros in ((0.0, 0), (0.5, 15), (0.5, 15), (0.3, 15), (0.9, 27)):
        pruner.prune_to(sparsity, stream(gradients))
        values = torch.cat([first.flatten(), second])
        assert int((values == 0).sum()) == pruner.removed == zeros
        assert torch.equal(values == 0, ~torch.cat([m.flatten() for m in pruner.masks.values()]))
        assert (values == 0)[removed].all()
        removed = values == 0
    assert pruner.sparsity == pytest.approx(0.9)


def test_magnitude_keeps_the_largest_as_they_are():
    first, second, _ = problem()
    before = torch.cat([first.detach().flatten(), second.detach()])
    WeightPruner({"a": first, "b": second}, "magnitude").prune_to(0.6)
    after = torch.cat([first.detach().flatten(), second.detach()])
    largest = before.abs().topk(12).indices
    assert torch.equal(after[largest], before[largest])
    assert int((after != 0).sum()) == 12


def test_every_round_takes_new_gradients_and_exactly_m():
    first, second, gradients = problem(size=100)
    taken = []

    def stream_of_all():
        taken.append(0)
        for g in gradients:
            taken[-1] += 1
            yield g[:20].view(4, 5), g[20:]

    WeightPruner({"a": first, "b": second}, ngrads=7, recomputations=4).prune_to(0.8, stream_of_all)
    assert taken == [7, 7, 7, 7]


def test_too_few_gradients():
    first, second, gradients = problem(size=9)
    gradients[3, 25] = torch.nan
    pruner = WeightPruner({"a": first, "b": second}, ngrads=9)
    before = first.detach().clone()
    with pytest.raises(ValueError, match="needs 9 finite gradients, got 8"):
        pruner.prune_to(0.5, stream(gradients))
    with pytest.raises(ValueError, match="mfac needs gradients"):
        pruner.prune_to(0.5)
    assert torch.equal(first, before)


def test_gradients_that_never_are_finite_end_it():
    first, second, gradients = problem()
    pruner = WeightPruner({"a": first, "b": second}, ngrads=9)
    endless = itertools.cycle(stream(gradients * torch.nan)())
    with pytest.raises(ValueError, match="got 0 and 9 that are not"):
        pruner.prune_to(0.5, lambda: endless)


def test_nothing_is_left_to_remove():
    weight = nn.Parameter(torch.ones(4))
    pruner = WeightPruner({"a": weight}, "magnitude")
    for _ in range(2):
        pruner.prune_to(0.99)
        assert pruner.sparsity == 1


def test_momentum_moves_no_removed_weight():
    first, second, gradients = problem()
    optimizer = torch.optim.SGD([first, second], lr=0.1, momentum=0.9, weight_decay=0.1)
    pruner = WeightPruner({"a": first, "b": second}, "magnitude")
    for step in range(4):
        first.grad, second.grad = gradients[step, :20].view(4, 5).clone(), gradients[step, 20:]
        pruner.mask_gradients()
        assert (first.grad[~pruner.masks["a"]] == 0).all()
        optimizer.step()
        pruner.apply_masks()
        if step == 1:
            pruner.prune_to(0.5)
    assert int((first == 0).sum() + (second == 0).sum()) == 15


def test_masks_are_saved_and_loaded():
    first, second, _ = problem()
    pruner = WeightPruner({"a": first, "b": second}, "magnitude")
    pruner.prune_to(0.5)
    state = {name: mask.clone() for name, mask in pruner.state_dict().items()}
    other = WeightPruner({"a": first, "b": second})
    other.load_state_dict(state)
    assert other.removed == 15
    with pytest.raises(ValueError, match="The masks are of"):
        WeightPruner({"a": first}).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "random"}, "method must be one of"),
        ({"ngrads": 0}, "ngrads must be at least 1"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"damping": 0.0}, "damping must be"),
        ({"recomputations": 0}, "recomputations must be at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        WeightPruner({"a": torch.ones(3)}, **options)


def test_bad_sparsity_and_no_weights():
    with pytest.raises(ValueError, match="sparsity must lie in"):
        WeightPruner({"a": torch.ones(3)}).prune_to(1.0)
    with pytest.raises(ValueError, match="no weight"):
        WeightPruner({})


def test_schedule():
    values = [cubic_sparsity(e, start=2, end=6, sparsity=0.9, initial=0.1) for e in range(9)]
    assert values[:3] == pytest.approx([0, 0, 0.1])
    assert values[4] == pytest.approx(0.8)  # half way: 0.9 - 0.8 / 8
    assert values[6:] == [0.9] * 3
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert cubic_sparsity(3, start=3, end=3, sparsity=0.5, initial=0.2) == 0.5
    with pytest.raises(ValueError, match="end must be at least start"):
        cubic_sparsity(0, start=2, end=1, sparsity=0.5)
    with pytest.raises(ValueError, match="sparsity must lie in"):
        cubic_sparsity(0, start=0, end=1, sparsity=1.0)
