"""The necks between backbones and heads."""

from __future__ import annotations

import pytest
import torch

from framework.detection.top_down_neck import SpatialPyramidPooling, TopDownNeck
from framework.layers.drop_block import GlobalDropBlock


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_pooling_joins_the_input_with_its_maxima():
    layer = SpatialPyramidPooling(1, pools=(5, 9))
    with torch.no_grad():
        layer.mix.weight.copy_(torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1))
        layer.mix.bias.fill_(0.5)
    x = torch.zeros(1, 1, 11, 11)
    x[..., 5, 5] = 1
    out = layer(x)[0, 0]
    assert out[5, 5] == 111.5
    assert out[5, 7] == 110.5
    assert out[5, 9] == 100.5
    assert out[5, 10] == 0.5


def test_a_finer_level_sees_the_coarser_one_and_not_the_other_way_round():
    neck = TopDownNeck((8, 16, 32)).eval()
    maps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((8, 8), (16, 4), (32, 2))]
    fine, _, coarse = neck(maps)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(fine.sum(), maps, retain_graph=True))
    found = torch.autograd.grad(coarse.sum(), maps, allow_unused=True)
    assert found[0] is None
    assert found[1] is None


def test_levels_of_odd_sizes_meet():
    maps = [torch.zeros(1, c, s, s) for c, s in ((8, 11), (16, 6), (32, 3))]
    assert [m.shape[-1] for m in TopDownNeck((8, 16, 32))(maps)] == [11, 6, 3]


def test_drop_block_is_in_all_blocks_or_in_none():
    plain, noisy = TopDownNeck((8, 16, 32)), TopDownNeck((8, 16, 32), drop_block=0.1)
    assert count(plain) == count(noisy)
    kinds = [type(m).__name__ for m in noisy.modules()]
    assert kinds.count("GlobalDropBlock") == 3
    assert "GlobalDropBlock" not in [type(m).__name__ for m in plain.modules()]
    assert len({m.stream for m in noisy.modules() if isinstance(m, GlobalDropBlock)}) == 3
    # one that was written when the noise was the ranks' own
    state = noisy.state_dict()
    noisy.load_state_dict({name: state[name] for name in state if "extra_state" not in name})


def test_a_width_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="width >= 4"):
        TopDownNeck((8, 16, 32), width=2)
