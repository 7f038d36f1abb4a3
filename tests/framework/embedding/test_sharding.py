import pytest
import torch

from framework.distributed.row_shards import RowShard
from framework.embedding.sharding import EXCLUDED, ClassShard, log_sum_exp, split_target

DOUBLE = torch.float64


def test_parts_cover_the_classes():
    for classes in range(1, 9):
        for ranks in range(1, 5):
            parts = [ClassShard(classes, rank, ranks) for rank in range(ranks)]
            rows = [range(*part.rows()[:2]) for part in parts]
            assert [c for part in rows for c in part] == list(range(classes))
            assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert ClassShard(5, 1, 2).rows(3) == RowShard(start=9, stop=15, total=15)


def test_there_is_no_such_rank():
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\), got 2"):
        ClassShard(5, 2, 2)


def test_a_part_of_another_group():
    with pytest.raises(RuntimeError, match="holds part 1 of 2 of its classes, but this is rank 0"):
        ClassShard(5, 1, 2).check_ranks()


def test_split_target_has_the_gradient_of_indexing():
    products = torch.randn(3, 4, dtype=DOUBLE, requires_grad=True)
    column, here = torch.tensor([1, 0, 3]), torch.tensor([True, False, True])
    own, others = split_target(products.clone(), column, here, 0.5)
    assert own.tolist() == [products[0, 1], 0, products[2, 3]]
    expected = products.detach().clone()
    expected[0, 1] = expected[2, 3] = 0.5
    assert torch.equal(others, expected)
    check = lambda x: split_target(x.clone(), column, here, 0.5)  # noqa: E731
    assert torch.autograd.gradcheck(check, products)
    assert torch.autograd.gradgradcheck(check, products)


def test_log_sum_exp():
    logits = torch.randn(3, 4, dtype=DOUBLE, requires_grad=True)
    whole = ClassShard(4)
    torch.testing.assert_close(log_sum_exp(logits, whole), logits.logsumexp(1))
    assert torch.autograd.gradcheck(lambda x: log_sum_exp(x, whole), logits)
    assert torch.autograd.gradgradcheck(lambda x: log_sum_exp(x, whole), logits)


def test_log_sum_exp_without_overflow():
    logits = torch.tensor([[1e4, 1e4, EXCLUDED], [-1e4, EXCLUDED, -1e4]], dtype=DOUBLE)
    found = log_sum_exp(logits.requires_grad_(), ClassShard(3))
    torch.testing.assert_close(found, logits.logsumexp(1))
    found.sum().backward()
    assert logits.grad.tolist() == [[0.5, 0.5, 0], [0.5, 0, 0.5]]
