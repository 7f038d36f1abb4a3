"""YOLOv5's blocks, backbone and neck."""

from __future__ import annotations

import pytest
import torch

from framework.detection.csp import Bottleneck, CSPBackbone, CSPBlock
from framework.detection.path_aggregation_neck import PathAggregationNeck

SIZES = ((8, 8), (16, 4), (32, 2))


def maps(**options):
    return [torch.randn(1, channels, side, side, **options) for channels, side in SIZES]


@torch.no_grad()
def test_a_shortcut_adds_the_input():
    torch.manual_seed(0)
    block = Bottleneck(4).eval()
    plain = Bottleneck(4, shortcut=False).eval()
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x + plain(x))


def test_half_of_the_channels_pass_the_bottlenecks():
    block = CSPBlock(6, 8, repeats=2)
    assert [type(m).__name__ for m in block.through] == ["Sequential", "Bottleneck", "Bottleneck"]
    assert block.past[0].out_channels == block.through[0][0].out_channels == 4
    assert tuple(block(torch.zeros(2, 6, 3, 5)).shape) == (2, 8, 3, 5)


def test_the_stem_keeps_every_pixel():
    backbone = CSPBackbone((8, 8, 8, 8), (1, 1, 1))
    image = torch.arange(48.0).view(1, 3, 4, 4)
    assert sorted(backbone.stem[0](image).flatten().tolist()) == list(range(48))
    # the four pixels of the first channel's upper left corner
    assert backbone.stem[0](image)[0, :4, 0, 0].tolist() == [0, 1, 4, 5]


def test_widths_and_repeats_must_fit():
    with pytest.raises(ValueError, match=r"one number fewer, got .8, 16, 32. and .1,.\."):
        CSPBackbone((8, 16, 32), (1,))
    with pytest.raises(ValueError, match=r"each of the 3 levels, got .4, 8.\."):
        PathAggregationNeck((8, 16, 32), (4, 8))


def test_every_level_of_the_neck_sees_all():
    neck = PathAggregationNeck((8, 16, 32), (4, 8, 16)).eval()
    inputs = maps(requires_grad=True)
    for level in neck(inputs):
        found = torch.autograd.grad(level.sum(), inputs, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in found)


def test_levels_of_odd_sizes_meet():
    levels = [torch.zeros(1, c, s, s) for c, s in ((8, 11), (16, 6), (32, 3))]
    neck = PathAggregationNeck((8, 16, 32), (4, 8, 16))
    assert [tuple(m.shape[1:]) for m in neck(levels)] == [(4, 11, 11), (8, 6, 6), (16, 3, 3)]
