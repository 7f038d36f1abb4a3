import torch

from framework.distributed.averages import average_over_ranks
from framework.distributed.collectives import rank


def own_numbers() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    mine = float(rank())
    tensors = [
        torch.full((2, 3), mine),
        torch.tensor(4.0 * mine, dtype=torch.float64),
        torch.full((0,), mine),
        torch.full((5,), 2.0 * mine),
    ]
    return tensors, average_over_ranks(tensors)


def test_means_of_two_ranks_keep_shape_and_dtype(two_ranks):
    for mine, (before, means) in enumerate(two_ranks(own_numbers)):
        for x, mean, expected in zip(before, means, (0.5, 2.0, 0.0, 1.0), strict=True):
            assert (mean.shape, mean.dtype) == (x.shape, x.dtype)
            assert torch.equal(mean, torch.full_like(x, expected))
        assert before[0][0, 0] == mine


def test_one_process_changes_nothing():
    x = torch.randn(3, requires_grad=True)
    (mean,) = average_over_ranks([x])
    assert torch.equal(mean, x)
    assert not mean.requires_grad
