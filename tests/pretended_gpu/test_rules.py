"""What CUDA refuses is refused, and what the host waits for is counted."""

from __future__ import annotations

import copy
import io
import os

import pytest
import torch
from torch import nn

from tests.helpers.runs import ROOT
from tests.pretended_gpu.autocast import cuda_autocast
from tests.pretended_gpu.device import pretended_gpu
from tests.pretended_gpu.state import CudaError


@pytest.fixture
def gpu():
    with pretended_gpu(ROOT) as pretended:
        yield pretended


class Faulty(torch.autograd.Function):
    """Adds a tensor of the CPU in its backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient + torch.zeros(3)


REFUSED = {
    "tensors of two devices": lambda x: x + torch.zeros(3),
    "a single number among stacked ones": lambda x: torch.stack([x.sum(), torch.tensor(0.0)]),
    "a result on the CPU": lambda x: torch.tensor(0.0).add_(x.sum()),
    "a tensor of the CPU indexed by one of the device": lambda x: torch.zeros(3)[x.argsort()],
    "a backward pass that mixes devices": lambda x: (
        Faulty.apply(x.requires_grad_()).sum().backward()
    ),
    "a generator of the CPU": lambda x: x.uniform_(generator=torch.Generator()),
    "a generator of the device": lambda x: torch.rand(3, generator=torch.Generator("cuda")),
    "integers multiplied as matrices": lambda x: x.long()[None] @ x.long(),
    "an operation without a kernel": lambda x: torch.histogram(x, bins=3),
    "pinned memory of a GPU": lambda x: x.pin_memory(),
    "a device that is not there": lambda x: torch.cuda.set_device(7),
    "numbers that may not have arrived": lambda x: x.to("cpu", non_blocking=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(gpu, name):
    with pytest.raises(CudaError):
        REFUSED[name](torch.rand(3, device="cuda"))
    assert gpu.log.of("fault")


def test_numpy_takes_nothing_of_a_gpu(gpu):
    x = torch.rand(3, device="cuda")
    with pytest.raises(TypeError, match="host memory first"):
        x.numpy()
    assert x.numpy(force=True).shape == (3,)


WAITS = {
    "where with a number": (0, lambda x: torch.where(x > 0, x, 0.0)),
    "filled by a mask": (0, lambda x: x.__setitem__(x > 0, 0.0)),
    "zeros": (0, lambda x: torch.zeros(3, device="cuda")),
    "times a number on the CPU": (0, lambda x: x * torch.tensor(2.0)),
    "selected by a mask": (1, lambda x: x[x > 0]),
    "a number": (1, lambda x: float(x.sum())),
    "a list": (1, lambda x: x.tolist()),
    "a copy": (1, lambda x: x.cpu()),
    "a list to the device": (1, lambda x: torch.tensor([1.0], device="cuda")),
    "a new tensor": (1, lambda x: x.new_tensor([1.0])),
    "an index on the CPU": (1, lambda x: x[torch.tensor([0])]),
    "comparison": (1, lambda x: torch.equal(x, x)),
    "counts": (2, lambda x: torch.bincount(x.long())),
    "repeated": (2, lambda x: torch.arange(3, device="cuda").repeat_interleave(x.long())),
    "repeated to a known size": (
        0,
        lambda x: torch.arange(3, device="cuda").repeat_interleave(
            torch.ones(3, dtype=torch.long, device="cuda"), output_size=3
        ),
    ),
    "one-hot": (0, lambda x: nn.functional.one_hot(x.long(), 3)),
    "filled with a tensor": (1, lambda x: x.masked_fill(x > 0, x.sum())),
    "filled with a number": (0, lambda x: x.masked_fill(x > 0, 1.0)),
    "one element set": (1, lambda x: x.__setitem__(0, 1.0)),
    "a slice set": (0, lambda x: x.__setitem__(slice(0, 1), 1.0)),
    "a pinned copy": (0, lambda x: torch.randn(3).pin_memory().to("cuda", non_blocking=True)),
    "clipping": (0, lambda x: nn.utils.clip_grad_norm_(with_gradient(x), 1.0)),
}


def with_gradient(x):
    parameter = nn.Parameter(x)
    parameter.sum().backward()
    return [parameter]


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(gpu, name):
    expected, act = WAITS[name]
    x = torch.rand(3, device="cuda")
    act(x)
    assert gpu.log.count("wait") == expected


def test_a_wait_names_its_line(gpu):
    float(torch.rand(3, device="cuda").sum())
    (event,) = gpu.log.of("wait")
    assert event.where[0].startswith("tests/pretended_gpu/test_rules.py:")
    assert event.where[0].endswith("test_a_wait_names_its_line")


def test_launches_are_counted_by_phase(gpu):
    x = torch.rand(3, device="cuda")
    with gpu.phase("here"):
        (x.view(1, 3) + 1).detach()
    assert {key: n for key, n in gpu.log.launches.items() if key[0] == "here"} == {
        ("here", 1, "add"): 1
    }


def test_float64_is_noted_but_for_single_numbers(gpu):
    x = torch.rand(3, device="cuda")
    assert not gpu.log.count("float64")
    x.sum().double() * 2
    assert not gpu.log.count("float64")
    x.double()
    x.double() * 2
    assert [e.what for e in gpu.log.of("float64")] == ["_to_copy", "_to_copy", "mul"]


def test_devices_are_those_of_a_gpu(gpu):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    module.to("cuda")
    for part in (module, copy.deepcopy(module)):
        assert {t.device.type for t in (*part.parameters(), *part.buffers())} == {"cuda"}
    module(torch.rand(2, 1, 6, 6, device="cuda")).square().mean().backward()
    assert {p.grad.device.type for p in module.parameters()} == {"cuda"}


def test_a_checkpoint_is_copied_storage_by_storage(gpu):
    layer = nn.Linear(4, 3, device="cuda")
    state = {**layer.state_dict(), "view": layer.weight[0]}
    file = io.BytesIO()
    torch.save(state, file)
    assert gpu.log.count("wait") == 2
    assert sum(e.size for e in gpu.log.of("copy")) == 4 * (12 + 3)
    for place, expected, waits in ((None, "cuda", 4), ("cpu", "cpu", 4)):
        file.seek(0)
        loaded = torch.load(file, map_location=place, weights_only=True)
        assert {t.device.type for t in loaded.values()} == {expected}
        assert gpu.log.count("wait") == waits


def test_memory_is_taken_and_given_back(gpu):
    x = torch.zeros(1000, device="cuda")
    assert torch.cuda.memory_allocated() == 4096
    y = x.view(10, 100)
    assert torch.cuda.memory_allocated() == 4096
    z = x + 1
    del x, y
    assert torch.cuda.memory_allocated() == 4096
    assert torch.cuda.max_memory_allocated() == 8192
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == 4096
    del z
    assert torch.cuda.memory_allocated() == 0


UNORDERED = {
    "index_add": lambda x, i: x.index_add(0, i, x),
    "scatter_add": lambda x, i: x.scatter_add(0, i, x),
    "cumsum": lambda x, i: x.cumsum(0),
}
NEVER_ORDERED = {
    "histc": lambda x, i: x.histc(3),
    "bincount": lambda x, i: torch.bincount(i, weights=x),
    "median": lambda x, i: x.median(0),
    "scatter_reduce": lambda x, i: x.scatter_reduce(0, i, x, "prod"),
    "adaptive pooling": lambda x, i: (
        nn.functional.adaptive_avg_pool2d(x.view(1, 1, 3).requires_grad_(), 2).sum().backward()
    ),
}


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", UNORDERED)
def test_a_sum_in_no_fixed_order_is_noted(gpu, name):
    UNORDERED[name](torch.rand(3, device="cuda"), torch.tensor([0, 0, 1]).cuda())
    assert gpu.log.count("unordered") == 1


@pytest.mark.parametrize("name", UNORDERED)
def test_deterministic_algorithms_fix_the_order(gpu, name, deterministic):
    UNORDERED[name](torch.rand(3, device="cuda"), torch.tensor([0, 0, 1]).cuda())
    assert not gpu.log.count("unordered")


@pytest.mark.parametrize("name", NEVER_ORDERED)
def test_deterministic_algorithms_refuse(gpu, name, deterministic):
    with pytest.raises(CudaError, match="does not have a deterministic implementation"):
        NEVER_ORDERED[name](torch.rand(3, device="cuda"), torch.tensor([0, 0, 1]).cuda())


def test_products_are_deterministic_by_a_variable_alone(gpu, deterministic):
    x = torch.rand(3, 3, device="cuda")
    x @ x
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    with pytest.raises(CudaError, match="CUBLAS_WORKSPACE_CONFIG"):
        x @ x


def test_autocast_keeps_what_cuda_keeps(gpu):
    x = torch.rand(3, 3, device="cuda")
    with cuda_autocast(), torch.autocast("cuda", torch.bfloat16):
        half = x @ x
        assert half.dtype == torch.bfloat16
        assert torch.einsum("ij,jk->ik", x, x).dtype == torch.bfloat16
        assert half.exp().dtype == half.sum().dtype == half.softmax(1).dtype == torch.float32
        with pytest.raises(CudaError, match="unsafe to autocast"):
            nn.functional.binary_cross_entropy(x, x)


def train(device):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).to(device)
    optimizer = torch.optim.AdamW(layer.parameters())
    x = torch.linspace(0, 1, 8).view(2, 4).to(device)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    return layer.weight.detach().cpu().clone()


def test_numbers_are_those_of_the_cpu():
    plain = train("cpu")
    with pretended_gpu(ROOT):
        torch.testing.assert_close(train("cuda"), plain, rtol=1e-6, atol=0)


def test_nothing_is_left_behind():
    with pretended_gpu(ROOT):
        x = torch.zeros(3, device="cuda")
        assert x.is_cuda
    assert x.device.type == "cpu"
    assert torch.Generator is torch._C.Generator
    assert torch.zeros(2).device.type == "cpu"


def test_autocast_of_the_cpu_is_as_before():
    with pretended_gpu(ROOT), cuda_autocast():
        pass
    x = torch.rand(3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.functional.mse_loss(x, x).dtype == torch.float32
