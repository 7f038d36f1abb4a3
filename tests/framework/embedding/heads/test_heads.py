"""What all heads have in common: precision, samples of classes, empty batches, invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as peers

from framework.embedding import heads
from framework.embedding.heads import (
    ArcFaceHead,
    CosFaceHead,
    NormFaceHead,
    SFaceHead,
    SphereFaceHead,
)
from framework.embedding.heads.head import _sample_classes
from tests.framework.embedding.heads.test_ranks import HEADS
from tests.framework.embedding.heads.toys import DOUBLE, random_batch, random_head
from tests.helpers.checkout import ROOT
from tests.pretended_gpu.device import pretended_gpu

ALL = pytest.mark.parametrize("name", HEADS)


def head_of(name, **options):
    make, given_options = HEADS[name]
    return random_head(make, **{**given_options, **options})


@ALL
@given(seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_a_common_rotation_changes_nothing(name, seed):
    head, turned = head_of(name), head_of(name)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=DOUBLE, generator=generator)).Q
    x, y = random_batch(5, 6, 7, seed)
    with torch.no_grad():
        turned.weight.copy_(head.weight @ rotation)
    order = torch.randperm(5, generator=generator)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(turned((x @ rotation)[order], y[order]), head(x, y), **close)


@ALL
def test_half_precision_around_it_changes_nothing(name):
    head = head_of(name).float()
    x, y = random_batch(5, 6, 7)
    x = x.bfloat16()
    expected = head(x.float(), y)[0]
    again = head_of(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss, logs = again(x, y)
        logits = again.logits(x)
    assert loss.dtype == logits.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(logits, again.logits(x.float()))
    assert {value.dtype for value in logs.values()} <= {torch.float32, torch.float64}


@ALL
def test_an_empty_batch_reaches_every_parameter(name):
    head = head_of(name)
    x = torch.zeros(0, 6, dtype=DOUBLE, requires_grad=True)
    loss, logs = head(x, torch.zeros(0, dtype=torch.int64))
    assert loss == 0
    assert all(value.isfinite() for value in logs.values())
    loss.backward()
    for parameter in (x, *head.parameters()):
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@ALL
def test_reductions_of_the_losses_of_rows(name):
    x, y = random_batch(5, 6, 7)
    rows = head_of(name, reduction="none")(x, y)[0]
    assert rows.shape == (5,)
    torch.testing.assert_close(head_of(name)(x, y)[0], rows.mean())
    torch.testing.assert_close(head_of(name, reduction="sum")(x, y)[0], rows.sum())


# the forces of SFace are no gradient of its value
@pytest.mark.parametrize("name", [name for name in HEADS if name != "sface"])
def test_gradients(name):
    head = head_of(name, reduction="none")
    if name == "adaface":
        head.concentration = 1e-12  # the quality has no gradient
    head.eval()
    x, y = random_batch(3, 6, 7)
    x = (20 * x).requires_grad_()

    def loss(x, *parameters):
        named = dict(zip(dict(head.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(head, named, (x, y))[0]

    assert torch.autograd.gradcheck(loss, (x, *head.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (x, *head.parameters()), fast_mode=True)


@ALL
def test_embeddings_along_their_own_class_or_against_it(name):
    head = head_of(name).float()
    y = torch.arange(4)
    vectors = head.weight.detach()[:: head.centers][y]
    for sign in (1, -1):
        x = (sign * vectors).requires_grad_()
        head.zero_grad()
        loss, _ = head(x, y)
        loss.backward()
        assert loss.isfinite()
        assert x.grad.isfinite().all()
        assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["cosface", "curricularface", "sface", "softmax", "subcenter"])
def test_a_sample_of_classes(name):
    options = {"sample_rate": 0.5, "filter_threshold": None}
    if name == "softmax":
        del options["filter_threshold"]
    make, given_options = HEADS[name]
    options = {**given_options, **options}
    head = random_head(make, classes=20, **options)
    x, y = random_batch(5, 6, 20)
    head.count = 3
    kept = _sample_classes(head._count, head.seed, "classes", y, 20, 10)
    assert len(kept) == 10
    assert set(y.tolist()) <= set(kept.tolist())
    loss, _ = head(x, y)
    loss.backward()
    smaller = random_head(make, classes=10, **{**options, "sample_rate": 1.0})
    with torch.no_grad():
        size = head.weight.shape[0] // 20
        smaller.weight.copy_(head.weight.view(20, size, 6)[kept].flatten(0, 1))
        if head.bias is not None:
            smaller.bias.copy_(head.bias[kept])
    torch.testing.assert_close(loss, smaller(x, torch.searchsorted(kept, y))[0])
    idle = torch.ones(20, dtype=torch.bool).index_fill(0, kept, False)
    gradient = head.weight.grad.view(20, -1)
    assert torch.equal(gradient[idle], torch.zeros_like(gradient[idle]))
    assert gradient[y].ne(0).any(1).all()
    # evaluation compares with all
    whole = random_head(make, classes=20, **{**options, "sample_rate": 1.0})
    whole.load_state_dict(head.state_dict())
    assert torch.equal(head.eval()(x, y)[0], whole.eval()(x, y)[0])


def test_samples_go_on_after_a_restart():
    x, y = random_batch(3, 6, 50)
    head = random_head(CosFaceHead, classes=50, sample_rate=0.2)
    losses = [head(x, y)[0].item() for _ in range(2)]
    state = head.state_dict()
    losses += [head(x, y)[0].item() for _ in range(2)]
    assert len(set(losses)) == 4
    again = random_head(CosFaceHead, classes=50, sample_rate=0.2)
    again.load_state_dict(state)
    assert [again(x, y)[0].item() for _ in range(2)] == losses[2:]


def test_a_small_sample_holds_as_many_classes_as_the_batch_has_rows():
    labels = torch.tensor([4, 4, 9])
    kept = _sample_classes(torch.zeros(()), 0, "classes", labels, 10, 3)
    assert len(kept) == 3
    assert {4, 9} <= set(kept.tolist())
    head = random_head(CosFaceHead, sample_rate=0.01)
    assert head(torch.ones(1, 6, dtype=DOUBLE), torch.tensor([2]))[0] > 0


@pytest.mark.parametrize(
    ("make", "options"), [(NormFaceHead, {"scale": 8.0}), (SphereFaceHead, {"margin": 1})]
)
def test_doubtful_labels_are_left_out(make, options):
    plain = random_head(make, **options)
    filtered = random_head(make, filter_threshold=0.3, **options)
    x, y = random_batch(5, 6, 7)
    logits = plain.logits(x)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], plain.weight, dim=2)
    own = torch.nn.functional.one_hot(y, 7).bool()
    doubtful = (cosine > 0.3) & ~own
    assert doubtful.any()
    expected = torch.nn.functional.cross_entropy(logits.masked_fill(doubtful, 0), y)
    torch.testing.assert_close(filtered(x, y)[0], expected)


PEERS = [
    (NormFaceHead, {}, lambda d, c: peers.NormalizedSoftmaxLoss(c, d, temperature=1 / 16)),
    (CosFaceHead, {"margin": 0.3}, lambda d, c: peers.CosFaceLoss(c, d, margin=0.3, scale=16)),
    (ArcFaceHead, {"margin": 0.5}, lambda d, c: peers.ArcFaceLoss(c, d, scale=16, margin=28.6479)),
]


@pytest.mark.parametrize(("make", "options", "peer"), PEERS)
def test_the_loss_of_pytorch_metric_learning(make, options, peer):
    head, other = random_head(make, scale=16.0, **options), peer(6, 7).double()
    with torch.no_grad():
        other.W.copy_(head.weight.T)
    x, y = random_batch(16, 6, 7)
    torch.testing.assert_close(head(x, y)[0], other(x, y), rtol=1e-5, atol=0)


def test_what_is_wrong_is_said():
    head = random_head(CosFaceHead)
    x, y = random_batch(3, 6, 7)
    with pytest.raises(ValueError, match=r"x must be embeddings of shape \(B, 6\), got \(3, 5\)"):
        head(x[:, :5], y)
    with pytest.raises(ValueError, match=r"y must be int64 labels of shape \(3,\), got"):
        head(x, y.float())
    with pytest.raises(ValueError, match="Labels must lie in 0 to 6, got 1 to 7"):
        head(x, torch.tensor([1, 2, 7]))
    for make in (NormFaceHead, SFaceHead):
        with pytest.raises(ValueError, match="scale must be positive, got 0"):
            make(6, 7, scale=0)
    with pytest.raises(ValueError, match=r"sample_rate must lie in \(0, 1\], got 0"):
        CosFaceHead(6, 7, sample_rate=0)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        CosFaceHead(6, 1)
    with pytest.raises(ValueError, match="max_norm must be above min_norm"):
        heads.MagFaceHead(6, 7, max_norm=5)


@ALL
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_a_gpu_is_not_waited_for(name, sample_rate):
    with pretended_gpu(ROOT) as gpu:
        head = head_of(name, sample_rate=sample_rate).cuda()
        x, y = (part.cuda() for part in random_batch(5, 6, 7))
        before = gpu.log.count("wait")
        head(x.requires_grad_(), y)[0].backward()
        assert gpu.log.count("wait") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sphereface", "curricularface"])
def test_compiled(name):
    x, y = random_batch(5, 6, 7)
    results = []
    for compiled in (False, True):
        head = head_of(name, sample_rate=0.8)
        call = torch.compile(head, backend="aot_eager", fullgraph=True) if compiled else head
        inputs = x.clone().requires_grad_()
        loss = call(inputs, y)[0]
        loss.backward()
        results.append((loss, inputs.grad, head.weight.grad, head.count))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
