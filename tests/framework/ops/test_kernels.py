import pytest
import torch

from framework.ops.kernels import (
    gaussian_gram,
    log_gaussian_gram,
    median_heuristic,
    squared_distances,
)


def rows(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("d", [1, 2, 40])
def test_distances_are_those_of_each_pair(d):
    a, b = rows(5, d), rows(7, d, seed=1)
    expected = (a[:, None] - b[None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(a, b), expected)
    torch.testing.assert_close(log_gaussian_gram(a, b, 0.7), expected / (-2 * 0.49))
    torch.testing.assert_close(gaussian_gram(a, b, 0.7), (expected / (-2 * 0.49)).exp())
    assert squared_distances(a[:0], b).shape == (0, 7)
    assert squared_distances(a, b[:0]).shape == (5, 0)


def test_far_from_the_origin_no_digits_are_lost():
    x = rows(20, 8)
    shifted = (x + 1000).float()
    found = gaussian_gram(shifted, shifted, 1.0)
    torch.testing.assert_close(found.double(), gaussian_gram(x, x, 1.0), atol=1e-3, rtol=0)
    assert (found <= 1).all()
    near = squared_distances(shifted, shifted.flip(0))
    assert (near >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = (10 * rows(6, 3)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gaussian_gram(x, x, 5.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gaussian_gram(x.float(), x.float(), 5.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("d", [1, 3])
def test_gradient(d):
    a, b = rows(3, d).requires_grad_(), rows(4, d, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: gaussian_gram(a, b, 0.8), (a, b))


def test_median_of_the_distances():
    x = rows(31, 3).requires_grad_()
    found = median_heuristic(x)
    torch.testing.assert_close(found, torch.nn.functional.pdist(x.detach()).median())
    assert not found.requires_grad
    assert median_heuristic(10 * x) == pytest.approx(10 * float(found))
    assert median_heuristic(torch.ones(5, 2)) == 1
    assert median_heuristic(torch.ones(1, 2)) == 1
    assert median_heuristic(torch.ones(0, 2)) == 1
    few = median_heuristic(x, max_rows=11)
    torch.testing.assert_close(few, torch.nn.functional.pdist(x[::3].detach()).median())
