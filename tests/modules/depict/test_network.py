"""DEPICT's network: sizes of the paper's data sets, what is noisy, and how it starts."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from framework.layers import GlobalDropout
from modules.depict.network import DEPICTNetwork, MultiLayerDenoisingAE

# input, K, kernels, paddings, sizes of the maps
ARCHITECTURES = {
    "MNIST-full": ((1, 28, 28), 10, (4, 5), (0, 2), (28, 13, 7)),
    "MNIST-test": ((1, 28, 28), 10, (4, 5), (0, 2), (28, 13, 7)),
    "USPS": ((1, 16, 16), 10, (4, 5), (0, 2), (16, 7, 4)),
    "CMU-PIE": ((1, 32, 32), 68, (4, 5), (2, 2), (32, 17, 9)),
    "YTF": ((3, 55, 55), 41, (5, 4), (2, 0), (55, 28, 13)),
    "FRGC": ((3, 32, 32), 20, (4, 5), (2, 2), (32, 17, 9)),
}


def small(dropouts: tuple[float, ...] = (0.5, 0.5, 0.5)) -> MultiLayerDenoisingAE:
    torch.manual_seed(0)
    return MultiLayerDenoisingAE((1, 9, 9), 3, channels=(2, 4), dropouts=dropouts)


def images(rows: int = 5, shape: tuple[int, ...] = (1, 9, 9)) -> Tensor:
    return 2 * torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0)) - 1


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sizes_of_the_paper(name: str) -> None:
    shape, clusters, kernels, paddings, sizes = ARCHITECTURES[name]
    model = MultiLayerDenoisingAE(shape, clusters, kernels=kernels, paddings=paddings)
    layers = model(images(2, shape))
    maps = [(2, planes, size, size) for planes, size in zip((shape[0], 50, 50), sizes, strict=True)]
    assert [z.shape for z in layers.clean] == [*maps, (2, clusters)]
    assert [z.shape for z in layers.noisy] == [*maps[1:], (2, clusters)]
    assert [z.shape for z in layers.decoded] == maps
    assert all(part.output_padding == (0, 0) for part in model.transposed)


def test_the_number_of_parameters() -> None:
    model = DEPICTNetwork(MultiLayerDenoisingAE((1, 28, 28), 10), 10)
    encoder = (16 * 50 + 50) + (50 * 25 * 50 + 50) + (50 * 49 * 10 + 10)
    decoder = (10 * 50 * 49 + 50 * 49) + (50 * 25 * 50 + 50) + (50 * 16 + 1)
    head = 10 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder + head == 178_321
    shared = model.autoencoder.encoder_parameters
    assert sum(p.numel() for p in shared) == encoder
    assert not list(model.buffers())


@st.composite
def geometries(draw: Any) -> tuple[tuple[int, int, int], dict[str, tuple[int, ...]]]:
    depth = draw(st.integers(1, 3))
    kernels = tuple(draw(st.integers(1, 6)) for _ in range(depth))
    settings = {
        "channels": tuple(range(2, 2 + depth)),
        "kernels": kernels,
        "strides": tuple(draw(st.integers(1, 4)) for _ in range(depth)),
        "paddings": tuple(draw(st.integers(0, 3)) for _ in range(depth)),
        "dropouts": (0.0,) * (depth + 1),
    }
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 30)), draw(st.integers(1, 30)))
    return shape, settings


@settings(deadline=None)
@given(geometries())
def test_the_decoder_restores_every_size(geometry: Any) -> None:
    shape, settings = geometry
    sizes = list(shape[1:])
    for part in zip(*(settings[k] for k in ("kernels", "strides", "paddings")), strict=True):
        kernel, stride, padding = part
        if min(sizes) + 2 * padding < kernel:
            with pytest.raises(ValueError, match="does not fit a map of"):
                MultiLayerDenoisingAE(shape, 3, **settings)
            return
        sizes = [(size + 2 * padding - kernel) // stride + 1 for size in sizes]
    model = MultiLayerDenoisingAE(shape, 3, **settings)
    layers = model(torch.zeros(1, *shape))
    assert [z.shape for z in layers.decoded] == [z.shape for z in layers.clean[:-1]]
    assert model.map_shape == layers.clean[-2].shape[1:] == (settings["channels"][-1], *sizes)


def test_what_a_stride_leaves_over_comes_back() -> None:
    model = MultiLayerDenoisingAE((1, 10, 11), 3, (2,), (4,), (4,), (0,), (0.0, 0.0))
    assert model.transposed[0].output_padding == (2, 3)
    assert model(torch.zeros(1, 1, 10, 11)).decoded[0].shape == (1, 1, 10, 11)


def test_no_rows() -> None:
    layers = small()(images(0))
    assert [len(z) for part in layers for z in part] == [0] * 10


# ---- noisy and clean ----------------------------------------------------------------------------


def test_without_dropout_noisy_is_clean() -> None:
    x = images()
    for model in (small((0.0, 0.0, 0.0)), small().eval()):
        layers = model(x)
        assert same(layers.noisy, layers.clean[1:])
        assert same(layers.decoded, model.decode(layers.clean[-1]))
        assert layers.clean[0] is x


@pytest.mark.parametrize("place", [0, 1, 2])
def test_dropout_is_where_it_is_given_and_nowhere_else(place: int) -> None:
    rates = [0.0, 0.0, 0.0]
    rates[place] = 0.5
    model, x = small(tuple(rates)), images()
    layers = model(x)
    # draws what the model drew
    drop = [GlobalDropout(rate, stream=f"depict {i}") for i, rate in enumerate(rates)]
    first, second = model.convolutions
    z_1 = drop[1](F.leaky_relu(first(drop[0](x)), 0.01))
    z_2 = drop[2](F.leaky_relu(second(z_1), 0.01))
    code = torch.tanh(model.to_code(z_2.flatten(1)))
    assert same(layers.noisy, [z_1, z_2, code])
    assert same(layers.clean, [x, *model.eval().encode(x)])
    assert not torch.equal(layers.noisy[-1], layers.clean[-1])
    assert same(layers.decoded, model.decode(code))


def test_decoder_and_head_draw_nothing() -> None:
    model = DEPICTNetwork(small(), 3)
    code = torch.rand(5, 3)
    assert same(model.autoencoder.decode(code), model.autoencoder.decode(code))
    assert torch.equal(model.logits(code), F.linear(code, model.head.weight, model.head.bias))
    assert torch.equal(model.code(images()), model.code(images()))
    assert [part.count for part in model.modules() if isinstance(part, GlobalDropout)] == [0, 0, 0]


def test_the_network_returns_the_logits_of_the_noisy_code() -> None:
    model = DEPICTNetwork(small(), 4)
    layers, logits = model(images())
    assert torch.equal(logits, model.logits(layers.noisy[-1]))
    assert torch.equal(model.code(images()), layers.clean[-1])
    assert logits.shape == (5, 4)


def test_every_layer_drops_for_itself_and_a_restored_network_goes_on() -> None:
    model = small()
    assert len({part.stream for part in model.dropouts}) == 3
    model(images())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    restored = small()
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert same(restored(images()).noisy, model(images()).noisy)


# ---- activations --------------------------------------------------------------------------------


def test_leaky_relu_inside_and_tanh_at_both_ends() -> None:
    model = MultiLayerDenoisingAE((1, 2, 2), 1, (1,), (1,), (1,), (0,), (0.0, 0.0))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0 if parameter.ndim > 1 else 0.0)
    x = torch.tensor([[[[-1.0, 0.5], [2.0, 0.0]]]])
    z, code = model.encode(x)
    assert z.flatten().tolist() == pytest.approx([-0.01, 0.5, 2.0, 0.0])
    assert code.tolist() == [pytest.approx([math.tanh(2.49)])]
    image, z = model.decode(torch.tensor([[-0.7]]))
    assert z.flatten().tolist() == pytest.approx([-0.007] * 4)
    assert image.flatten().tolist() == pytest.approx([math.tanh(-0.007)] * 4)


@torch.no_grad()
def test_code_and_image_stay_within_one() -> None:
    model = small()
    for parameter in model.parameters():
        parameter.mul_(100)
    layers = model(100 * images())
    for values in (layers.clean[-1], layers.noisy[-1], layers.decoded[0]):
        assert 0.9 < float(values.abs().max()) <= 1
    # the layers between are not bounded
    assert float(layers.decoded[1].abs().max()) > 10


# ---- how it starts ------------------------------------------------------------------------------


def test_weights_are_glorot_uniform_and_biases_0() -> None:
    torch.manual_seed(0)
    model = DEPICTNetwork(MultiLayerDenoisingAE((3, 32, 32), 20, paddings=(2, 2)), 20)
    layers = [part for part in model.modules() if hasattr(part, "weight")]
    assert len(layers) == 7
    for layer in layers:
        weight = layer.weight.detach()
        bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()))
        assert 0.97 * bound < float(weight.abs().max()) <= bound
        # the standard deviation of a uniform distribution
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not layer.bias.any()


def test_the_head_points_at_the_centroids() -> None:
    model = DEPICTNetwork(small(), 3)
    weight, bias = model.head.weight, model.head.bias
    nn.init.ones_(bias)
    centroids = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.5, 0.0], [1.0, 2.0, -2.0]])
    model.place_clusters(centroids)
    expected = [[0.6, 0.8, 0], [0, 1, 0], [1 / 3, 2 / 3, -2 / 3]]
    torch.testing.assert_close(weight, torch.tensor(expected))
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(3))
    assert not bias.any()
    # the optimizer knows these objects
    assert model.head.weight is weight
    assert weight.requires_grad
    assert bias.requires_grad
    # logit k is the code's component along centroid k, not along column k of the centroids
    code = torch.tensor([[0.2, -0.1, 0.5]])
    expected_logits = code @ centroids.T / centroids.norm(dim=1)
    torch.testing.assert_close(model.logits(code), expected_logits)


def test_a_centroid_at_the_origin_has_no_direction() -> None:
    model = DEPICTNetwork(small(), 2)
    model.place_clusters(torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    assert model.head.weight.tolist() == [[0, 0, 0], [0, 1, 0]]


def test_what_both_losses_act_on_is_the_encoder() -> None:
    model = DEPICTNetwork(small((0.0, 0.0, 0.0)), 3)
    layers, logits = model(images())

    def reached(loss: Tensor) -> set[str]:
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        return {name for name, g in zip(named, gradients, strict=True) if g is not None}

    both = reached(logits.square().sum()) & reached(layers.decoded[0].square().sum())
    shared = {id(p) for p in model.autoencoder.encoder_parameters}
    assert both == {name for name, p in model.named_parameters() if id(p) in shared}
    assert len(both) == 6


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": (4,)}, "as many as the 2 channels"),
        ({"strides": (2, 2, 2)}, "as many as the 2 channels"),
        ({"paddings": (0,)}, "as many as the 2 channels"),
        ({"dropouts": (0.1, 0.1)}, "dropouts one more"),
        ({"channels": (), "kernels": (), "strides": (), "paddings": ()}, "as many as the 0"),
        ({"input_shape": (28, 28)}, r"input_shape must be \[channels, height, width\]"),
        ({"input_shape": (0, 28, 28)}, "at least 1"),
        ({"code_size": 0}, "at least 1"),
        ({"channels": (50, 0)}, "at least 1"),
        ({"kernels": (0, 5)}, "at least 1"),
        ({"strides": (2, 0)}, "at least 1"),
        ({"paddings": (-1, 2)}, "paddings at least 0"),
        ({"dropouts": (0.1, 1.0, 0.0)}, r"p must lie in \[0, 1\)"),
        ({"input_shape": (1, 3, 28)}, "kernel of 4 with padding 0 does not fit a map of 3 x 28"),
        (
            {"input_shape": (1, 28, 4), "paddings": (0, 1)},
            r"kernel of 5 with padding 1 does not fit a map of 13 x 1, .* \[1, 28, 4\] shrink",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLayerDenoisingAE(**{"input_shape": (1, 28, 28), "code_size": 10, **arguments})
