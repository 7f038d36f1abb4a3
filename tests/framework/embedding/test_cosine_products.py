import torch
import torch.nn.functional as F

from framework.embedding.cosine_products import cosine_products


def test_it_is_a_product_with_unit_vectors():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(cosine_products(x, weight), F.linear(x, F.normalize(weight)))
    assert torch.autograd.gradcheck(cosine_products, (x, weight))
    assert torch.autograd.gradgradcheck(cosine_products, (x, weight))
    torch.autograd.gradcheck(lambda x: cosine_products(x, weight.detach()), x)


def test_a_class_of_zeros():
    x, weight = torch.ones(2, 3), torch.zeros(4, 3, requires_grad=True)
    found = cosine_products(x, weight)
    assert torch.equal(found, torch.zeros(2, 4))
    found.sum().backward()
    assert weight.grad.isfinite().all()
