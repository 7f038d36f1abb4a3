"""Worked numbers of the heads: losses, gradients, limits and bounds."""

import math

import pytest
import torch

from framework.embedding.heads import ArcFaceHead, CosFaceHead, NormFaceHead
from framework.embedding.heads.angular_margin import shifted_cosine
from tests.framework.embedding.heads.toys import COSINES, DOUBLE, random_batch, toy, with_cosines

TOLERANCE = {"abs": 1e-6, "rel": 0}


@pytest.mark.parametrize(
    ("make", "options", "loss"),
    [
        (NormFaceHead, {}, 0.327220),
        (CosFaceHead, {"margin": 0.35}, 2.626061),
        (ArcFaceHead, {"margin": 0.5}, 3.647263),
    ],
)
def test_loss_of_four_cosines(make, options, loss):
    head, x, y = with_cosines(make, scale=10.0, **options)
    value, logs = head(x, y)
    assert value.item() == pytest.approx(loss, **TOLERANCE)
    assert logs["target_cosine"].item() == pytest.approx(0.6)
    assert logs["target_angle"].item() == pytest.approx(math.degrees(math.acos(0.6)))
    assert logs["embedding_norm"].item() == pytest.approx(1.0)
    torch.testing.assert_close(head.logits(x)[0], 10 * torch.tensor(COSINES, dtype=DOUBLE))


def slopes_of(make, **options):
    """Return the gradient with respect to the four cosines."""
    head, x, y = with_cosines(make, **options)
    head(x, y)[0].backward()
    # a row of the weights is (c, sqrt(1 - c^2)); along the arc a cosine changes by the sine
    cosine = torch.tensor(COSINES, dtype=DOUBLE)
    return head.weight.grad[:, 0] / (1 - cosine**2)


@pytest.mark.parametrize(
    ("margin_grad", "target"), [("exact", -12.049086), ("straight_through", -9.739376)]
)
def test_gradient_of_arcface(margin_grad, target):
    slopes = slopes_of(ArcFaceHead, scale=10.0, margin=0.5, margin_grad=margin_grad)
    assert slopes.tolist() == pytest.approx([target, 0.460810, 0.022942, 9.255624], **TOLERANCE)


def test_beyond_the_bound():
    cosine = torch.tensor([-0.95], dtype=DOUBLE)
    found = {b: shifted_cosine(cosine, 0.5, b).item() for b in ("none", "guard", "easy")}
    expected = {"none": -0.983404, "guard": -1.189713, "easy": -0.95}
    assert found == pytest.approx(expected, **TOLERANCE)
    guarded = shifted_cosine(torch.linspace(-1, 1, 999, dtype=DOUBLE), 0.5)
    assert guarded.diff().min() > 0


UNPG = [
    (NormFaceHead, {}, 0.007878, 0.042612),
    (CosFaceHead, {"margin": 0.35}, 0.207443, 0.876426),
    (ArcFaceHead, {"margin": 0.5}, 0.093587, 0.535833),
]


@pytest.mark.parametrize(("make", "options", "plain", "joined"), UNPG)
def test_further_negatives(make, options, plain, joined):
    head, x, y = toy(make, scale=10.0, **options)
    negatives = torch.tensor([0, -0.6, 0.6, 0], dtype=DOUBLE).sort().values.requires_grad_()
    assert head(x, y)[0].item() == pytest.approx(plain, **TOLERANCE)
    loss = head(x, y, torch.logsumexp(10 * negatives, 0))[0]
    assert loss.item() == pytest.approx(joined, **TOLERANCE)
    if make is CosFaceHead:
        (slopes,) = torch.autograd.grad(loss, negatives)
        expected = [2.89507e-5, 0.01167955, 0.01167955, 4.71186516]
        assert slopes.tolist() == pytest.approx(expected, **TOLERANCE)


@pytest.mark.parametrize(("make", "options"), [(CosFaceHead, {}), (ArcFaceHead, {})])
def test_without_margin_it_is_normface(make, options):
    x, y = random_batch(5, 6, 7)
    plain = NormFaceHead(6, 7, scale=64.0).double()
    head = make(6, 7, margin=0.0, **options).double()
    head.load_state_dict(plain.state_dict())
    torch.testing.assert_close(head(x, y)[0], plain(x, y)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("classes", "scale", "bound"), [(10, 1, 1.376935), (10, 10, 1.344990e-4), (1000, 10, 0.0439239)]
)
def test_least_loss_of_normface(classes, scale, bound):
    # the vectors of a regular simplex are as far apart as so many can be
    vectors = torch.eye(classes, dtype=DOUBLE) - 1 / classes
    head = NormFaceHead(classes, classes, scale=scale).double()
    head.load_state_dict(head.state_dict() | {"weight": vectors})
    loss = head(vectors, torch.arange(classes))[0]
    assert loss.item() == pytest.approx(bound, rel=1e-5)
    assert loss.item() == pytest.approx(
        math.log1p((classes - 1) * math.exp(-scale * classes / (classes - 1))), rel=1e-9
    )
