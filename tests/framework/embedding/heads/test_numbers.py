"""Worked numbers of the heads: losses, gradients, limits and bounds."""

import math

import pytest
import torch

from framework.embedding.heads import (
    AdaFaceHead,
    ArcFaceHead,
    CombinedMarginHead,
    CosFaceHead,
    CurricularFaceHead,
    HypersphericalHead,
    MagFaceHead,
    NormFaceHead,
    SFaceHead,
    SoftmaxHead,
    SphereFaceHead,
    SubCenterArcFaceHead,
    least_scale,
)
from framework.embedding.heads.angular_margin import shifted_cosine
from tests.framework.embedding.heads.toys import COSINES, DOUBLE, random_batch, toy, with_cosines

TOLERANCE = {"abs": 1e-6, "rel": 0}


@pytest.mark.parametrize(
    ("make", "options", "loss"),
    [
        (NormFaceHead, {}, 0.327220),
        (CosFaceHead, {"margin": 0.35}, 2.626061),
        (ArcFaceHead, {"margin": 0.5}, 3.647263),
        (CombinedMarginHead, {"angular_margin": 0.5, "margin": 0.0}, 3.647263),
        (CombinedMarginHead, {"angular_margin": 0.0, "margin": 0.35}, 2.626061),
        (CurricularFaceHead, {"margin": 0.5}, 1.493624),
        (HypersphericalHead, {"constraint": "project"}, 0.327220),
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


def test_curricularface():
    head, x, y = with_cosines(CurricularFaceHead, scale=10.0)
    assert head.eval()(x, y)[1]["t"] == 0
    loss, logs = head.train()(x, y)
    assert logs["t"].item() == pytest.approx(0.006)
    others = torch.tensor([0.412, -1, 2.53], dtype=DOUBLE)
    target = 10 * math.cos(math.acos(0.6) + 0.5)
    expected = torch.logaddexp(others.logsumexp(0), torch.tensor(target)) - target
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    head.train()(x, y)
    assert head.t.item() == pytest.approx(0.006 * 1.99)


def test_magface():
    head, x, y = with_cosines(MagFaceHead, norm=40.0, scale=10.0)
    loss, logs = head(x, y)
    assert loss.item() == pytest.approx(4.182468 + 35 * 0.0283058, abs=1e-5)
    assert logs["margin"].item() == pytest.approx(0.555)
    norms = torch.tensor([5, 40, 200], dtype=DOUBLE, requires_grad=True)
    terms = head.norm_term(norms)
    assert terms.tolist() == pytest.approx([0.1008264, 0.0283058, 0.0181818], **TOLERANCE)
    (slopes,) = torch.autograd.grad(terms.sum(), norms)
    assert slopes.tolist() == pytest.approx([0, 110**-2 - 40**-2, 0])


def test_sphereface():
    head, x, y = with_cosines(SphereFaceHead, lambda_start=5.0)
    logits = torch.tensor([[0.307200, 0.2, -0.1, 0.5]], dtype=DOUBLE)
    expected = torch.nn.functional.cross_entropy(logits, y).item()
    assert head(x, y)[0].item() == pytest.approx(expected, **TOLERANCE)
    unannealed, x, y = with_cosines(SphereFaceHead, norm=3.0, lambda_start=0.0, lambda_min=0.0)
    logits = 3 * torch.tensor([[-1.156800, 0.2, -0.1, 0.5]], dtype=DOUBLE)
    expected = torch.nn.functional.cross_entropy(logits, y).item()
    assert unannealed(x, y)[0].item() == pytest.approx(expected, **TOLERANCE)


def test_sphereface_anneals_with_the_training_forwards():
    head, x, y = with_cosines(SphereFaceHead)
    found = [head(x, y)[1]["lambda"].item() for _ in range(3)]
    assert found == pytest.approx([1000, 1000 / 1.12, 1000 / 1.24])
    head.eval()(x, y)
    again, _, _ = with_cosines(SphereFaceHead)
    again.load_state_dict(head.state_dict())
    assert again(x, y)[1]["lambda"].item() == pytest.approx(1000 / 1.36)
    again.count = 10**6
    assert again(x, y)[1]["lambda"].item() == 5


def test_multiplied_angle_falls_without_a_jump():
    cosine = torch.linspace(-1, 1, 2001, dtype=DOUBLE)
    found = shifted_cosine(cosine, 0.2, multiplier=1.35)
    assert found.diff().min() > 0
    assert found.diff().max() < 0.05


SFACE = [
    ((0.65, 0.36, 0.4, 0.1), (23.518633, 28.774595, 61.628590, 2.53261e-8), 19.723179),
    ((0.6, 0.2, -0.1, 0.5), (63.352671, 8.30398e-5, 2.77475e-15, 63.999686), -6.011743),
    ((0.9, 0.0, 0.1), (1.77648e-13, 0.0, 2.53261e-8), 2.53245e-9),
]


@pytest.mark.parametrize(("cosines", "speeds", "expected"), SFACE)
def test_sface(cosines, speeds, expected):
    head, x, y = with_cosines(SFaceHead, cosines)
    loss, logs = head(x, y)
    assert loss.item() == pytest.approx(expected, abs=1e-6, rel=1e-4)
    assert logs["intra"] + logs["inter"] == pytest.approx(loss.item())
    assert logs["finished"] == (cosines[0] > math.cos(0.87))
    active = sum(cosine > math.cos(1.2) for cosine in cosines[1:])
    assert logs["active_negatives"] == pytest.approx(active / (len(cosines) - 1))
    loss.backward()
    cosine = torch.tensor(cosines, dtype=DOUBLE)
    slopes = head.weight.grad[:, 0] / (1 - cosine**2)
    signed = [-speeds[0], *speeds[1:]]
    assert slopes.tolist() == pytest.approx(signed, abs=1e-6, rel=1e-5)


def test_sface_field():
    head = random_sface()
    x, y = random_batch(5, 6, 7)
    x.requires_grad_()
    head(x, y)[0].backward()
    # orthogonal to the embedding, and weaker the longer that is
    torch.testing.assert_close((x * x.grad).sum(1), torch.zeros(5, dtype=DOUBLE))
    longer = (3 * x.detach()).requires_grad_()
    head(longer, y)[0].backward()
    torch.testing.assert_close(longer.grad, x.grad / 3)


def random_sface(**options):
    torch.manual_seed(0)
    return SFaceHead(6, 7, scale=8.0, **options).double()


def test_limits_of_sface():
    x, y = random_batch(5, 6, 7)
    # slope 0: a linear loss with half the scale
    head = random_sface(slope=1e-12)
    cosine = head.logits(x) / 8
    own = cosine.gather(1, y[:, None]).squeeze(1)
    expected = (4 * (cosine.sum(1) - 2 * own)).mean()
    torch.testing.assert_close(head(x, y)[0], expected, rtol=1e-10, atol=0)
    # a steep slope: forces are on or off
    head = random_sface(slope=1e12)
    cosine, angle = head.logits(x) / 8, (head.logits(x) / 8).acos()
    pull = (own.acos() > 0.87) * own
    push = ((angle < 1.2) * cosine).sum(1) - (own.acos() < 1.2) * own
    torch.testing.assert_close(head(x, y)[0], 8 * (push - pull).mean(), rtol=1e-12, atol=1e-12)


def test_sface_stops_at_its_angles():
    head, x, y = with_cosines(SFaceHead, (math.cos(0.87), math.cos(1.2)))
    loss, _ = head(x, y)
    assert loss.item() == pytest.approx(32 * (math.cos(1.2) - math.cos(0.87)), abs=1e-9)


def test_sface_has_no_use_for_negatives():
    head, x, y = with_cosines(SFaceHead)
    with pytest.raises(ValueError, match="SFaceHead has no denominator that further negatives"):
        head(x, y, torch.zeros(()))


def test_adaface():
    head, x, y = with_cosines(AdaFaceHead, norm=30.0, scale=10.0)
    loss, logs = head(x, y)
    # one norm has a mean and no standard deviation
    assert head.norm_mean.item() == pytest.approx(0.99 * 20 + 0.01 * 30)
    assert head.norm_std.item() == 100
    quality = 0.333 * (30 - 20.1) / 100.001
    target = math.cos(math.acos(0.6) - 0.4 * quality) - 0.4 * (1 + quality)
    logits = 10 * torch.tensor([[target, 0.2, -0.1, 0.5]], dtype=DOUBLE)
    expected = torch.nn.functional.cross_entropy(logits, y).item()
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert logs["margin"].item() == pytest.approx(0.4 * (1 + quality))


def test_adaface_statistics():
    head = AdaFaceHead(6, 7).double()
    x, y = random_batch(9, 6, 7)
    head(x, y)
    norms = x.norm(dim=1)
    assert head.norm_mean.item() == pytest.approx(0.99 * 20 + 0.01 * norms.mean().item())
    assert head.norm_std.item() == pytest.approx(0.99 * 100 + 0.01 * norms.std().item())
    before = head.norm_mean.clone()
    head.eval()(x, y)
    head.train()(x[:0], y[:0])
    assert head.norm_mean == before


EQUAL = [
    (CosFaceHead, {"margin": 0.0}, NormFaceHead, {}),
    (ArcFaceHead, {"margin": 0.0}, NormFaceHead, {}),
    (ArcFaceHead, {"margin": 0.0, "margin_grad": "straight_through"}, NormFaceHead, {}),
    (CombinedMarginHead, {"angular_margin": 0.0, "margin": 0.0}, NormFaceHead, {}),
    (MagFaceHead, {"min_margin": 0.0, "max_margin": 0.0, "norm_weight": 0.0}, NormFaceHead, {}),
    (AdaFaceHead, {"margin": 0.0}, NormFaceHead, {}),
    (HypersphericalHead, {}, NormFaceHead, {}),
    (NormFaceHead, {"learnable_scale": True}, NormFaceHead, {}),
    (CombinedMarginHead, {"angular_margin": 0.5, "margin": 0.0}, ArcFaceHead, {}),
    (CombinedMarginHead, {"angular_margin": 0.0, "margin": 0.35}, CosFaceHead, {}),
    (MagFaceHead, {"min_margin": 0.5, "max_margin": 0.5, "norm_weight": 0.0}, ArcFaceHead, {}),
    (SubCenterArcFaceHead, {"centers": 1}, ArcFaceHead, {}),
]


@pytest.mark.parametrize(("make", "options", "other", "of_other"), EQUAL)
def test_special_cases(make, options, other, of_other):
    x, y = random_batch(5, 6, 7)
    first = make(6, 7, scale=8.0, **options).double()
    second = other(6, 7, scale=8.0, **of_other).double()
    second.weight = first.weight
    results = []
    for head in (first, second):
        inputs = x.clone().requires_grad_()
        loss = head(inputs, y)[0]
        results.append((loss, *torch.autograd.grad(loss, (inputs, head.weight))))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)


def test_sphereface_without_margin_is_normface():
    x, y = random_batch(5, 6, 7)
    x = torch.nn.functional.normalize(x)
    head, plain = SphereFaceHead(6, 7, margin=1).double(), NormFaceHead(6, 7, scale=1.0).double()
    plain.weight = head.weight
    torch.testing.assert_close(head(x, y)[0], plain(x, y)[0], rtol=1e-10, atol=0)


def test_softmax_is_a_linear_layer():
    x, y = random_batch(5, 6, 7)
    head = SoftmaxHead(6, 7).double()
    torch.nn.init.normal_(head.bias)
    logits = torch.nn.functional.linear(x, head.weight, head.bias)
    assert torch.equal(head.logits(x), logits)
    loss, logs = head(x, y)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, y))
    cosine = torch.nn.functional.cosine_similarity(x, head.weight[y]).mean()
    torch.testing.assert_close(logs["target_cosine"], cosine.detach())


def test_nearest_vector_of_a_class():
    head = SubCenterArcFaceHead(2, 2, centers=2, scale=10.0).double()
    vectors = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=DOUBLE)
    head.load_state_dict(head.state_dict() | {"weight": vectors})
    x = torch.tensor([[0.8, 0.6], [-0.6, -0.8]], dtype=DOUBLE)
    expected = torch.tensor([[8.0, -6.0], [-6.0, 8.0]], dtype=DOUBLE)
    torch.testing.assert_close(head.logits(x), expected)


def test_projection():
    head = HypersphericalHead(6, 7, constraint="project")
    with torch.no_grad():
        head.weight.mul_(3)
    head.project_()
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(7))


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


def test_least_scale():
    assert least_scale(93431, 0.9999) == pytest.approx(20.654987, **TOLERANCE)
    vectors = torch.eye(10, dtype=DOUBLE) - 0.1
    head = NormFaceHead(10, 10, scale=least_scale(10, 0.9)).double()
    head.load_state_dict(head.state_dict() | {"weight": vectors})
    probabilities = head.logits(vectors).softmax(1).diagonal()
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.9))
