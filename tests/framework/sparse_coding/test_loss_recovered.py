import pytest
import torch

from framework.distributed.collectives import rank
from framework.sparse_coding.loss_recovered import LossRecovered

LOSSES = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) + torch.tensor(
    [[1.0], [2.0], [5.0], [4.0]]
)


def expected():
    clean, sae, zero, mean = LOSSES.double().mean(1).tolist()
    return {
        "ce_clean": clean,
        "ce_sae": sae,
        "ce_zero": zero,
        "ce_mean": mean,
        "delta_ce": sae - clean,
        "loss_recovered": (zero - sae) / (zero - clean),
        "loss_recovered_mean": (mean - sae) / (mean - clean),
    }


def measured(*parts):
    metric = LossRecovered()
    for part in parts:
        metric.update(*LOSSES[:, part])
    return {name: float(value) for name, value in metric.compute().items()}


def test_tokens_count_alike_however_they_are_batched():
    found = measured(slice(0), slice(2), slice(2, 9))
    assert found == pytest.approx(expected(), rel=1e-6)
    assert list(found) == list(expected())


def of_this_rank(split):
    return measured(slice(split) if rank() == 0 else slice(split, 9))


@pytest.mark.parametrize("split", [4, 9])
def test_two_ranks_find_what_one_finds(split, two_ranks):
    for found in two_ranks(of_this_rank, split):
        assert found == pytest.approx(expected(), rel=1e-6)


def test_without_tokens_nothing_is_known():
    assert all(torch.tensor(v).isnan() for v in measured(slice(0)).values())
