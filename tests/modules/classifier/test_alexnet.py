"""The AlexNet of self-tuning networks: its layers, and where it drops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from framework.layers import GlobalDropout
from modules import Classifier
from modules.classifier.alexnet import PUBLISHED, AlexNetBody

WIDTHS = (3, 4, 5, 6, 7, 8, 9)


def body() -> AlexNetBody:
    torch.manual_seed(0)
    return AlexNetBody((3, 32, 32), WIDTHS)


def test_it_has_the_paper_s_layers() -> None:
    with torch.device("meta"):
        model = Classifier(
            num_classes=10, input_shape=(3, 32, 32), backbone="alexnet", widths=PUBLISHED
        )
    # counted for the convolutions, the hidden layers and the head of the paper's code
    convolutions = 3 * 9 * 64 + 64 * 9 * 192 + 192 * 9 * 384 + 384 * 9 * 256 + 256 * 9 * 256
    hidden = 1024 * 4096 + 4096 * 4096 + 4096 * 10
    biases = sum(PUBLISHED) + 10
    assert sum(p.numel() for p in model.parameters()) == convolutions + hidden + biases
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    names = [n for n, layer in model.named_modules() if isinstance(layer, GlobalDropout)]
    assert names == [
        *[f"network.body.conv_dropouts.{k}" for k in range(5)],
        *[f"network.body.dropouts.{k}" for k in range(2)],
    ]


def test_what_it_computes() -> None:
    model, image = body(), torch.rand(2, 3, 32, 32)
    x = image
    for k, conv in enumerate(model.convs):
        x = F.relu(F.conv2d(x, conv.weight, conv.bias, stride=2 if k == 0 else 1, padding=1))
        x = F.max_pool2d(x, 2) if k in (0, 1, 4) else x
    x = x.flatten(1)
    assert x.shape == (2, 7 * 2 * 2)
    for layer in model.hidden:
        x = F.relu(F.linear(x, layer.weight, layer.bias))
    assert torch.allclose(model(image), x, atol=1e-6)
    assert torch.allclose(model.eval()(image), x, atol=1e-6)


@pytest.mark.parametrize("height", [16, 17, 28, 33, 40])
def test_images_of_other_sizes(height: int) -> None:
    model = AlexNetBody((1, height, 24), WIDTHS)
    assert model(torch.rand(2, 1, height, 24)).shape == (2, 9)
    assert model(torch.rand(0, 1, height, 24)).shape == (0, 9)


@pytest.mark.parametrize("name", ["conv_dropouts.0", "conv_dropouts.4", "dropouts.1"])
def test_a_rate_acts_in_training_only(name: str) -> None:
    model, image = body(), torch.rand(4, 3, 32, 32)
    plain = model(image)
    layer = model.get_submodule(name)
    assert isinstance(layer, GlobalDropout)
    layer.p = 0.7
    assert not torch.allclose(model(image), plain)
    assert torch.equal(model.eval()(image), plain)


def test_convolutions_lose_whole_channels() -> None:
    model = body()
    seen: list[torch.Tensor] = []
    model.convs[1].register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    model(torch.rand(16, 3, 32, 32))
    model.conv_dropouts[0].p = 0.5
    model(torch.rand(16, 3, 32, 32))
    for x, lost in zip(seen, (False, True), strict=True):
        empty = (x == 0).all(-1).all(-1)
        assert bool((empty.float().mean() > 0.25).item()) == lost


@pytest.mark.parametrize(
    ("shape", "widths", "said"),
    [
        ((3, 32, 32), (256, 256), r"needs seven widths, .* it got \[256, 256\]"),
        ((1, 8, 8), WIDTHS, "images of at least 16 x 16 pixels, got 8 x 8"),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, ...], widths: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Classifier(num_classes=3, input_shape=shape, backbone="alexnet", widths=widths)
