"""Networks from images to embeddings: their sizes, maps, shortcuts and weights."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from framework.embedding.backbones import (
    ConvNet4,
    IResNet,
    MobileFaceNet,
    TimmEmbedder,
    build_backbone,
    iresnet,
    load_insightface,
)
from framework.embedding.backbones.mobilefacenet import Bottleneck
from framework.layers import GlobalDropout
from framework.layers.halved_strides import halve_first_strides
from framework.layers.timm_backbone import timm_features


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def tiny(**options: Any) -> IResNet:
    torch.manual_seed(0)
    return IResNet((2, 1, 1, 1), (4, 4, 6, 8), 5, (1, 20, 18), **options)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("iresnet18", 24_025_600),
        ("iresnet34", 34_139_328),
        ("iresnet50", 43_590_848),
        ("iresnet100", 65_156_160),
        ("iresnet200", 118_833_920),
    ],
)
def test_the_published_networks_have_their_parameters(name, count):
    with torch.device("meta"):
        network = build_backbone(name, (3, 112, 112), 512)
    assert parameters(network) == count
    assert parameters(network.fc) == 12_845_568


def test_mobilefacenet_has_a_million_parameters():
    with torch.device("meta"):
        assert parameters(MobileFaceNet(128)) == 1_003_136


@pytest.mark.parametrize(
    "name", ["iresnet_tiny", "mobilefacenet", "conv4", "conv4_32", "resnet10t"]
)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 17, 30)])
def test_any_size_and_any_number_of_images(name, shape):
    network = build_backbone(name, shape, 6, dropout=0.5)
    assert network.embedding_dim == 6
    image = torch.randn(2, *shape)
    maps = network.forward_features(image)
    assert maps.ndim == 4
    assert network.forward_head(maps).shape == (2, 6)
    assert [m.p for m in network.modules() if isinstance(m, GlobalDropout)] == [0.5]
    network.eval()
    assert torch.equal(network(image), network.forward_head(network.forward_features(image)))
    assert network(image[:0]).shape == (0, 6)


def test_the_scale_of_the_last_norm_is_fixed():
    fixed, free = tiny(), tiny(frozen_scale=False)
    assert not fixed.features.weight.requires_grad
    assert fixed.features.bias.requires_grad
    assert free.features.weight.requires_grad
    assert parameters(fixed) == parameters(free)


def test_the_block_of_sface_has_one_norm_less_and_takes_every_second_pixel():
    network = tiny(block="sface")
    first, second = network.layer1
    assert isinstance(first.bn2, nn.Identity)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(first.downsample(x), x[:, :, ::2, ::2])
    assert torch.equal(second.downsample(x), x)
    assert isinstance(network.layer3[0].downsample, nn.Sequential)
    assert isinstance(tiny().layer1[0].downsample, nn.Sequential)
    assert network(torch.randn(2, 1, 20, 18)).shape == (2, 5)


@pytest.mark.parametrize("block", [iresnet.Block(4, 4, 1, True), Bottleneck(4, 4, 1, 2)])
def test_a_block_whose_convolutions_are_silent_is_its_shortcut(block):
    *_, last = (layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d))
    nn.init.zeros_(last.weight)
    x = torch.randn(2, 4, 5, 5)
    # an activation of the sum would change what is below 0
    assert torch.equal(block(x), x)


def test_a_block_of_iresnet():
    block = iresnet.Block(2, 3, 2, True).eval()
    x = torch.randn(2, 2, 6, 6)
    norm = math.sqrt(1 + block.bn1.eps)
    nn.init.constant_(block.bn1.bias, 1.0)
    nn.init.constant_(block.bn2.bias, -0.5)
    y = F.conv2d(x / norm + 1, block.conv1.weight, padding=1) / norm - 0.5
    y = F.conv2d(F.leaky_relu(y, 0.25), block.conv2.weight, stride=2, padding=1)
    shortcut = F.conv2d(x, block.downsample[0].weight, stride=2)
    torch.testing.assert_close(block(x), (y + shortcut) / norm)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("normal", 0.1),
        ("kaiming", math.sqrt(2 / (9 * 64))),
        ("xavier", 2 * math.sqrt(2 / (9 * 64))),
    ],
)
def test_the_weights_of_convolutions_have_their_spread(init, std):
    torch.manual_seed(0)
    network = IResNet((1, 1, 1, 1), (64, 64, 4, 4), 2, (1, 8, 8), init=init)
    assert network.layer2[0].conv1.weight.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("kind", [IResNet, MobileFaceNet])
def test_recomputed_blocks_change_nothing(kind):
    torch.manual_seed(0)
    options = {"input_shape": (1, 16, 16), "embedding_dim": 4}
    if kind is IResNet:
        options |= {"layers": (1, 2, 1, 1), "widths": (4, 4, 6, 8)}
    plain = kind(**options)
    recomputed = deepcopy(plain)
    recomputed.checkpointing = True
    image = torch.randn(3, 1, 16, 16)
    for network in (plain, recomputed):
        network(image).square().sum().backward()
    for (name, one), (_, other) in zip(
        plain.state_dict().items(), recomputed.state_dict().items(), strict=True
    ):
        if isinstance(one, torch.Tensor):  # statistics of batch norm, followed once
            assert torch.equal(one, other), name
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(
    ("name", "size", "positions"),
    [
        ("resnet10t", 224, 7 * 7),
        ("resnet10t", 112, 7 * 7),
        ("resnet10t", 56, 7 * 7),
        ("resnet10t", 28, 4 * 4),
        ("vit_tiny_patch16_224", 112, 14 * 14 + 1),
        ("convnext_atto", 112, 6 * 6),
    ],
)
def test_small_images_have_the_positions_of_large_ones(name, size, positions):
    body, _ = timm_features(name, (3, size, size), small_images=True)
    maps = body.eval().forward_features(torch.zeros(1, 3, size, size))
    assert (maps.shape[1] if maps.ndim == 3 else maps.shape[2:].numel()) == positions


def test_a_stem_of_branches_is_left_as_it_is():
    body, _ = timm_features("repvgg_a0", (3, 112, 112), small_images=True)
    assert body.eval().forward_features(torch.zeros(1, 3, 112, 112)).shape[2:] == (4, 4)


def test_strides_are_halved_from_the_input_on():
    def made() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(1, 1, 4, stride=4), nn.AvgPool2d(2), nn.Conv2d(1, 1, 2, stride=2)
        )

    strides = []
    for times in range(5):
        body = made()
        halve_first_strides(body, times)
        strides.append([getattr(layer, "stride", 1) for layer in body])
    assert strides == [
        [(4, 4), 2, (2, 2)],
        [(2, 2), 2, (2, 2)],
        [(1, 1), 2, (2, 2)],
        [(1, 1), 1, (2, 2)],
        [(1, 1), 1, (1, 1)],
    ]


def test_conv4_has_64_numbers_for_each_of_25_pixels():
    assert ConvNet4(None, (3, 84, 84)).embedding_dim == 1600
    assert ConvNet4(None, (1, 28, 28), width=32).embedding_dim == 32
    assert build_backbone("conv4", (1, 28, 28), None).embedding_dim == 64


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iresnet51", {}, r"There is no backbone 'iresnet51'.*iresnet50"),
        ("iresnet50", {"pretrained": True}, "'iresnet50' comes without weights"),
        ("iresnet50", {"embedding_dim": None}, "'iresnet50' needs an embedding_dim"),
        ("conv4", {"input_shape": (1, 8, 8)}, "at least 16 x 16; got 8 x 8"),
        ("conv4", {"checkpointing": True}, "'conv4' recomputes no activations"),
        ("iresnet50", {"input_shape": (8, 8)}, r"input_shape must be .* got \[8, 8\]"),
        ("iresnet50", {"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ("mobilefacenet", {"embedding_dim": 0}, "embedding_dim must be at least 1"),
    ],
)
def test_an_argument_that_cannot_be_is_named(name, options, message):
    arguments = {"input_shape": (1, 32, 32), "embedding_dim": 4, **options}
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_backbone(name, **arguments)


def test_a_perceptron_has_no_scale_at_its_end():
    network = build_backbone("mlp", (1, 8, 8), 32)
    assert parameters(network) == 64 * 128 + 2 * 128 + 128 * 32
    embedding = network(torch.randn(50, 1, 8, 8))
    assert embedding.std(0, correction=0).tolist() == pytest.approx([1.0] * 32, abs=1e-3)


def test_stages_are_four():
    with pytest.raises(ValueError, match="4 stages; got 3 numbers of layers and 4 widths"):
        IResNet((1, 1, 1))


def test_a_timm_model_that_recomputes():
    network = TimmEmbedder("resnet10t", 4, (1, 16, 16), checkpointing=True)
    network(torch.randn(2, 1, 16, 16)).sum().backward()


# ---- weights of insightface ----------------------------------------------------------------------


def synthetic(network: IResNet) -> dict[str, torch.Tensor]:
    """Return weights with the names that ``arcface_torch`` gives them."""
    names = []
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def add(prefix: str, *parts: str) -> None:
        names.extend(f"{prefix}.{part}" for part in parts)

    add("conv1", "weight")
    add("bn1", *norm)
    add("prelu", "weight")
    for stage, blocks in enumerate((2, 1, 1, 1), start=1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            add(f"{place}.bn1", *norm)
            add(f"{place}.conv1", "weight")
            add(f"{place}.bn2", *norm)
            add(f"{place}.prelu", "weight")
            add(f"{place}.conv2", "weight")
            add(f"{place}.bn3", *norm)
            if block == 0:
                add(f"{place}.downsample.0", "weight")
                add(f"{place}.downsample.1", *norm)
    add("bn2", *norm)
    add("fc", "weight", "bias")
    add("features", *norm)
    own = network.state_dict()
    return {name: torch.rand_like(own[name].float()).to(own[name].dtype) for name in names}


@pytest.mark.parametrize("form", ["plain", "training", "parallel"])
def test_weights_of_insightface_load_as_they_are(tmp_path, form):
    network = tiny()
    weights = synthetic(network)
    content: Any = weights
    if form == "training":
        content = {"epoch": 3, "state_dict_backbone": weights}
    if form == "parallel":
        content = {f"module.{name}": value for name, value in weights.items()}
    torch.save(content, tmp_path / "backbone.pth")
    load_insightface(network, tmp_path / "backbone.pth")
    loaded = network.state_dict()
    assert loaded.keys() - {"dropout._extra_state"} == weights.keys()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "backbone.pth"
    weights = synthetic(tiny())

    def refused(content: Any, message: str) -> None:
        torch.save(content, path)
        network = tiny()
        before = deepcopy(network.state_dict())
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} {message}"):
            load_insightface(network, path)
        assert all(
            torch.equal(value, before[name])
            for name, value in network.state_dict().items()
            if isinstance(value, torch.Tensor)
        )

    refused({**weights, "layer1.2.conv1.weight": torch.ones(1)}, ".*a further 'layer1.2.conv1")
    refused({k: v for k, v in weights.items() if k != "fc.bias"}, ".*lacks 'fc.bias'")
    refused({**weights, "fc.bias": torch.ones(7)}, r".*'fc.bias' has the shape \(7,\), not \(5,\)")
    refused([1], "must hold tensors by name")
    refused({"epoch": 3}, "must hold tensors by name")
