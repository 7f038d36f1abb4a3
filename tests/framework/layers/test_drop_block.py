"""DropBlock: what it drops; ranks and restarts are tested beside dropout."""

import pytest
import torch
import torch.nn.functional as F

from framework.layers import GlobalDropBlock

SHAPE = (7, 2, 12, 12)


def test_blocks_are_those_of_all_channels_and_the_rest_is_rescaled() -> None:
    x = torch.randn(SHAPE)
    y = GlobalDropBlock(0.3, stream="a")(x)
    kept = y != 0
    assert torch.equal(kept[:, :1].expand(SHAPE), kept)
    assert 0.1 < float((~kept).float().mean()) < 0.4
    # what is dropped are whole blocks of 3 x 3, cut off at the border
    dropped = (~kept[:, :1]).float()
    whole = -F.max_pool2d(-F.pad(dropped, [1] * 4, value=1.0), 3, 1)
    assert torch.equal(F.max_pool2d(whole, 3, 1, 1) * dropped, dropped)
    scale = kept.numel() / int(kept.sum())
    torch.testing.assert_close(y, torch.where(kept, x * scale, 0))


def test_a_place_is_a_center_with_the_probability_over_the_block() -> None:
    y = GlobalDropBlock(0.1, stream="a", block=1)(torch.ones(10, 1, 100, 100))
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.004)
    y = GlobalDropBlock(0.1, stream="a")(torch.ones(10, 1, 100, 100))
    # 1 - (1 - 0.1 / 9)^9, as blocks overlap
    assert float((y == 0).float().mean()) == pytest.approx(0.0957, abs=0.006)


def test_every_precision_drops_the_same_places() -> None:
    one, half = GlobalDropBlock(0.3, stream="a"), GlobalDropBlock(0.3, stream="a")
    y = half(torch.ones(SHAPE, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert torch.equal(y != 0, one(torch.ones(SHAPE)) != 0)


def test_evaluation_returns_the_input_itself() -> None:
    x = torch.ones(SHAPE)
    layer = GlobalDropBlock(0.3, stream="a").eval()
    assert layer(x) is x
    assert layer.count == 0


@pytest.mark.parametrize("block", [0, 2])
def test_blocks_without_a_center_are_refused(block: int) -> None:
    with pytest.raises(ValueError, match="block must be an odd number"):
        GlobalDropBlock(0.1, stream="a", block=block)
