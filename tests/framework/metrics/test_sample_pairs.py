import torch
import torch.distributed as dist

from framework.metrics.sample_pairs import SamplePairs


def test_keeps_the_first_rows_over_batches():
    pairs = SamplePairs(num_targets=2, limit=5)
    values = torch.arange(16.0).view(8, 2)
    for part in (values[:0], values[:3], values[3:]):
        pairs.update(part, -part)
    assert torch.equal(pairs.compute(), torch.stack([values[:5], -values[:5]], dim=1))
    pairs.reset()
    pairs.update(values[:0], values[:0])
    assert pairs.compute().shape == (0, 2, 2)


def of_this_rank() -> torch.Tensor:
    pairs = SamplePairs(num_targets=1, limit=4)
    if dist.get_rank() == 1:
        pairs.update(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    return pairs.compute()


def test_a_rank_without_rows_adds_none(two_ranks):
    for found in two_ranks(of_this_rank):
        assert found.squeeze(-1).tolist() == [[1, 3], [2, 4]]
