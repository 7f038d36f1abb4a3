import torch
import torch.nn.functional as F

from framework.embedding.unit_rows import unit_rows


def test_it_is_normalize():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_rows(x), F.normalize(x))
    assert torch.autograd.gradcheck(unit_rows, x)
    assert torch.autograd.gradgradcheck(unit_rows, x)


def test_zero_stays_zero():
    x = torch.zeros(2, 3, requires_grad=True)
    unit_rows(x).sum().backward()
    assert torch.equal(unit_rows(x), torch.zeros(2, 3))
    assert x.grad.isfinite().all()
