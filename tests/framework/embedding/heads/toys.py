"""Small heads and batches whose numbers are known."""

import torch

DOUBLE = torch.float64
COSINES = (0.6, 0.2, -0.1, 0.5)


def with_cosines(make, cosines=COSINES, norm=1.0, **options):
    """Return a head, one embedding and its label, 0, so that the cosines are those given."""
    wanted = torch.tensor(cosines, dtype=DOUBLE)
    head = make(len(wanted) + 1, len(wanted), **options).double()
    with torch.no_grad():
        head.weight[:, 0] = wanted
        head.weight[:, 1:] = torch.diag((1 - wanted**2).sqrt())
    x = torch.zeros(1, len(wanted) + 1, dtype=DOUBLE)
    x[0, 0] = norm
    return head, x.requires_grad_(), torch.tensor([0])


def toy(make, **options):
    """Return a head in the plane, four embeddings and their labels."""
    head = make(2, 3, **options).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1, 0.2], [-0.2, 1], [0.6, -0.8]]))
    x = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], dtype=DOUBLE)
    return head, x.requires_grad_(), torch.tensor([0, 0, 1, 1])


def random_batch(rows, dim, classes, seed=0):
    """Return embeddings and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, dtype=DOUBLE, generator=generator)
    return x, torch.randint(classes, (rows,), generator=generator)


def random_head(make, dim=6, classes=7, seed=1, **options):
    """Return a head in double precision whose parameters are a function of a seed."""
    head = make(dim, classes, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim:
                parameter.copy_(torch.randn(parameter.shape, dtype=DOUBLE, generator=generator))
    return head
