"""The logits and predictions of every prefix of the features."""

import pytest
import torch

from framework.ops.prefix import prefix_logits, prefix_predictions


def test_the_example_of_the_spec() -> None:
    features = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    weight = torch.tensor([[1.0, 0], [0.5, -1], [0, 2], [1, 1]]).T
    logits = prefix_logits(features, weight)
    assert logits[:, 0].tolist() == [[1, 0], [2, -2], [2, -4], [2.5, -3.5]]
    assert torch.equal(logits[-1], features @ weight.T)


def test_every_prefix_equals_a_masked_head() -> None:
    features, weight = torch.randn(3, 7).double(), torch.randn(4, 7).double()
    logits = prefix_logits(features, weight)
    assert logits.shape == (7, 3, 4)
    for k in range(1, 8):
        torch.testing.assert_close(logits[k - 1], features[:, :k] @ weight[:, :k].T)


def test_gradcheck() -> None:
    features = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(prefix_logits, (features, weight))


@pytest.mark.parametrize("max_elements", [1, 50, 10**6])
def test_predictions_are_those_of_the_mean_logits_in_groups_of_any_size(max_elements: int) -> None:
    features = [torch.randn(9, 5) for _ in range(2)]
    weights = [torch.randn(4, 5) for _ in range(2)]
    logits = [prefix_logits(x, w) for x, w in zip(features, weights, strict=True)]
    mean = torch.stack(logits).mean(0)
    # a prediction of one network alone would be another
    assert (logits[0].argmax(-1) != mean.argmax(-1)).any()
    assert torch.equal(prefix_predictions(features, weights, max_elements), mean.argmax(-1))


def test_no_rows_give_no_predictions() -> None:
    assert prefix_predictions([torch.empty(0, 5)], [torch.randn(4, 5)]).shape == (5, 0)


def test_half_precision_is_summed_in_float32() -> None:
    # in bfloat16 256 + 1 is 256
    features = torch.ones(1, 300, dtype=torch.bfloat16)
    logits = prefix_logits(features, torch.ones(1, 300, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = prefix_logits(features, torch.ones(1, 300))
    for values in (logits, mixed):
        assert values.dtype == torch.float32
        assert float(values[-1]) == 300


def test_channels_must_agree() -> None:
    with pytest.raises(ValueError, match=r"features \(B, H\) and a weight \(K, H\)"):
        prefix_logits(torch.rand(2, 3), torch.rand(3, 4))
