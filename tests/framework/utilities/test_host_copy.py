"""Tensors of any type come over as they are."""

from unittest import mock

import torch

from framework.utilities import host_copy
from framework.utilities.host_copy import on_the_cpu


def test_one_copy_keeps_every_bit() -> None:
    given = [
        torch.tensor([True, False, True]),
        torch.arange(6).view(2, 3).T,
        torch.tensor([0.1, torch.nan], dtype=torch.float64, requires_grad=True),
        torch.tensor([[1.5]], dtype=torch.bfloat16),
        torch.arange(5, dtype=torch.int32)[::2],
        torch.empty(0, 4),
    ]
    plain = on_the_cpu(given)
    # as if no device were the CPU
    with mock.patch.object(host_copy.torch, "device", lambda name: name):
        packed = on_the_cpu(given)
    for one, other, source in zip(plain, packed, given, strict=True):
        assert one.dtype == other.dtype == source.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert not other.requires_grad
