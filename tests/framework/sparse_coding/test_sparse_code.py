"""Sparse products equal dense ones, and so do their gradients."""

import pytest
import torch
from torch import Tensor

from framework.sparse_coding.sparse_code import SparseCode, SparsePattern, decode, encode_at
from framework.sparse_coding.topk import top_overall

F64 = torch.float64


def parts(tokens: int = 7, d: int = 5, features: int = 11) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, d), (features, d), (features,), (features, d)]
    return [torch.randn(shape, dtype=F64, generator=generator).requires_grad_() for shape in shapes]


def sparse(x: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, k: int) -> Tensor:
    pre_acts = torch.nn.functional.linear(x, encoder, bias).detach()
    positions = top_overall(pre_acts, k)
    return decode(encode_at(x, encoder, bias, pre_acts, positions), decoder)


def dense(x: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, k: int) -> Tensor:
    pre_acts = torch.nn.functional.linear(x, encoder, bias)
    mask = torch.zeros(pre_acts.numel(), dtype=torch.bool)
    mask[top_overall(pre_acts, k)] = True
    return (mask.view_as(pre_acts) * pre_acts.relu()) @ decoder


@pytest.mark.parametrize("k", [0, 1, 20, 77])
def test_values_and_gradients_are_those_of_the_masked_matrix(k: int) -> None:
    weights = parts()
    one, other = sparse(*weights, k), dense(*weights, k)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    pull = torch.randn_like(one)
    gradients = [torch.autograd.grad(out, weights, pull) for out in (one, other)]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_gradcheck() -> None:
    x, encoder, bias, decoder = parts(3, 2, 4)
    positions = torch.tensor([0, 2, 5, 6, 9])
    pre_acts = torch.nn.functional.linear(x, encoder, bias).detach()

    def run(x: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor) -> Tensor:
        pre = torch.nn.functional.linear(x, encoder, bias).detach()
        kept = positions[pre_acts.flatten()[positions] > 0.05]
        return decode(encode_at(x, encoder, bias, pre, kept), decoder)

    assert torch.autograd.gradcheck(run, (x, encoder, bias, decoder))


@pytest.mark.parametrize("tokens", [0, 3])
def test_an_empty_code_has_gradients_of_zero(tokens: int) -> None:
    x, encoder, bias, decoder = parts(tokens)
    out = sparse(x, encoder, bias - 100, decoder, 5 * tokens)
    assert out.shape == (tokens, 5)
    assert not out.any()
    for gradient in torch.autograd.grad(out.sum(), (encoder, bias, decoder)):
        assert not gradient.any()


def test_the_encoder_is_not_differentiated_for_what_does_not_ask() -> None:
    x, encoder, bias, decoder = parts()
    out = sparse(x.detach(), encoder, bias.detach(), decoder, 20)
    out.sum().backward()
    assert x.grad is None
    assert bias.grad is None
    assert encoder.grad is not None


def test_counts_bounds_and_groups() -> None:
    pattern = SparsePattern(torch.tensor([0, 2, 2, 3]), torch.tensor([3, 0, 3, 1]), (4, 5))
    code = SparseCode(torch.tensor([1.0, 2.0, 3.0, 0.0]), pattern)
    assert code.per_row().tolist() == [1, 0, 2, 0]
    assert code.per_feature().tolist() == [1, 0, 0, 2, 0]
    assert [part.tolist() for part in code.entries()] == [[1, 2, 3], [0, 2, 2], [3, 0, 3]]
    assert pattern.row_bounds.tolist() == [0, 1, 1, 3, 4]
    assert pattern.by_feature[2].tolist() == [0, 1, 2, 2, 4, 4]
    dense = code.dense()
    assert dense[2].tolist() == [2, 0, 0, 3, 0]
    first, second = code.by_group([3, 5]).dense().view(2, 4, 5)
    assert torch.equal(first[:, :3], dense[:, :3])
    assert torch.equal(second[:, 3:], dense[:, 3:])
    assert not first[:, 3:].any()
    assert not second[:, :3].any()


def test_the_same_bits_every_time() -> None:
    weights = [p.detach().float().requires_grad_() for p in parts(200, 16, 64)]
    runs = []
    for _ in range(3):
        out = sparse(*weights, 2000)
        runs.append([out, *torch.autograd.grad(out.square().sum(), weights)])
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)
