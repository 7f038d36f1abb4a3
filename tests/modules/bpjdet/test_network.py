"""BPJDet's network: YOLOv5's sizes, the order of the predictions, and where the biases start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modules.bpjdet.network import SCALES, BPJDetNetwork

TINY = {"size": "tiny", "strides": (8, 16, 32)}


def count(module):
    return sum(p.numel() for p in module.parameters())


def conv(before, after, kernel):
    return before * after * kernel**2 + 2 * after


def csp(before, after, repeats):
    half = after // 2
    bottlenecks = repeats * (conv(half, half, 1) + conv(half, half, 3))
    return 2 * conv(before, half, 1) + bottlenecks + conv(after, after, 1)


def by_hand(widths, repeats, neck, outputs):
    """The parameters of four levels, layer by layer as YOLOv5's table of P6 lists them."""
    p1, _, p3, p4, p5, p6 = widths
    backbone = conv(12, p1, 3)
    for before, after, times in zip(widths[:-1], widths[1:], repeats, strict=True):
        backbone += conv(before, after, 3) + csp(after, after, times)
    backbone += conv(p6, p6 // 2, 1) + conv(2 * p6, p6, 1)
    down = conv(p6, p5, 1) + csp(2 * p5, p5, neck) + conv(p5, p4, 1) + csp(2 * p4, p4, neck)
    down += conv(p4, p3, 1) + csp(2 * p3, p3, neck)
    up = conv(p3, p3, 3) + csp(2 * p3, p4, neck) + conv(p4, p4, 3) + csp(2 * p4, p5, neck)
    up += conv(p5, p5, 3) + csp(2 * p5, p6, neck)
    heads = sum((width + 1) * outputs for width in widths[2:])
    return backbone + down + up + heads


@pytest.mark.parametrize(
    ("size", "widths", "repeats", "neck", "expected", "released"),
    [
        ("s", (32, 64, 128, 256, 384, 512), (1, 3, 3, 1, 1), 1, 12_375_084, 12_653_596),
        ("m", (48, 96, 192, 384, 576, 768), (2, 6, 6, 2, 2), 2, 35_478_348, 35_889_612),
        ("l", (64, 128, 256, 512, 768, 1024), (3, 9, 9, 3, 3), 3, 76_678_636, 77_218_620),
    ],
)
def test_parameters(size, widths, repeats, neck, expected, released):
    with torch.device("meta"):
        network = BPJDetNetwork(2, 1, size=size)
        yolov5 = BPJDetNetwork(80, 0, size=size)
    assert count(network) == by_hand(widths, repeats, neck, 27) == expected
    assert count(yolov5) == by_hand(widths, repeats, neck, 255)
    # YOLOv5's release 5.0 counts a norm that was merged into its convolution: one number a channel
    norms = sum(m.num_features for m in yolov5.modules() if isinstance(m, nn.BatchNorm2d))
    assert count(yolov5) - norms == released


def test_a_shortcut_is_in_the_backbone_but_for_its_last_stage():
    with torch.device("meta"):
        network = BPJDetNetwork(2, 1, size="l")
    shortcuts = {
        name: module.shortcut
        for name, module in network.named_modules()
        if hasattr(module, "shortcut")
    }
    by_part = [
        [value for name, value in shortcuts.items() if name.startswith(f"backbone.stages.{stage}.")]
        for stage in range(5)
    ]
    assert by_part == [[True] * 3, [True] * 9, [True] * 9, [True] * 3, [False] * 3]
    assert len(shortcuts) == 27 + 6 * 3
    assert not any(value for name, value in shortcuts.items() if name.startswith("neck"))


def test_layers_of_the_released_configuration():
    network = BPJDetNetwork(2, 1, size="tiny")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    with_bias = [m for m in convolutions if m.bias is not None]
    assert with_bias == list(network.heads)
    assert len(norms) == len(convolutions) - len(with_bias)
    assert not any(isinstance(m, nn.LeakyReLU) for m in network.modules())


@pytest.mark.parametrize(
    ("classes", "slots", "states", "channels"),
    [(2, 1, 0, 27), (2, 2, 0, 33), (7, 6, 0, 72), (2, 2, 8, 57)],
)
def test_channels_of_a_level(classes, slots, states, channels):
    with torch.device("meta"):
        network = BPJDetNetwork(classes, slots, num_states=states)
    assert {head.out_channels for head in network.heads} == {channels}
    assert network.num_outputs * 3 == channels


@torch.no_grad()
def test_predictions_lie_by_level_anchor_row_and_column():
    network = BPJDetNetwork(2, 1, **TINY)
    for level, head in enumerate(network.heads):
        nn.init.zeros_(head.weight)
        head.bias.copy_(torch.arange(27) + 100 * level)
    # a head's input holds its place
    network.neck = Places(network.neck)
    for head in network.heads:
        head.weight[:, 0] = 1000
    out = network(torch.zeros(1, 3, 64, 96))
    assert out.shape == (1, 3 * (96 + 24 + 6), 9)
    offset = 0
    for level, (rows, columns) in enumerate(((8, 12), (4, 6), (2, 3))):
        for anchor, row, column in ((0, 0, 0), (1, 1, 2), (2, rows - 1, columns - 1)):
            place = offset + (anchor * rows + row) * columns + column
            first = 1000 * (row * columns + column) + 100 * level + 9 * anchor
            assert out[0, place].tolist() == [first + output for output in range(9)]
        offset += 3 * rows * columns


class Places(nn.Module):
    """A neck of which each cell's first channel is its number."""

    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, maps):
        levels = self.neck(maps)
        for level in levels:
            level.zero_()
            level[:, 0] = torch.arange(level[0, 0].numel()).view(level[0, 0].shape)
        return levels


@pytest.mark.parametrize(("image_size", "classes"), [(640, 2), (256, 7), (640, 1)])
def test_biases_expect_few_objects(image_size, classes, monkeypatch):
    torch.manual_seed(0)
    network = BPJDetNetwork(classes, 1, num_states=2, image_size=image_size, **TINY)
    # without the logarithms the same draws are left
    monkeypatch.setattr(math, "log", lambda value: 0.0)
    torch.manual_seed(0)
    plain = BPJDetNetwork(classes, 1, num_states=2, image_size=image_size, **TINY)
    monkeypatch.undo()
    for head, other, stride in zip(network.heads, plain.heads, (8, 16, 32), strict=True):
        gain = (head.bias - other.bias).detach().view(3, -1)
        expected = torch.zeros_like(gain)
        expected[:, 4] = math.log(8 / (image_size / stride) ** 2)
        expected[:, 5 : 5 + classes] = math.log(0.6 / (classes - 0.99))
        assert torch.allclose(gain, expected, atol=1e-5)
    if (image_size, classes) == (640, 2):
        assert gain[0, 4].item() == pytest.approx(-3.912023, abs=1e-5)
        assert gain[0, 5].item() == pytest.approx(-0.520776, abs=1e-5)


@pytest.mark.parametrize("backbone", ["lcnet_050", "test_resnet"])
@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
def test_a_timm_backbone(backbone, strides):
    network = BPJDetNetwork(2, 1, backbone=backbone, size="tiny", strides=strides)
    levels = sum((64 // stride) * (128 // stride) for stride in strides)
    assert network(torch.zeros(2, 3, 64, 128)).shape == (2, 3 * levels, 9)
    assert network.neck.channels == (32, 64, 96, 128)[: len(strides)]
    assert network.backbone.channels[3:] == (128,) * (len(strides) - 3)


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = BPJDetNetwork(2, 1, size="tiny")
    network(torch.rand(2, 3, 128, 128)).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_default_is_a_small_step_on_a_cpu():
    assert count(BPJDetNetwork(2, 1, **TINY)) == 349_601
    assert count(BPJDetNetwork(2, 1, size="nano", strides=(8, 16, 32))) == 1_377_521
    assert list(SCALES) == ["tiny", "nano", "s", "m", "l"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be"),
        ({"num_slots": -1}, "num_slots must be"),
        ({"size": "xl"}, "size must be"),
        ({"strides": (8, 16)}, r"strides must be .8, 16, 32, 64. or .8, 16, 32., got .8, 16."),
        ({"pretrained": True}, "pretrained needs a backbone"),
        ({"backbone": "resnet_18"}, "no backbone 'resnet_18'"),
        ({"image_size": 0}, "image_size must be"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BPJDetNetwork(**{"num_classes": 2, "num_slots": 1, "size": "tiny", **arguments})


def test_a_size_that_does_not_fit_is_refused():
    network = BPJDetNetwork(2, 1, size="tiny")
    with pytest.raises(ValueError, match=r"multiples of 64, got 128 x 96\."):
        network(torch.zeros(1, 3, 128, 96))
