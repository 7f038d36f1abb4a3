from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import shared_generator
from framework.embedding import GenericPairLoss, Metrix, MixedBatch
from framework.embedding.metrix import MixedPairs
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from tests.framework.embedding.test_pair_losses import BUILD, DIM, batch, every_loss
from tests.helpers.checkout import ROOT
from tests.pretended_gpu.device import pretended_gpu

MODES = ["input", "feature", "embedding"]


class Split(nn.Module):
    """A network in two parts that counts the images and maps it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(1, 3, 3).double()
        self.head = nn.Linear(3, DIM).double()
        self.seen = {"images": [], "maps": []}

    def forward_features(self, images: Tensor) -> Tensor:
        self.seen["images"].append(len(images))
        return self.trunk(images).relu()

    def forward_head(self, maps: Tensor) -> Tensor:
        self.seen["maps"].append(len(maps))
        return self.head(maps.amax((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def generator(step: int = 0) -> torch.Generator:
    return shared_generator(0, step, "metrix")


def mix(first: Tensor, second: Tensor, share: float | Tensor) -> Tensor:
    return share * first + (1 - share) * second


def build(name: str, mode: str = "embedding", **kwargs: object) -> tuple[Metrix, GenericPairLoss]:
    return Metrix(mode, per_pair=name == "nca", **kwargs), BUILD[name]()


def slow_loss(criterion: GenericPairLoss, mixed: MixedBatch, metrix: Metrix) -> Tensor:
    """Return the losses of anchors one by one, from the lists of their pairs."""
    unit, y, pairs = F.normalize(mixed.embeddings), mixed.labels, mixed.pairs
    share = {
        (int(f), int(n)): s for f, n, s in zip(pairs.first, pairs.second, pairs.share, strict=True)
    }
    values = []
    for a in range(len(y)):
        positives = [p for p in range(len(y)) if y[p] == y[a] and p != a]
        negatives = [n for n in range(len(y)) if y[n] != y[a]]
        if pairs.anchors_mixed:
            firsts = [] if positives and metrix.pairs == "coin" else [a]
        else:
            firsts = positives
        used = [(f, n) for f in firsts for n in negatives]
        if used:
            v = torch.stack([mix(unit[f], unit[n], share[f, n]) for f, n in used])
            labels = torch.stack([share[pair] for pair in used])
            values.append(criterion.of_similarities((unit[a] @ F.normalize(v).T)[None], labels))
    return torch.cat(values).mean()


@pytest.mark.parametrize("pairs", ["positive_negative", "anchor_negative"])
@pytest.mark.parametrize("name", ["similarity", "lifted", "binomial", "ms", "nca"])
def test_equals_the_sum_over_all_pairs_of_each_anchor(name: str, pairs: str) -> None:
    x, y = batch(9)
    metrix, criterion = build(name, pairs=pairs)
    mixed = metrix.mix(x, y, generator())
    values, logs = metrix.loss(criterion, mixed)
    torch.testing.assert_close(values.mean(), slow_loss(criterion, mixed, metrix))
    assert logs["metrix_pairs"] == logs["metrix_possible_pairs"] == mixed.pairs.valid.sum()
    torch.testing.assert_close(logs["metrix_share"], mixed.pairs.share[mixed.pairs.valid].mean())


def test_coin_mixes_anchors_without_positives_or_positives_of_the_others() -> None:
    x, y = batch(9)
    y = torch.cat([y[:7], torch.tensor([7, 8])])
    metrix, criterion = Metrix("embedding", pairs="coin"), BUILD["ms"]()
    sides = set()
    for step in range(6):
        mixed = metrix.mix(x, y, generator(step))
        sides.add(mixed.pairs.anchors_mixed)
        fellows = (y[:, None] == y).sum(1)[mixed.pairs.first[mixed.pairs.valid]] - 1
        assert not fellows.any() if mixed.pairs.anchors_mixed else fellows.all()
        values, _ = metrix.loss(criterion, mixed)
        torch.testing.assert_close(values.mean(), slow_loss(criterion, mixed, metrix))
    assert sides == {False, True}


@pytest.mark.parametrize("mode", MODES)
@every_loss
def test_every_mode_works_with_every_loss(name: str, mode: str) -> None:
    network = Split()
    metrix, criterion = build(name, mode)
    images = torch.rand(6, 1, 5, 5).double()
    y = torch.tensor([0, 0, 1, 1, 2, 3])
    mixed = metrix.embed(network, images, y, generator())
    values, _ = metrix.loss(criterion, mixed)
    assert values.shape == (6,)
    torch.testing.assert_close(mixed.embeddings, network(images), rtol=0, atol=1e-13)
    gradients = torch.autograd.grad(values.mean(), [*network.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    ("mode", "images", "maps"),
    [("input", [12], [12]), ("feature", [6], [6, 36]), ("embedding", [6], [6])],
)
def test_the_trunk_runs_once(mode: str, images: list[int], maps: list[int]) -> None:
    network = Split()
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    Metrix(mode).embed(network, torch.rand(6, 1, 5, 5).double(), y, generator())
    assert network.seen == {"images": images, "maps": maps}


@pytest.mark.parametrize("mode", MODES)
def test_mixtures_are_of_what_the_mode_says(mode: str) -> None:
    network, y = Split(), torch.tensor([0, 0, 1, 1])
    images = torch.rand(4, 1, 5, 5).double()
    mixed = Metrix(mode, max_pairs=5, per_pair=True).embed(network, images, y, generator())
    one, other, share = mixed.pairs.first, mixed.pairs.second, mixed.pairs.share
    maps, unit = network.forward_features(images), F.normalize(network(images))
    blocks = share[:, None, None, None]
    expected = {
        "input": lambda: network(mix(images[one], images[other], blocks)),
        "feature": lambda: network.forward_head(mix(maps[one], maps[other], blocks)),
        "embedding": lambda: mix(unit[one], unit[other], share[:, None]),
    }[mode]()
    assert share.unique().numel() == 5
    torch.testing.assert_close(mixed.mixed, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("weight", "row"), [(1.0, 1), (0.0, 2)])
@pytest.mark.parametrize("name", ["distance", "similarity", "binomial", "ms"])
def test_weights_of_one_and_zero_give_the_clean_loss(name: str, weight: float, row: int) -> None:
    x = batch(3)[0]
    y = torch.tensor([0, 0, 1])
    metrix, criterion = Metrix("embedding"), BUILD[name]()
    pairs = MixedPairs(
        first=torch.tensor([1]),
        second=torch.tensor([2]),
        share=torch.tensor([weight]),
        valid=torch.tensor([True]),
        possible=torch.tensor(1),
        anchors_mixed=False,
    )
    mixed = MixedBatch(x, pairs.mix(F.normalize(x)), pairs, y, start=0)
    values, _ = metrix.loss(criterion, mixed)
    unit = F.normalize(x)
    clean = criterion.of_similarities(unit[:1] @ unit[row : row + 1].T, float(row == 1))
    torch.testing.assert_close(values.mean(), clean[0], rtol=0, atol=1e-14)


def test_order_of_what_is_mixed_does_not_matter() -> None:
    rows = torch.rand(9, 4).double()
    pairs = Metrix(per_pair=True).choose(batch(9)[1], generator())
    turned = replace(pairs, first=pairs.second, second=pairs.first, share=1 - pairs.share)
    torch.testing.assert_close(pairs.mix(rows), turned.mix(rows))


def test_no_more_pairs_than_asked_for_are_drawn_evenly() -> None:
    y = batch(8)[1]
    metrix = Metrix(max_pairs=10)
    times = torch.zeros(8, 8)
    for step in range(300):
        pairs = metrix.choose(y, generator(step))
        assert pairs.valid.all()
        times[pairs.first, pairs.second] += 1
    possible = int(pairs.possible)
    same = y[:, None] == y
    assert times[same].sum() == 0
    assert (times > 0).sum() == possible
    expected = 300 * 10 / possible
    assert (times[times > 0] - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("per_pair", [False, True])
def test_shares_follow_the_beta_distribution(per_pair: bool) -> None:
    metrix, y = Metrix(alpha=2.0, pairs="coin", per_pair=per_pair), batch(5)[1]
    drawn = [metrix.choose(y, generator(step)) for step in range(500)]
    assert torch.equal(drawn[3].share, metrix.choose(y, generator(3)).share)
    shares = torch.stack([pairs.share for pairs in drawn])
    assert (shares[0].unique().numel() > 1) == per_pair
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares.var().item() == pytest.approx(1 / 20, abs=0.01)
    coins = [float(pairs.anchors_mixed) for pairs in drawn]
    assert sum(coins) / 500 == pytest.approx(0.5, abs=0.08)


def test_loss_that_does_not_depend_on_mixtures_of_one_share_is_refused() -> None:
    metrix, criterion = Metrix("embedding"), BUILD["nca"]()
    mixed = metrix.mix(*batch(6), generator())
    with pytest.raises(ValueError, match=r"NCALoss is 0 where .* set per_pair of Metrix to true"):
        metrix.loss(criterion, mixed)
    similarities = torch.rand(2, 3, requires_grad=True)
    value = criterion.of_similarities(similarities, 0.3).sum()
    assert torch.autograd.grad(value, similarities)[0].abs().max() < 1e-6


@pytest.mark.parametrize("y", [[0, 0, 0], [0, 1, 2], [0], []])
@every_loss
def test_batches_without_pairs_add_nothing(name: str, y: list[int]) -> None:
    x = batch(3)[0][: len(y)].requires_grad_()
    labels = torch.tensor(y, dtype=torch.int64)
    metrix, criterion = build(name)
    values, logs = metrix.loss(criterion, metrix.mix(x, labels, generator()))
    (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True, materialize_grads=True)
    assert not values.any()
    assert not gradient.any()
    assert logs["metrix_pairs"] == 0


def test_opposite_embeddings_have_a_finite_gradient() -> None:
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.6, -0.8]], requires_grad=True)
    metrix = Metrix("embedding")
    mixed = metrix.mix(x, torch.tensor([0, 0, 1]), generator())
    half = replace(mixed.pairs, share=torch.full_like(mixed.pairs.share, 0.5))
    mixed = replace(mixed, mixed=half.mix(F.normalize(x)), pairs=half)
    values, _ = metrix.loss(BUILD["ms"](), mixed)
    assert torch.autograd.grad(values.sum(), x)[0].abs().max() < 1e4


def test_half_precision_is_computed_in_float32() -> None:
    x, y = batch(6)
    metrix = Metrix("embedding")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = metrix.mix(x.bfloat16(), y, generator())
        values, _ = metrix.loss(BUILD["ms"](), mixed)
    assert values.dtype == torch.float32


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "maps"}, {"alpha": 0}, {"weight": -1}, {"pairs": "all"}, {"max_pairs": 0}],
)
def test_wrong_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Metrix(**arguments)


def step(name: str, first: int, pairs: str, number: int) -> list[Tensor]:
    """Return this rank's value and gradients; rank 0 holds the ``first`` rows of 11."""
    alone = not dist.is_initialized()
    rows = slice(11) if alone else slice(first) if dist.get_rank() == 0 else slice(first, 11)
    x, y = batch(11)
    network = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    metrix, criterion = build(name, pairs=pairs, max_pairs=40)
    mixed = metrix.embed(lambda images: images @ network, x[rows], y[rows], generator(number))
    values, _ = metrix.loss(criterion, mixed)
    objectives = Objectives(
        terms={}, per_sample={"mixed": values}, predictions=mixed.embeddings, index=y[rows]
    )
    total = reduce_objectives(objectives).total
    return [total.detach(), *torch.autograd.grad(total, (network, *criterion.parameters()))]


@every_loss
@pytest.mark.parametrize(
    ("first", "pairs"),
    [(6, "positive_negative"), (11, "positive_negative"), (4, "anchor_negative")],
)
def test_two_ranks_equal_one_process(
    name: str, first: int, pairs: str, two_ranks: Callable
) -> None:
    one, ranks = step(name, first, pairs, 5), two_ranks(step, name, first, pairs, 5)
    for expected, *parts in zip(one, *ranks, strict=True):  # averaged as DDP does
        torch.testing.assert_close(sum(parts) / 2, expected, rtol=0, atol=1e-12)
        assert expected.abs().max() > 1e-4


@pytest.mark.parametrize("mode", MODES)
@every_loss
def test_a_gpu_is_not_waited_for(name: str, mode: str) -> None:
    with pretended_gpu(ROOT) as gpu:
        network, (metrix, criterion) = Split().cuda(), build(name, mode)
        criterion.cuda()
        images, y = torch.rand(4, 1, 5, 5).double().cuda(), torch.tensor([0, 0, 1, 2]).cuda()
        before = gpu.log.count("wait")
        mixed = metrix.embed(network, images, y, generator())
        loss = criterion(mixed.embeddings, y) + metrix.loss(criterion, mixed)[0].mean()
        loss.backward()
        assert gpu.log.count("wait") == before
