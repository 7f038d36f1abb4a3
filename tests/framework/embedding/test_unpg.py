import math
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import gather
from framework.embedding.heads import ArcFaceHead, CosFaceHead, NormFaceHead
from framework.embedding.heads.cosine_head import CosineHead
from framework.embedding.unpg import UNPG
from tests.framework.embedding.heads.test_ranks import HEADS
from tests.framework.embedding.heads.toys import random_batch, random_head, toy
from tests.helpers.checkout import ROOT
from tests.pretended_gpu.device import pretended_gpu

X = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
Y = torch.tensor([0, 0, 1, 1])
WEIGHT = torch.tensor([[1.0, 0.2], [-0.2, 1.0], [0.6, -0.8]], dtype=torch.float64)


def rows_of_head(
    x: Tensor, y: Tensor, weight: Tensor, a: Tensor | None, scale: float = 10
) -> Tensor:
    """Return the loss of every row of a margin softmax with further negatives."""
    cosines = F.normalize(x) @ F.normalize(weight).T
    logits = scale * (cosines - 0.35 * F.one_hot(y, len(weight)).to(x))
    total = logits.logsumexp(1)
    total = total if a is None else torch.logaddexp(total, a)
    return total - logits.gather(1, y[:, None])[:, 0]


def batch(rows: int, classes: int = 4, dim: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(n, dim, generator=generator).double() for n in (rows, classes))
    return x, torch.randint(classes, (rows,), generator=generator), weight


@pytest.mark.parametrize(
    ("make", "options", "plain", "with_pairs"),
    [
        (NormFaceHead, {}, 0.007878, 0.042612),
        (CosFaceHead, {"margin": 0.35}, 0.207443, 0.876426),
        (ArcFaceHead, {"margin": 0.5}, 0.093587, 0.535833),
    ],
)
def test_values_of_the_worked_example(
    make: type[CosineHead], options: dict[str, float], plain: float, with_pairs: float
) -> None:
    head, x, y = toy(make, scale=10.0, **options)
    a, logs = UNPG()(x, y, head.scale)
    assert head(x, y)[0].item() == pytest.approx(plain, abs=6e-7)
    assert head(x, y, negatives=a)[0].item() == pytest.approx(with_pairs, abs=6e-7)
    assert logs["unpg_negatives"] == 4
    assert logs["unpg_kept"] == 1
    assert logs["unpg_mean"].item() == pytest.approx(0, abs=1e-15)
    assert logs["unpg_max"].item() == pytest.approx(0.6)


def test_negatives_of_own_pairs_alone_would_be_another_loss() -> None:
    head, x, y = toy(CosFaceHead, scale=10.0)
    own = torch.where(Y[:, None] != Y, 10 * X @ X.T, -torch.inf).logsumexp(1)
    rows = [head(x[i : i + 1], y[i : i + 1], own[i])[0].item() for i in range(4)]
    assert sum(rows) / 4 == pytest.approx(0.547367, abs=6e-7)


@pytest.mark.parametrize("whisker", [None, 0.5, 1.5])
def test_equals_the_concatenation_of_all_negatives(whisker: float | None) -> None:
    x, y, weight = batch(12)
    x.requires_grad_()
    unit = F.normalize(x)
    first, second = torch.triu_indices(12, 12, 1)
    different = y[first] != y[second]
    v = (unit[first] * unit[second]).sum(1)[different]
    if whisker is not None:
        ascending = v.detach().sort().values
        q1, q3 = ascending[int(0.25 * len(v))], ascending[int(0.75 * len(v))]
        v = v[(v >= q1 - whisker * (q3 - q1)) & (v <= q3 + whisker * (q3 - q1))]
    cosines = unit @ F.normalize(weight).T
    logits = torch.cat([16 * (cosines - 0.35 * F.one_hot(y, 4).double()), 16 * v.expand(12, -1)], 1)
    slow = F.cross_entropy(logits, y)
    a, logs = UNPG(whisker=whisker)(x, y, 16.0)
    quick = rows_of_head(x, y, weight, a, scale=16).mean()
    torch.testing.assert_close(quick, slow, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (quick, slow)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)
    assert logs["unpg_negatives"] == len(v)
    assert logs["unpg_max"].item() == pytest.approx(v.max().item())
    assert logs["unpg_mean"].item() == pytest.approx(v.mean().item())


def test_nothing_larger_than_the_table_of_pairs_is_kept_for_the_gradient() -> None:
    x, y, _ = batch(30)
    sizes = []

    def note(saved: Tensor) -> Tensor:
        sizes.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        UNPG()(x.requires_grad_(), y, 10.0)
    assert max(sizes) == 30**2


def test_whiskers_leave_outliers_out() -> None:
    x, y, _ = batch(40, dim=16)
    x[y == 1] = torch.cat([x[y == 0][:1], x[y == 1][1:]])  # one person under two names
    everything, all_logs = UNPG(whisker=None)(x, y, 16.0)
    rest, logs = UNPG()(x, y, 16.0)
    assert rest < everything
    assert 0.98 < logs["unpg_kept"] < all_logs["unpg_kept"] == 1
    assert logs["unpg_max"] < 0.99 < all_logs["unpg_max"]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("y", [[2, 2, 2, 2], [2], []])
def test_without_a_negative_pair_the_head_is_alone(y: list[int]) -> None:
    labels = torch.tensor(y, dtype=torch.int64)
    x, weight = X[: len(y)].clone().requires_grad_(), WEIGHT
    with torch.autograd.detect_anomaly():
        a, logs = UNPG()(x, labels, 10.0)
        assert a == -torch.inf
        rows = rows_of_head(x, labels, weight, a)
        (gradient,) = torch.autograd.grad(rows.sum(), x)
        head = toy(CosFaceHead, reduction="none")[0]
        of_head = head(x, labels, negatives=a)[0]
    alone = rows_of_head(x, labels, weight, None)
    assert torch.equal(rows, alone)
    assert torch.equal(gradient, torch.autograd.grad(alone.sum(), x)[0])
    assert torch.equal(of_head, head(x, labels)[0])
    facts = {name: value.item() for name, value in logs.items()}
    assert facts == {"unpg_negatives": 0, "unpg_kept": 1, "unpg_mean": 0, "unpg_max": 0}


@pytest.mark.parametrize(
    "name", [name for name, (make, _) in HEADS.items() if make.takes_negatives]
)
def test_loss_is_at_least_that_of_the_head(name: str) -> None:
    make, options = HEADS[name]
    head = random_head(make, reduction="none", **options).eval()
    x, y = random_batch(12, 6, 7)
    negatives = UNPG()(x, y, getattr(head, "scale", 10.0))[0]
    alone, with_pairs, none = (head(x, y, a)[0] for a in (None, negatives, negatives - torch.inf))
    assert (with_pairs > alone).all()
    assert torch.equal(none, alone)


def test_order_and_rotation_of_embeddings_do_not_matter() -> None:
    x, y, _ = batch(12)
    order = torch.randperm(12)
    rotation = torch.linalg.qr(torch.randn(6, 6).double()).Q
    expected = UNPG()(x, y, 10.0)[0]
    torch.testing.assert_close(UNPG()(x[order], y[order], 10.0)[0], expected)
    torch.testing.assert_close(UNPG()(x @ rotation, y, 10.0)[0], expected)
    torch.testing.assert_close(UNPG()(3 * x, y, 10.0)[0], expected)


def test_own_scale_comes_before_that_of_the_call() -> None:
    expected = UNPG()(X, Y, 10.0)[0]
    assert UNPG(scale=10.0)(X, Y, 3.0)[0] == UNPG(scale=10.0)(X, Y)[0] == expected
    assert UNPG()(X, Y, torch.tensor(10.0, dtype=torch.float64))[0] == expected
    with pytest.raises(ValueError, match="UNPG has no scale"):
        UNPG()(X, Y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, _ = UNPG()(x, Y, 64.0)
    assert a.dtype == torch.float32
    assert math.isfinite(a)
    torch.testing.assert_close(a, UNPG()(x.float(), Y, 64.0)[0])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="scale must be positive"):
        UNPG(scale=0.0)
    with pytest.raises(ValueError, match="whisker must be at least 0"):
        UNPG(whisker=-1.0)


def step(counts: list[int], options: dict[str, float], sharded: bool = False) -> list[Tensor]:
    """Return the loss, the gradients and the negatives, over the ranks whose rows these are."""
    ranks, rank = len(counts), dist.get_rank() if dist.is_initialized() else 0
    head = random_head(CosFaceHead, scale=10.0, reduction="none", **options)
    if sharded:
        head.shard(rank, ranks)
    x, y = (part.split(counts)[rank] for part in random_batch(11, 6, 7))
    network = torch.eye(6, dtype=torch.float64).requires_grad_()
    embeddings = x @ network
    a, _ = UNPG()(embeddings, y, head.scale)
    loss = ranks * head(embeddings, y, negatives=a)[0].sum() / 11
    of_network, of_head = torch.autograd.grad(loss, (network, head.weight))
    values = [gather(value[None].detach()).mean(0) for value in (loss, of_network)]
    of_head = gather(of_head) if sharded else gather(of_head[None]).mean(0)
    return [*values, of_head, a.detach()]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("options", [{}, {"sample_rate": 0.6}], ids=["all", "sample"])
@pytest.mark.parametrize("counts", [[6, 5], [11, 0]], ids=["uneven", "empty"])
def test_two_ranks_equal_one_process(
    counts: list[int], options: dict[str, float], sharded: bool, two_ranks: Callable
) -> None:
    one = step([11], options)
    for values in two_ranks(step, counts, options, sharded):
        torch.testing.assert_close(values, one, rtol=0, atol=1e-12)
    assert one[1].abs().max() > 1e-3


def test_a_gpu_is_not_waited_for() -> None:
    with pretended_gpu(ROOT) as gpu:
        x, y = X.cuda().requires_grad_(), Y.cuda()
        before = gpu.log.count("wait")
        a, _ = UNPG()(x, y, 10.0)
        a.backward()
        assert gpu.log.count("wait") == before
