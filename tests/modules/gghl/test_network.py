"""GGHL's network: the released configuration, and what is predicted where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.gghl.cells import Cells
from modules.gghl.network import GGHLNetwork, PlainBackbone


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def parity():
    return GGHLNetwork(15, backbone="darknet53", neck="top_down", objectness_bias=0.0)


def test_parameters_of_the_released_configuration(parity):
    assert count(parity.backbone) == 40_584_928
    assert count(parity) - count(parity.backbone) == 28_197_195


def test_layers_of_the_released_configuration(parity):
    assert parity.backbone.channels == (256, 512, 1024)
    assert parity.neck.channels == (128, 256, 512)
    slopes = {m.negative_slope for m in parity.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.1}
    assert [head[-1].out_channels for head in parity.boxes] == [10, 10, 10]
    assert [head[-1].out_channels for head in parity.classes] == [15, 15, 15]


def test_neck_and_heads_start_small_and_the_objectness_at_its_bias():
    network = GGHLNetwork(3, objectness_bias=-4.0)
    for part in (network.neck, network.boxes, network.classes):
        weights = torch.cat(
            [m.weight.flatten() for m in part.modules() if isinstance(m, nn.Conv2d)]
        )
        assert float(weights.detach().std()) == pytest.approx(0.01, rel=0.02)
    for head in network.boxes:
        assert head[-1].bias.tolist() == [0.0] * 9 + [-4.0]


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (72, 104)])
def test_one_row_per_cell_in_the_order_of_the_cells(size):
    network = GGHLNetwork(2).eval()
    out = network(torch.rand(2, 3, *size))
    cells = Cells.of(size, network.strides)
    assert out.shape == (2, len(cells.level), 12)
    levels = network.neck(network.backbone(torch.rand(2, 3, *size)))
    assert tuple(tuple(m.shape[-2:]) for m in levels) == cells.shapes


def test_a_row_is_the_output_of_its_cell():
    network = GGHLNetwork(2).eval()
    image = torch.rand(1, 3, 96, 64)
    out = network(image)[0]
    levels = network.neck(network.backbone(image))
    place = 0
    for level, boxes, classes in zip(levels, network.boxes, network.classes, strict=True):
        heads = boxes(level)[0], classes(level)[0]
        for row in range(level.shape[2]):
            for column in range(level.shape[3]):
                for head, found in zip(heads, (out[place, :10], out[place, 10:]), strict=True):
                    torch.testing.assert_close(found, head[:, row, column])
                place += 1
    assert place == len(out)


@pytest.mark.parametrize("backbone", ["test_resnet", "lcnet_050"])
def test_timm_backbones(backbone):
    network = GGHLNetwork(2, backbone=backbone, neck_width=16)
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 84, 12)


def test_backbones_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"There is no backbone 'darknet54'; the nearest are .*darknet53"
    ):
        GGHLNetwork(2, backbone="darknet54")
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 has no maps at strides 8, 16, 32"):
        GGHLNetwork(2, backbone="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="widths are the channels"):
        PlainBackbone((8, 16))


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"num_classes": 2, "drop_block": 1.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        GGHLNetwork(**wrong)
