"""What training a face embedder costs beside what it is usually done with.

    python -m benchmarks.face [--device cuda] [--rounds 5] [--small] [--only heads|unpg|...]

On a CPU everything runs on one thread. The full sizes need 6 GB and minutes; ``--small`` takes
those for a laptop.

Heads: forward and backward of those with one vector for each class, at B = 512, C = 100,000 and
d = 512, against a plain linear layer with cross-entropy, and against the loss of
pytorch-metric-learning where it has one. Goals: heads with a margin at most 1.15 of the plain one,
and none slower than its peer.

UNPG: the loss of a batch with negatives from its own pairs, forward and backward, against the
concatenation of all pairs to the logits of every row, as released, at B = 512. Goals: a tenth of
its memory at most, and the same loss.

Shards: bytes of a rank for weight, gradient and momentum of a classifier, and the most that is
alive besides in a step, replicated and in parts on two ranks. Goal: half of each within 5 percent.

Metrix: step of a network with mixed feature maps, the trunk run once, against the clean step and
against a trunk that is run for the batch, for first and for second rows of the mixtures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.memory import peak_bytes
from benchmarks.ranks import call_on_ranks
from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

HEAD_GOAL = 1.15
RANKS = 2


class Sizes(NamedTuple):
    """What is measured.

    Args:
        rows: Rows B of the global batch.
        classes: Classes C.
        dim: Size d of an embedding.
        images: Images of a batch of ``metrix``.
        pixels: Their width and height.
    """

    rows: int
    classes: int
    dim: int
    images: int
    pixels: int


FULL = Sizes(rows=512, classes=100_000, dim=512, images=64, pixels=112)
SMALL = Sizes(rows=128, classes=10_000, dim=128, images=16, pixels=64)


def batch_of(sizes: Sizes, device: str) -> tuple[Any, Any]:
    """Return embeddings (B, d) and their classes (B,), of which about half come twice."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes.rows, sizes.dim, generator=generator)
    y = torch.randint(sizes.classes, (sizes.rows,), generator=generator)
    y[sizes.rows // 2 :] = y[: sizes.rows - sizes.rows // 2]
    return x.to(device), y.to(device)


# ---- heads ---------------------------------------------------------------------------------------


def heads_of(sizes: Sizes, device: str) -> dict[str, tuple[Any, Any]]:
    """Return {name: (our head, the peer's or None)}."""
    from pytorch_metric_learning import losses as peers

    from framework.embedding import heads

    shape = (sizes.dim, sizes.classes)
    theirs = {"num_classes": sizes.classes, "embedding_size": sizes.dim}
    pairs: dict[str, tuple[Any, Any]] = {
        "softmax": (heads.SoftmaxHead(*shape), None),
        "NormFace": (heads.NormFaceHead(*shape), peers.NormalizedSoftmaxLoss(**theirs)),
        "SphereFace": (heads.SphereFaceHead(*shape), peers.SphereFaceLoss(**theirs)),
        "CosFace": (heads.CosFaceHead(*shape), peers.CosFaceLoss(**theirs)),
        "ArcFace": (heads.ArcFaceHead(*shape), peers.ArcFaceLoss(**theirs)),
        "combined": (heads.CombinedMarginHead(*shape), None),
        "MagFace": (heads.MagFaceHead(*shape), None),
        "CurricularFace": (heads.CurricularFaceHead(*shape), None),
        "SFace": (heads.SFaceHead(*shape), None),
        "AdaFace": (heads.AdaFaceHead(*shape), None),
    }
    return {
        name: (own.to(device), None if peer is None else peer.to(device))
        for name, (own, peer) in pairs.items()
    }


def print_heads(device: str, rounds: int, sizes: Sizes) -> None:
    """Print the time of each head and of its peer."""
    import torch
    import torch.nn.functional as F

    x, y = batch_of(sizes, device)
    # as small as those of heads: large logits make subnormal gradients, which take ten times longer
    weight = (0.01 * torch.randn(sizes.classes, sizes.dim, device=device)).requires_grad_()

    def backward(loss: Callable[[Any], Any], parameters: list[Any]) -> Callable[[], None]:
        def step() -> None:
            for parameter in parameters:
                parameter.grad = None
            loss(x.detach().requires_grad_()).backward()

        return step

    title = f"Heads at B = {sizes.rows}, C = {sizes.classes:,}, d = {sizes.dim}"
    plain = backward(lambda rows: F.cross_entropy(F.linear(rows, weight), y), [weight])
    for name, (own, peer) in heads_of(sizes, device).items():
        arms = {"plain linear": plain}
        arms[name] = backward(lambda rows, head=own: head(rows, y)[0], list(own.parameters()))
        goals = {} if name in ("softmax", "NormFace") else {name: HEAD_GOAL}
        if peer is not None:
            arms["its peer"] = backward(
                lambda rows, loss=peer: loss(rows, y), list(peer.parameters())
            )
        medians = interleaved_medians(arms, rounds, warmup=1)
        print_ratios(f"{title}: {name}, median of {rounds} rounds", medians, "plain linear", goals)
        if peer is not None:
            ratio = medians[name] / medians["its peer"]
            print(f"  of its peer {ratio:.3f}   goal 1.00: {'met' if ratio <= 1 else 'MISSED'}")
        for loss in (own, peer):
            for parameter in [] if loss is None else loss.parameters():
                parameter.grad = None


# ---- negatives from the batch --------------------------------------------------------------------


def concatenated(x: Any, y: Any, logits: Any, scale: float, whisker: float) -> Any:
    """Return the loss with every pair of the batch behind the logits of every row."""
    import torch
    import torch.nn.functional as F

    from framework.embedding.box_whisker import box_whisker_bounds

    unit = F.normalize(x)
    cosines = unit @ unit.T
    negative = (y[:, None] != y).triu(1)
    low, high = box_whisker_bounds(cosines, whisker, negative)
    kept = cosines[negative & (cosines >= low) & (cosines <= high)]
    rows = (scale * kept).expand(len(x), -1)
    return F.cross_entropy(torch.cat([logits, rows], 1), y)


def print_unpg(device: str, rounds: int, sizes: Sizes) -> None:
    """Print the time and the memory of the negatives, and both losses."""
    import torch

    from framework.embedding.unpg import UNPG

    # the logits of many classes, which both have, would hide what the negatives take
    x, y = batch_of(sizes._replace(classes=1000), device)
    x = x.requires_grad_()
    logits = torch.randn(len(x), 1000, device=device, requires_grad=True)
    unpg = UNPG()

    def scalar() -> Any:
        negatives, _ = unpg(x, y, 64.0)
        target = logits.gather(1, y[:, None]).squeeze(1)
        return (torch.logaddexp(logits.logsumexp(1), negatives) - target).mean()

    losses = {
        "concatenation": lambda: concatenated(x, y, logits, 64.0, 1.5),
        "one number": scalar,
    }
    arms = {name: lambda loss=loss: loss().backward() for name, loss in losses.items()}
    for tensor in (x, logits):
        tensor.grad = torch.zeros_like(tensor)
    medians = interleaved_medians(arms, rounds)
    title = f"Negatives from the pairs of {len(x)} rows, median of {rounds} rounds"
    print_ratios(title, medians, "concatenation")
    peaks = {name: peak_bytes(arm, device) for name, arm in arms.items()}
    for name, peak in peaks.items():
        print(f"  {name:32s} {peak / 2**20:10.1f} MiB   {peak / peaks['concatenation']:6.3f}")
    met = peaks["one number"] <= peaks["concatenation"] / 10
    values = [loss().item() for loss in losses.values()]
    print(f"  goal 0.10 of the memory: {'met' if met else 'MISSED'}; losses {values}")


# ---- a classifier in parts -----------------------------------------------------------------------


def memory_of_rank(sizes: Sizes, ranks: int) -> dict[str, int]:
    """Return the bytes of this rank, in a process group of ``ranks``."""
    import torch
    import torch.distributed as dist

    from framework.distributed.collectives import rank
    from framework.embedding.heads import CosFaceHead

    if ranks > 1:
        dist.init_process_group("gloo")
    x, y = batch_of(sizes, "cpu")
    own = slice(rank() * sizes.rows // ranks, (rank() + 1) * sizes.rows // ranks)
    head = CosFaceHead(sizes.dim, sizes.classes)
    if ranks > 1:
        head.shard(rank(), ranks)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)

    def backward() -> None:
        optimizer.zero_grad(set_to_none=False)
        head(x[own], y[own])[0].backward()

    backward()
    optimizer.step()
    weight = head.weight
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert weight.grad is not None
    return {
        "weight, gradient, momentum": weight.nbytes + weight.grad.nbytes + momentum.nbytes,
        "alive besides in a step": peak_bytes(backward),
    }


def print_shards(device: str, rounds: int, sizes: Sizes) -> None:
    """Print what a rank holds with the classes whole and in parts."""
    whole = memory_of_rank(sizes, 1)
    parts = call_on_ranks(RANKS, memory_of_rank, sizes, RANKS)
    print(f"\nClassifier of {sizes.classes:,} classes, {sizes.rows} rows over all ranks")
    for name, size in whole.items():
        most = max(part[name] for part in parts)
        ratio = most / size
        met = abs(ratio * RANKS - 1) <= 0.05
        print(
            f"  {name:32s} {size / 2**20:10.1f} MiB whole, {most / 2**20:10.1f} MiB a rank   "
            f"{ratio:.3f}   goal {1 / RANKS:.2f} within 5 percent: {'met' if met else 'MISSED'}"
        )


# ---- mixed examples ------------------------------------------------------------------------------


def print_metrix(device: str, rounds: int, sizes: Sizes) -> None:
    """Print the time of a step with mixed feature maps."""
    import torch

    from framework.embedding import Metrix, MultiSimilarityLoss
    from framework.embedding.backbones import build_backbone
    from framework.embedding.metrix import MixedBatch

    count = sizes.images
    image = torch.randn(count, 3, sizes.pixels, sizes.pixels, device=device)
    label = torch.arange(count, device=device) // 4
    network: Any = build_backbone("resnet18", image.shape[1:], 128).to(device)
    criterion = MultiSimilarityLoss()
    metrix = Metrix(mode="feature")

    def clean() -> None:
        criterion(network(image), label).backward()

    def finish(batch: MixedBatch) -> None:
        mixed, _ = metrix.loss(criterion, batch)
        (criterion(batch.embeddings, label) + metrix.weight * mixed.mean()).backward()

    def once() -> None:
        finish(metrix.embed(network, image, label, torch.Generator().manual_seed(0)))

    def thrice() -> None:
        pairs = metrix.choose(label, torch.Generator().manual_seed(0))
        embeddings = network(image)
        first, second = network.forward_features(image), network.forward_features(image)
        share = pairs.share.to(first.dtype).view(-1, 1, 1, 1)
        maps = share * first[pairs.first] + (1 - share) * second[pairs.second]
        finish(MixedBatch(embeddings, network.forward_head(maps), pairs, label, start=0))

    arms = {"clean": clean, "trunk run three times": thrice, "trunk run once": once}
    medians = interleaved_medians(arms, rounds, warmup=1)
    title = f"Step of resnet18 on {count} images of {sizes.pixels} pixels, mixed feature maps"
    print_ratios(title, medians, "clean", {"trunk run once": 1.3})
    print(f"  of three runs {medians['trunk run once'] / medians['trunk run three times']:.3f}")


SECTIONS = {
    "heads": print_heads,
    "unpg": print_unpg,
    "shards": print_shards,
    "metrix": print_metrix,
}


def main() -> None:
    """Run and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="sizes for a laptop")
    parser.add_argument("--only", choices=list(SECTIONS), help="one section; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(arguments.device))
    if arguments.small:
        print("goals are those of the full sizes")
    for name, section in SECTIONS.items():
        if arguments.only in (None, name):
            section(arguments.device, arguments.rounds, SMALL if arguments.small else FULL)


if __name__ == "__main__":
    pin_allocator()
    main()
