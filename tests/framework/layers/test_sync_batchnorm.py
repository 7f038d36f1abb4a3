import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from framework.distributed.collectives import (
    all_reduce_sum,
    all_reduce_sum_with_grad,
    gather_with_grad,
    rank,
    world_size,
)
from framework.layers import SyncBatchNorm, convert_sync_batchnorm

SLICES = [[3, 3], [5, 1], [0, 6], [6, 0]]
SHAPES = {nn.BatchNorm1d: (4,), nn.BatchNorm2d: (4, 3, 2), nn.BatchNorm3d: (4, 2, 1, 3)}
OPTIONS = {
    "default": {},
    "cumulative": {"momentum": None},
    "plain": {"affine": False},
    "untracked": {"track_running_stats": False},
}


def mine(x, counts):
    return x.split(counts)[rank()]


def example(kind, rows=6, seed=0):
    """A batch with a mean that is large for its spread, and what its output is weighed by."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, *SHAPES[kind], dtype=torch.float64, generator=generator)
    return x[0] + 100, x[1]


def layer_of(kind, options):
    layer = kind(4, dtype=torch.float64, **options)
    if layer.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.arange(1, 5))
            layer.bias.copy_(torch.arange(4))
    return layer


def three_steps(kind, options, counts):
    """Two training steps and an evaluation: outputs, gradients (summed over ranks), state."""
    layer = convert_sync_batchnorm(layer_of(kind, options))
    seen = []
    for seed in range(3):
        layer.train(seed < 2)
        layer.zero_grad()
        x, weight = (mine(t, counts) for t in example(kind, sum(counts), seed))
        x = x.clone().requires_grad_()
        y = layer(x)
        (y.square() * weight).sum().backward()
        gradients = [all_reduce_sum(p.grad) for p in layer.parameters()]
        seen.append((y.detach(), x.grad, gradients))
    return seen, layer.state_dict()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("counts", SLICES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", SHAPES)
def test_two_ranks_are_one_process(two_ranks, kind, options, counts):
    expected, state = three_steps(kind, options, [sum(counts)])
    zero, one = two_ranks(three_steps, kind, options, counts)
    assert list(zero[1]) == list(one[1]) == list(state)
    for name, value in state.items():
        assert torch.equal(zero[1][name], one[1][name])
        close(zero[1][name], value)
    for whole, first, second in zip(expected, zero[0], one[0], strict=True):
        close(torch.cat([first[0], second[0]]), whole[0])
        close(torch.cat([first[1], second[1]]), whole[1])
        close(first[2], whole[2])


def test_one_process_is_torch():
    for kind in SHAPES:
        x, _ = example(kind)
        layer = layer_of(kind, {})
        same = convert_sync_batchnorm(copy.deepcopy(layer))
        assert torch.equal(same(x), layer(x))
        assert torch.equal(same.eval()(x), layer.eval()(x))


def replicated(x):
    """The identity, whose gradient is the mean of what the ranks send back."""
    return all_reduce_sum_with_grad(x) / world_size()


def normalize_slices(x, weight, bias):
    layer = SyncBatchNorm(2, track_running_stats=False, dtype=torch.float64)
    parameters = {"weight": replicated(weight), "bias": replicated(bias)}
    y = torch.func.functional_call(layer, parameters, mine(replicated(x), [3, 1]))
    return gather_with_grad(y.tanh())


def check_gradients():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 2), (2,), (2,)]
    inputs = [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in shapes
    ]
    return gradcheck(normalize_slices, inputs) and gradgradcheck(normalize_slices, inputs)


def test_gradcheck_twice(two_ranks):
    assert two_ranks(check_gradients) == [True, True]


def far_from_zero():
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) * 1e-2 + 1e3
    expected = (x.double() - x.double().mean(0)) / (x.double().var(0, correction=0) + 1e-5).sqrt()
    own = mine(x, [7, 1])
    return float((SyncBatchNorm(3)(own) - mine(expected, [7, 1])).abs().max())


def test_a_large_mean_costs_no_digits(two_ranks):
    # sums of squares in float32 would be off by more than the spread itself
    assert max(two_ranks(far_from_zero)) < 2e-2


def half_precision():
    layer = SyncBatchNorm(3)
    x = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    y = layer(mine(x, [8, 0]))
    assert y.dtype == torch.bfloat16
    return y.float()


def test_half_precision_is_normalized_in_float32(two_ranks):
    y = torch.cat(two_ranks(half_precision))
    x = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    torch.testing.assert_close(y, nn.BatchNorm1d(3)(x.float()), rtol=1e-2, atol=1e-2)


def ddp_step(counts):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).double()
    convert_sync_batchnorm(network)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    model = nn.parallel.DistributedDataParallel(network) if world_size() > 1 else network
    loss = model(mine(x, counts)).square().sum() * world_size()
    loss.backward()
    return [p.grad for p in network.parameters()]


@pytest.mark.parametrize("counts", [[3, 2], [0, 5]])
def test_under_ddp(two_ranks, counts):
    expected = ddp_step([5])
    for gradients in two_ranks(ddp_step, counts):
        close(gradients, expected)


# ---- conversion -----------------------------------------------------------------------------


class Named(nn.BatchNorm2d):
    """Adds no forward of its own."""


class Odd(nn.BatchNorm2d):
    def forward(self, input):  # noqa: A002
        return 2 * super().forward(input)


def test_conversion_keeps_the_layers():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Named(4), nn.Dropout())
    network.add_module("again", network[1])
    network[2].eval()
    calls = []
    network[1].register_forward_hook(lambda *_: calls.append(1))
    layers, parameters = list(network), list(network.parameters())
    state = copy.deepcopy(network.state_dict())
    assert convert_sync_batchnorm(network) is network
    kinds = [type(layer) for layer in network]
    assert convert_sync_batchnorm(network) is network
    assert kinds == [type(layer) for layer in network]
    assert all(a is b for a, b in zip(network, layers, strict=True))
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert [isinstance(layer, SyncBatchNorm) for layer in network] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert isinstance(network[2], Named)
    assert (network[1].training, network[2].training) == (True, False)
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)
    copy.deepcopy(network)(torch.randn(2, 3, 2, 2))
    assert calls == [1, 1]
    with pytest.raises(ValueError, match="expected 4D input"):
        network[1](torch.randn(2, 4))


def test_a_layer_alone_is_converted():
    layer = nn.BatchNorm1d(2)
    assert convert_sync_batchnorm(layer) is layer
    assert isinstance(layer, SyncBatchNorm)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (Odd(4), "The batch normalization '1' is a Odd with a `forward` of its own"),
        (nn.LazyBatchNorm2d(), "a LazyBatchNorm2d without a size"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_cannot_be_converted_leaves_all_as_it_was(layer, sentence):
    network = nn.Sequential(nn.BatchNorm2d(4), layer)
    with pytest.raises(TypeError, match=sentence):
        convert_sync_batchnorm(network)
    assert type(network[0]) is nn.BatchNorm2d


def one_dimension():
    with pytest.raises(ValueError, match=r"takes \(B, C, \*\), got 1 dimensions"):
        SyncBatchNorm(4)(torch.ones(4))
    with pytest.raises(ValueError, match="expected 4D input"):
        convert_sync_batchnorm(nn.BatchNorm2d(4))(torch.ones(1, 4))


def test_number_of_dimensions(two_ranks):
    two_ranks(one_dimension)


def with_activation(counts):
    from timm.layers import BatchNormAct2d

    layer = BatchNormAct2d(4, act_layer=nn.LeakyReLU, drop_layer=nn.Identity).double()
    convert_sync_batchnorm(layer)
    assert isinstance(layer, SyncBatchNorm)
    x, _ = example(nn.BatchNorm2d)
    x = mine(x, counts).clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    return y.detach(), x.grad, layer.eval()(x).detach()


def test_timm_activation_follows(two_ranks):
    pytest.importorskip("timm")
    expected = with_activation([6])
    zero, one = two_ranks(with_activation, [4, 2])
    for first, second, whole in zip(zero, one, expected, strict=True):
        close(torch.cat([first, second]), whole)
    assert float(expected[0].min()) < 0


def torch_sync():
    layer = nn.SyncBatchNorm(4).double()
    y, _ = example(nn.BatchNorm2d)
    return convert_sync_batchnorm(layer)(mine(y, [6, 0])).detach()


def test_torchs_own_layer_runs_on_the_cpu(two_ranks):
    x, _ = example(nn.BatchNorm2d)
    close(torch.cat(two_ranks(torch_sync)), nn.BatchNorm2d(4).double()(x).detach())
