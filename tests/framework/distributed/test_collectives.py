import os
import time

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from framework.distributed.collectives import (
    all_reduce_sum,
    all_reduce_sum_with_grad,
    all_to_all,
    barrier,
    draw_for_global_batch,
    gather,
    gather_with_grad,
    global_mean,
    global_topk,
    rank,
    rows_per_rank,
    shared_generator,
    world_size,
)
from tests.helpers.ranks import RankError, TwoRanks

SLICES = [[3, 2], [0, 4], [4, 0], [1, 1], [0, 0]]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int64, torch.uint8]


def mine(x, counts):
    """Return this rank's rows of the global batch."""
    return x.split(counts)[rank()]


# ---- the pair of processes ------------------------------------------------------------------


def who():
    return rank(), world_size(), os.environ["LOCAL_RANK"], os.getpid(), torch.get_num_threads()


def test_pair_stays_warm(two_ranks):
    first, second = two_ranks(who), two_ranks(who)
    assert first == second
    assert [answer[:3] for answer in first] == [(0, 2, "0"), (1, 2, "1")]
    assert [answer[4] for answer in first] == [1, 1]
    assert two_ranks(rank) == [0, 1]


def fail_on(bad):
    if rank() == bad:
        raise LookupError("the reason")
    dist.barrier()


def never_meet():
    if rank() == 1:
        time.sleep(60)
    return rank()


def die():
    if rank() == 1:
        os._exit(7)
    time.sleep(60)


def test_pair_reports_errors_and_recovers():
    pair = TwoRanks()
    try:
        with pytest.raises(
            RankError, match=r"(?s)Rank 1 raised:.*fail_on.*LookupError: the reason"
        ):
            pair(fail_on, 1)
        assert pair(rank) == [0, 1]
        pair.timeout = 0.5
        with pytest.raises(RankError, match=r"No answer from rank (0 and )?1 within 0\.5 s"):
            pair(never_meet)
        pair.timeout = 120
        with pytest.raises(RankError, match="Rank 1 died with exit code 7"):
            pair(die)
        with pytest.raises(ValueError, match="top level"):
            pair(lambda: None)
    finally:
        pair.close()


def fit_twice(folder):
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel

    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            self.ranks = self.trainer.world_size
            return self.layer(batch).mean()

    answers = []
    for _ in range(2):
        torch.manual_seed(rank())  # DDP must share rank 0's parameters
        model = Model()
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_steps=2,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model)
        answers.append((trainer.global_step, model.ranks, model.layer.weight.detach()))
    return answers


def test_lightning_joins_the_pair_again_and_again(two_ranks, tmp_path):
    for zero, one in zip(*two_ranks(fit_twice, tmp_path), strict=True):
        assert zero[:2] == one[:2] == (2, 2)
        assert torch.equal(zero[2], one[2])
    assert dist.is_initialized() is False


# ---- gathering and reducing -----------------------------------------------------------------


def gathered(x, counts):
    own = mine(x, counts)
    return gather(own), gather(own, counts), rows_per_rank(len(own))


@pytest.mark.parametrize("counts", SLICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_is_the_global_batch_bit_by_bit(two_ranks, counts, dtype):
    x = torch.randn(sum(counts), 2, 3, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    for everything, again, rows in two_ranks(gathered, x, counts):
        assert torch.equal(everything, x)
        assert torch.equal(again, x)
        assert everything.dtype == dtype
        assert rows == counts
    assert torch.equal(gather(x), x)


def gather_other_widths():
    with pytest.raises(ValueError, match=r"a row has \[4, 8\] bytes on ranks 0 to 1"):
        gather(torch.ones(2, 1 + rank()))


def test_gather_refuses_rows_of_other_sizes(two_ranks):
    two_ranks(gather_other_widths)


def sums(x):
    return all_reduce_sum(x * (1 + rank())), x


def test_all_reduce_sum_leaves_its_input(two_ranks):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for total, after in two_ranks(sums, x.detach()):
        assert torch.equal(total, 3 * x)
        assert torch.equal(after, x)
    assert not all_reduce_sum(x).requires_grad


def coupled(x):
    """A loss that is no sum over samples."""
    return (x @ x.T).logsumexp((0, 1)) + x.std()


def coupled_gradient(x, weight, counts):
    own = mine(x, counts)
    w = weight.clone().requires_grad_()
    coupled(gather_with_grad(own @ w)).backward()
    return all_reduce_sum(w.grad) / world_size()


@pytest.mark.parametrize("counts", SLICES[:-1])
def test_a_batch_coupled_loss_has_the_gradient_of_one_process(two_ranks, counts):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), 3, dtype=torch.float64, generator=generator)
    weight = torch.randn(3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    coupled(x @ weight).backward()
    for gradient in two_ranks(coupled_gradient, x, weight.detach(), counts):
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-12, atol=1e-13)
    assert gather_with_grad(x) is x


def replicated(x):
    """The identity, whose gradient is the mean of what the ranks send back."""
    return all_reduce_sum_with_grad(x) / world_size()


def gather_of_slices(x):
    return gather_with_grad(mine(replicated(x), [3, 1]).tanh())


def check_gradients(x):
    x.requires_grad_()
    return gradcheck(gather_of_slices, x) and gradgradcheck(gather_of_slices, x)


def test_gather_and_all_reduce_pass_gradcheck_twice(two_ranks):
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert two_ranks(check_gradients, x) == [True, True]


def mean_and_gradient(values, weight, counts):
    values = values.clone().requires_grad_()
    own = None if weight is None else mine(weight, counts)
    mean = global_mean(mine(values, counts), own)
    mean.backward()
    ranks = world_size()
    return all_reduce_sum(mean) / ranks, all_reduce_sum(values.grad) / ranks


@pytest.mark.parametrize("counts", SLICES)
@pytest.mark.parametrize("weighted", [False, True])
def test_global_mean_averages_to_the_mean_over_the_global_batch(two_ranks, counts, weighted):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(sum(counts), dtype=torch.float64, generator=generator)
    weight = torch.rand(sum(counts), dtype=torch.float64, generator=generator)
    weight = weight if weighted else None
    expected = mean_and_gradient(values, weight, [sum(counts)])
    if sum(counts):
        share = torch.ones_like(values) if weight is None else weight
        torch.testing.assert_close(expected[0], (share * values).sum() / share.sum())
        torch.testing.assert_close(expected[1], share / share.sum())
    else:
        assert expected[0] == 0
    for answer in two_ranks(mean_and_gradient, values, weight, counts):
        torch.testing.assert_close(answer, expected, rtol=1e-14, atol=1e-15)


def test_global_mean_of_dropped_samples():
    values = torch.tensor([1.0, torch.inf, 3.0], requires_grad=True)
    assert global_mean(values, torch.tensor([1.0, 0.0, 1.0])) == 2
    nothing = global_mean(values, torch.zeros(3))
    nothing.backward()
    assert nothing == 0
    assert torch.equal(values.grad, torch.zeros(3))


# ---- selection ------------------------------------------------------------------------------


def marked(values, k, counts):
    return global_topk(mine(values, counts), k)


@pytest.mark.parametrize("counts", SLICES)
@pytest.mark.parametrize("k", [0, 1, 2, 3, 9])
def test_global_topk_on_two_ranks_is_that_of_one_process(two_ranks, counts, k):
    values = torch.tensor([1.0, 2.0, 2.0, 2.0, torch.nan])[: sum(counts)]
    masks = two_ranks(marked, values, k, counts)
    assert torch.equal(torch.cat(masks), global_topk(values, k))
    assert [len(mask) for mask in masks] == counts


@given(st.lists(st.integers(-3, 3), max_size=12), st.integers(0, 14))
def test_global_topk_takes_exactly_k_and_the_earlier_of_equals(values, k):
    chosen = torch.nonzero(global_topk(torch.tensor(values, dtype=torch.float32), k)).flatten()
    best_first = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert chosen.tolist() == sorted(best_first[:k])


def test_global_topk_takes_nan_last():
    values = torch.tensor([torch.nan, -5.0, torch.nan])
    assert global_topk(values, 1).tolist() == [False, True, False]
    assert int(global_topk(values, 2).sum()) == 2


@pytest.mark.parametrize(("values", "k"), [(torch.ones(2), -1), (torch.ones(2, 2), 1)])
def test_global_topk_refuses(values, k):
    with pytest.raises(ValueError, match="global_topk takes k >= 0"):
        global_topk(values, k)


# ---- random numbers -------------------------------------------------------------------------


def uniform(n, generator):
    return torch.rand(n, 3, generator=generator)


def noise(counts):
    generator = shared_generator(1, 7, "attack")
    own = draw_for_global_batch(uniform, counts[rank()], generator)
    return own, torch.rand(1, generator=generator)


@pytest.mark.parametrize("counts", SLICES)
def test_noise_does_not_depend_on_the_number_of_ranks(two_ranks, counts):
    alone, next_alone = noise([sum(counts)])
    (zero, next_zero), (one, next_one) = two_ranks(noise, counts)
    assert torch.equal(torch.cat([zero, one]), alone)
    assert next_alone == next_zero == next_one


def test_shared_generator_depends_on_seed_step_and_name():
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (1, 11, "a"), (11, 1, "a")]
    draws = {float(torch.rand((), generator=shared_generator(*key))) for key in keys}
    assert len(draws) == len(keys)
    # a fixed value: the hash must not change between releases, or resumed runs would
    assert shared_generator(0, 0, "a").initial_seed() == 4318761524313732268


# ---- rows to other ranks --------------------------------------------------------------------


def swap(x, table):
    counts = table[rank()]
    received, arriving = all_to_all(x[: sum(counts)] + 10 * rank(), counts)
    barrier()
    return received, arriving


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_all_to_all_sends_uneven_rows(two_ranks, dtype):
    x = torch.arange(5).to(dtype)[:, None].expand(5, 2)
    zero, one = two_ranks(swap, x, [[1, 3], [0, 2]])
    assert zero[0][:, 0].tolist() == [0]
    assert zero[1] == [1, 0]
    assert one[0][:, 1].tolist() == [1, 2, 3, 10, 11]
    assert one[1] == [3, 2]
    assert one[0].dtype == dtype
    same, counts = all_to_all(x, [5])
    assert torch.equal(same, x)
    assert counts == [5]
