"""The error of a reconstruction, layer by layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.clustering.reconstruction import layerwise_reconstruction_error

SHAPES = [(3, 8, 8), (5, 4, 4), (7,)]


def layers(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, *shape, generator=generator, dtype=dtype) for shape in SHAPES]


def test_the_example_of_the_spec() -> None:
    targets = [torch.tensor([[1.0, -1.0, 0.5, 0.0]]), torch.tensor([[2.0, 0.0]])]
    decoded = [torch.tensor([[0.8, -0.7, 0.5, 0.2]]), torch.tensor([[1.0, 1.0]])]
    # .0425 of the input and 1 of the hidden layer
    for weight, expected in ((0.1, 0.1425), (1.0, 1.0425), (0.0, 0.0425)):
        error = layerwise_reconstruction_error(targets, decoded, hidden_weight=weight)
        assert error.tolist() == pytest.approx([expected], abs=1e-7)
    assert torch.equal(
        layerwise_reconstruction_error(targets, decoded),
        layerwise_reconstruction_error(targets, decoded, hidden_weight=1.0),
    )


def test_the_mean_over_the_batch_is_the_weighted_sum_of_mean_squared_errors() -> None:
    targets, decoded = layers(4, 0), layers(4, 1)
    error = layerwise_reconstruction_error(targets, decoded, hidden_weight=0.3)
    assert error.shape == (4,)
    mse = [torch.nn.functional.mse_loss(a, b) for a, b in zip(targets, decoded, strict=True)]
    torch.testing.assert_close(error.mean(), mse[0] + 0.3 * (mse[1] + mse[2]))
    # a row depends on no other
    alone = layerwise_reconstruction_error(
        [a[2:3] for a in targets], [b[2:3] for b in decoded], hidden_weight=0.3
    )
    torch.testing.assert_close(alone, error[2:3], rtol=1e-14, atol=0)


def test_layers_of_every_size_count_alike() -> None:
    for shape in SHAPES:
        targets = [torch.zeros(2, 4), torch.full((2, *shape), 3.0)]
        decoded = [torch.zeros(2, 4), torch.zeros(2, *shape)]
        assert layerwise_reconstruction_error(targets, decoded).tolist() == [9, 9]


def test_without_the_hidden_layers_it_is_the_plain_error() -> None:
    targets, decoded = layers(4, 0), layers(4, 1)
    plain = (targets[0] - decoded[0]).square().mean((1, 2, 3))
    for error in (
        layerwise_reconstruction_error(targets, decoded, hidden_weight=0.0),
        layerwise_reconstruction_error(targets[:1], decoded[:1]),
    ):
        torch.testing.assert_close(error, plain, rtol=1e-14, atol=0)


def test_a_perfect_reconstruction_costs_nothing() -> None:
    targets = layers(4, 0)
    assert layerwise_reconstruction_error(targets, targets).tolist() == [0, 0, 0, 0]


def test_gradients_reach_targets_and_reconstructions() -> None:
    targets = [layer.requires_grad_() for layer in layers(2, 0)]
    decoded = [layer.requires_grad_() for layer in layers(2, 1)]
    error = layerwise_reconstruction_error(targets, decoded, hidden_weight=0.1).sum()
    gradients = torch.autograd.grad(error, [*targets, *decoded])
    weights = (1.0, 0.1, 0.1)
    for i, weight in enumerate(weights):
        size = math.prod(SHAPES[i])
        expected = 2 * weight * (targets[i] - decoded[i]).detach() / size
        torch.testing.assert_close(gradients[i], expected)
        torch.testing.assert_close(gradients[len(weights) + i], -expected)


def test_no_rows_give_no_errors_and_a_gradient_path() -> None:
    decoded = [layer.requires_grad_() for layer in layers(0, 1)]
    error = layerwise_reconstruction_error(layers(0, 0), decoded)
    assert error.shape == (0,)
    error.sum().backward()


def test_an_infinite_error_is_infinite() -> None:
    error = layerwise_reconstruction_error([torch.full((1, 2), torch.inf)], [torch.zeros(1, 2)])
    assert error.tolist() == [torch.inf]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    targets, decoded = layers(3, 0, dtype), layers(3, 1, dtype)
    error = layerwise_reconstruction_error(targets, decoded)
    assert error.dtype == torch.float32
    exact = layerwise_reconstruction_error(
        [a.double() for a in targets], [b.double() for b in decoded]
    )
    torch.testing.assert_close(error.double(), exact, rtol=1e-6, atol=0)
    # the square of 300 is above the largest number of float16
    far = layerwise_reconstruction_error(
        [torch.full((1, 2), 300.0, dtype=dtype)], [torch.zeros(1, 2, dtype=dtype)]
    )
    assert far.tolist() == [90_000]


@pytest.mark.parametrize(
    ("targets", "decoded"),
    [
        ([(2, 4)], [(2, 5)]),
        ([(2, 4)], [(1, 4)]),
        ([(2, 4), (2, 3)], [(2, 4)]),
        ([(2, 4)], [(2, 4), (2, 3)]),
        ([], []),
    ],
)
def test_other_shapes_are_refused(targets: list, decoded: list) -> None:
    made = [[torch.zeros(shape) for shape in shapes] for shapes in (targets, decoded)]
    with pytest.raises(ValueError, match=r"Layers of shapes \[.*were reconstructed as \["):
        layerwise_reconstruction_error(*made)
