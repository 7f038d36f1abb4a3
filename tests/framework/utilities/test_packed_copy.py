"""One copy for many tensors: shapes, types, and that nothing is copied in place."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from framework.utilities.packed_copy import copy_packed, pack, unpack


class Copies(TorchDispatchMode):
    """Counts what goes to another device."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += (kwargs or {}).get("device") is not None
        return func(*args, **(kwargs or {}))


def test_all_types_travel_in_one_copy():
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "corners": torch.rand(3, 4, 2).transpose(1, 2),
        "none": torch.zeros(0, 5),
        "label": torch.arange(3),
        "half": torch.rand(3, dtype=torch.float16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }
    with Copies() as copies:
        moved = copy_packed(tensors, "meta")
    assert copies.number == 1
    assert list(moved) == list(tensors)
    for name, value in moved.items():
        assert value.device.type == "meta"
        assert value.shape == tensors[name].shape
        assert value.dtype == tensors[name].dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_there_and_back_are_the_same_bits():
    tensors = {"a": torch.rand(3, 2), "b": torch.arange(5), "c": torch.tensor([True])}
    back = copy_packed(copy_packed(tensors, "cuda:0"), "cpu")
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


def test_packed_bytes_hold_every_bit():
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "transposed": torch.arange(6).view(2, 3).T,
        "double": torch.tensor([0.1, torch.nan], dtype=torch.float64, requires_grad=True),
        "half": torch.tensor([[1.5]], dtype=torch.bfloat16),
        "strided": torch.arange(5, dtype=torch.int32)[::2],
        "none": torch.empty(0, 4),
    }
    found = unpack(pack(tensors), tensors)
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=0, equal_nan=True)


def test_what_is_there_already_stays():
    tensors = {"a": torch.rand(3), "b": torch.arange(2)}
    assert copy_packed(tensors, "cpu") == tensors
    assert copy_packed({}, "cpu") == {}
