"""Nested dropout: its distribution, what it cuts, and that ranks and restarts draw the same k."""

import io

import pytest
import torch
from torch import nn

from framework.layers import NestedDropout


def drawn(layer: NestedDropout, times: int) -> list[int]:
    ones = torch.ones(1, layer.dim)
    return [int(layer(ones).sum()) for _ in range(times)]


def kept(layer: NestedDropout) -> list[float]:
    """The probability P(k >= j) that channel j = 1, ..., H is kept."""
    return layer.probabilities.flip(0).cumsum(0).flip(0).tolist()


def test_the_distribution_is_that_of_the_spec() -> None:
    layer = NestedDropout(512, sigma=10)
    p = layer.probabilities
    assert p[:3].tolist() == pytest.approx([0.118395, 0.114896, 0.109292], abs=1e-6)
    assert float(p @ torch.arange(1.0, 513, dtype=p.dtype)) == pytest.approx(5.969263, abs=1e-6)
    assert float(p[:10].sum()) == pytest.approx(0.854558, abs=1e-6)
    p = NestedDropout(512, sigma=100).probabilities
    assert float(p @ torch.arange(1.0, 513, dtype=p.dtype)) == pytest.approx(56.738129, abs=1e-6)
    assert float(p[:100].sum()) == pytest.approx(0.843889, abs=1e-6)
    layer = NestedDropout(4, sigma=2)
    expected = [0.613038, 0.289579, 0.082966, 0.014417]
    assert layer.probabilities.tolist() == pytest.approx(expected, abs=1e-6)
    assert kept(layer) == pytest.approx([1, 0.386962, 0.097383, 0.014417], abs=1e-6)


def test_mu_moves_the_mode_and_a_tiny_sigma_stays_finite() -> None:
    assert int(NestedDropout(9, sigma=2, mu=5).probabilities.argmax()) + 1 == 5
    assert NestedDropout(4, sigma=1e-3).probabilities.tolist() == [1, 0, 0, 0]


def test_a_large_sigma_makes_every_k_as_likely() -> None:
    p = NestedDropout(8, sigma=1e9).probabilities
    torch.testing.assert_close(p, torch.full_like(p, 1 / 8))


def test_k_is_drawn_from_the_distribution() -> None:
    layer = NestedDropout(4, sigma=2)
    counts = torch.tensor(drawn(layer, 4000)).bincount(minlength=5)[1:]
    # 4 standard deviations
    margin = 4 * (layer.probabilities * (1 - layer.probabilities) / 4000).sqrt()
    assert ((counts / 4000 - layer.probabilities).abs() < margin).all()


def test_one_k_cuts_all_rows_and_nothing_is_rescaled() -> None:
    layer = NestedDropout(16, sigma=5)
    x = torch.rand(3, 2, 16, requires_grad=True)
    y = layer(x)
    k = int((y[0, 0] != 0).sum())
    assert 0 < k < 16
    assert torch.equal(y, torch.where(torch.arange(16) < k, x, 0))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, (torch.arange(16) < k).float().expand_as(x))


def test_a_dropped_infinity_is_a_zero() -> None:
    layer = NestedDropout(2, sigma=1, eval_k=1).eval()
    assert layer(torch.tensor([[1.0, torch.inf]])).tolist() == [[1, 0]]


def test_evaluation_uses_eval_k_and_draws_nothing() -> None:
    layer = NestedDropout(4, sigma=2).eval()
    x = torch.rand(2, 4)
    assert torch.equal(layer(x), x)
    layer.eval_k = 3
    assert torch.equal(layer(x), x * torch.tensor([1, 1, 1, 0]))
    assert layer.count == 0


def test_gradients_reach_all_of_the_head_even_where_nothing_is_kept() -> None:
    head = nn.Linear(8, 3, bias=False)
    head(NestedDropout(8, sigma=0.1)(torch.rand(5, 8))).sum().backward()
    assert (head.weight.grad[:, 1:] == 0).all()
    assert (head.weight.grad[:, 0] != 0).all()


def test_gradcheck() -> None:
    layer = NestedDropout(5, sigma=2, eval_k=3).eval()
    x = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_an_empty_batch_counts_as_a_forward() -> None:
    layer = NestedDropout(4, sigma=2)
    assert layer(torch.empty(0, 4)).shape == (0, 4)
    assert layer.count == 1


def test_the_same_stream_draws_the_same_k_and_another_does_not() -> None:
    first, second = NestedDropout(64, sigma=30), NestedDropout(64, sigma=30)
    other = NestedDropout(64, sigma=30, stream="other")
    ks = drawn(first, 8)
    assert drawn(second, 8) == ks
    assert drawn(other, 8) != ks


def test_the_global_generator_and_its_seed_do_not_matter_but_the_runs_seed_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    ks = drawn(NestedDropout(64, sigma=30), 8)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert drawn(NestedDropout(64, sigma=30), 8) == ks
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert drawn(NestedDropout(64, sigma=30), 8) != ks


def test_a_restored_layer_goes_on_with_the_next_k() -> None:
    layer = NestedDropout(64, sigma=30, eval_k=7)
    drawn(layer, 3)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    restored = NestedDropout(64, sigma=30)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.eval_k == 7
    assert drawn(restored, 5) == drawn(layer, 5)


def draw_on_this_rank() -> list[int]:
    return drawn(NestedDropout(64, sigma=30), 8)


def test_ranks_draw_what_one_process_draws(two_ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    here = draw_on_this_rank()
    assert two_ranks(draw_with_seed_0) == [here, here]


def draw_with_seed_0() -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        return draw_on_this_rank()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dim": 0, "sigma": 1}, "dim must be at least 1"),
        ({"dim": 4, "sigma": 0}, "sigma must be positive"),
        ({"dim": 4, "sigma": float("inf")}, "sigma must be finite and positive"),
        ({"dim": 4, "sigma": 1, "mu": float("nan")}, "mu must lie in"),
        ({"dim": 4, "sigma": 1, "eval_k": 0}, r"eval_k must lie in \[1, 4\]"),
        ({"dim": 4, "sigma": 1, "eval_k": 5}, r"eval_k must lie in \[1, 4\]"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NestedDropout(**arguments)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="built for 4 channels, got 5"):
        NestedDropout(4, sigma=1)(torch.rand(2, 5))
