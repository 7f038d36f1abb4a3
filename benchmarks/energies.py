"""MECO beside noise-contrastive estimation and contrastive divergence: means, planes, outliers.

    python -m benchmarks.energies mean|plane|outliers [--seeds 5]

``mean`` learns the mean of a Gaussian in one dimension from near and far starts; ``plane`` five
densities with a closed form; ``outliers`` classes of digits and of tumors that are not trained.
``benchmarks.representation`` times the steps.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from datamodules import BreastCancer, Digits, OutlierClasses
from framework.distributed.log_average import log_moving_average
from framework.energy import (
    PLANAR,
    CompositionalMLELoss,
    ContrastiveDivergenceLoss,
    EnergyLoss,
    EnergyMLP,
    EnergyRows,
    MixtureNoise,
    NCELoss,
    Noise,
    NormalNoise,
    langevin,
)
from framework.energy.normalizer import grid, in_parts, log_normalizer_on_grid

SETTINGS = ((1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 8), (16, 16), (16, 1))
"""True mean, from a start at 0, and standard deviation of the noise."""
COLUMNS = ("error", "error, lr decays", "steps to 0.5")
LOSSES: dict[str, Callable[[], EnergyLoss]] = {
    "MECO": CompositionalMLELoss,
    "NCE": NCELoss,
}


class MeanErrors(NamedTuple):
    """How near runs came to their true means, (settings, seeds)."""

    final: Tensor
    arrival: Tensor
    """First step within 0.5; the number of steps plus 1 for none."""


def learned_means(
    loss: str, seeds: int, steps: int = 2000, decay: bool = False, gamma: float = 0.1
) -> MeanErrors:
    """Learn the mean of a Gaussian of variance 1 from a start at 0, all settings and seeds at once.

    A step is SGD on 32 rows and 32 draws, with the learning rate 0.05 and a momentum of 0.5.

    Args:
        loss: ``MECO``, as ``CompositionalMLELoss`` computes it, or ``NCE``, as ``NCELoss``.
        seeds: Number of runs of a setting.
        steps: Steps.
        decay: Whether the learning rate falls to 0 by a cosine.
        gamma: Share of a batch in MECO's moving average.
    """
    mean, sd = torch.tensor(SETTINGS, dtype=torch.float32).repeat_interleave(seeds, 0).T[..., None]
    theta = torch.zeros_like(mean, requires_grad=True)
    log_z = torch.zeros_like(mean, requires_grad=True)
    log_u = torch.full_like(mean, torch.nan)
    optimizer = torch.optim.SGD([theta, log_z], lr=0.05, momentum=0.5, dampening=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    arrival = torch.full_like(mean, steps + 1)
    q = torch.distributions.Normal(0.0, sd, validate_args=False)
    for step in range(steps):
        x, z = torch.randn(2, len(mean), 32, generator=generator)
        x, z = x + mean, sd * z
        optimizer.zero_grad()
        data = -(x - theta).square() / 2 - q.log_prob(x)
        noise = -(z - theta).square() / 2 - q.log_prob(z)
        if loss == "MECO":
            batch = noise.detach().logsumexp(1, keepdim=True) - math.log(32)
            log_u = log_moving_average(log_u, batch, gamma)
            value = -data.mean(1) + ((noise.detach() - log_u).exp() * noise).mean(1)
        else:
            value = F.softplus(log_z - data).mean(1) + F.softplus(noise - log_z).mean(1)
        value.sum().backward()
        optimizer.step()
        if decay:
            schedule.step()
        with torch.no_grad():
            near = (theta - mean).abs() < 0.5
            arrival = torch.where(near & (arrival > steps), step + 1.0, arrival)
    shape = (len(SETTINGS), seeds)
    return MeanErrors((theta.detach() - mean).abs().view(shape), arrival.view(shape))


def train(
    network: EnergyMLP,
    noise: Noise,
    loss: EnergyLoss,
    rows: Tensor,
    steps: int,
    batch: int = 256,
    draws: int = 4,
    lr: float = 3e-3,
    seed: int = 0,
) -> EnergyMLP:
    """Train an energy that tilts fitted noise, in plain PyTorch.

    Args:
        network: Energy.
        noise: Noise, fitted.
        loss: Loss on log-ratios.
        rows: Training rows (N, D).
        steps: Steps of Adam, whose learning rate falls by a cosine.
        batch: Rows of a batch.
        draws: Draws of noise for each.
        lr: First learning rate.
        seed: Seed of batches and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [*network.parameters(), *loss.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = rows[torch.randint(len(rows), (batch,), generator=generator)]
        if isinstance(loss, ContrastiveDivergenceLoss):
            z = chains(network, noise, loss, x, generator)
        else:
            z = noise.sample(draws * batch, generator)
        _update(network, loss, optimizer, x, z)
        schedule.step()
    return network


def _update(
    network: EnergyMLP, loss: EnergyLoss, optimizer: Optimizer, x: Tensor, z: Tensor
) -> None:
    optimizer.zero_grad()
    ratio = -network(torch.cat([x, z]))
    loss(ratio[: len(x)], ratio[len(x) :]).backward()
    optimizer.step()


def chains(
    network: EnergyMLP,
    noise: Noise,
    loss: ContrastiveDivergenceLoss,
    x: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the ends of chains that begin at data."""
    shape = (len(x), loss.steps, x.shape[1])
    drawn = torch.randn(shape, generator=generator, device=x.device)
    return langevin(lambda y: network(y) - noise.log_prob(y), x, drawn, loss.step_size)


def meco_step(
    rows: Tensor, widths: Sequence[int] = (128, 128), draws: int = 1
) -> Callable[[], None]:
    """Return a step of MECO on a batch, with its noise and the optimizer's.

    Args:
        rows: Batch (B, D), on any device.
        widths: Widths of the network.
        draws: Draws of noise for each row.
    """
    network, noise, optimizer = _arm(rows, widths)
    loss = CompositionalMLELoss().to(rows.device)
    return lambda: _update(network, loss, optimizer, rows, noise.sample(draws * len(rows)))


def contrastive_divergence_step(
    rows: Tensor, widths: Sequence[int] = (128, 128), steps: int = 20
) -> Callable[[], None]:
    """Return a step of contrastive divergence on a batch, with its chains and the optimizer's.

    Args:
        rows: Batch (B, D), on any device.
        widths: Widths of the network.
        steps: Langevin steps of a chain.
    """
    network, noise, optimizer = _arm(rows, widths)
    loss = ContrastiveDivergenceLoss(steps)
    return lambda: _update(network, loss, optimizer, rows, chains(network, noise, loss, rows))


def _arm(rows: Tensor, widths: Sequence[int]) -> tuple[EnergyMLP, Noise, Optimizer]:
    network = EnergyMLP(rows.shape[1], widths).to(rows.device)
    noise = NormalNoise()
    noise.allocate(rows.shape[1])
    noise.to(rows.device).fit(rows)
    return network, noise, torch.optim.Adam(network.parameters())


def fitted(noise: Noise, rows: Tensor) -> Noise:
    """Return noise that is fitted to rows (N, D)."""
    noise.allocate(rows.shape[1])
    noise.fit(rows)
    return noise


def plane_likelihood(network: EnergyMLP, noise: Noise, x: Tensor) -> float:
    """Return the negative log-likelihood of points, with the normalizer of a grid."""
    with torch.no_grad():
        points, log_cell = grid(*noise.box(), size=300)
        log_density = in_parts(lambda y: noise.log_prob(y) - network(y), points)
        log_z = log_normalizer_on_grid(log_density, log_cell)
        return float((network(x) - noise.log_prob(x)).double().mean() + log_z)


def plane(name: str, loss: EnergyLoss, seed: int, steps: int = 800) -> tuple[float, float, float]:
    """Return the held-out negative log-likelihood of a model, of its noise and of the truth."""
    density = PLANAR[name]
    generator = torch.Generator().manual_seed(seed)
    rows, held = (density.sample(n, generator).float() for n in (4096, 2000))
    noise = fitted(NormalNoise(), rows)
    torch.manual_seed(seed)
    network = train(EnergyMLP(2), noise, loss, rows, steps, seed=seed)
    own, true = -noise.log_prob(held).mean(), -density.log_prob(held.double()).mean()
    return plane_likelihood(network, noise, held), float(own), float(true)


def outliers(
    data: OutlierClasses, noise: Noise, loss: EnergyLoss, seed: int, steps: int = 500
) -> tuple[float, float]:
    """Return the AUROC of the test rows by the energy, and by the noise alone."""
    data.setup("fit")
    found: dict[str, list[Tensor]] = {}
    for batch in data.test_dataloader():
        for name, value in batch.items():
            found.setdefault(name, []).append(value)
    test = {name: torch.cat(parts) for name, parts in found.items()}
    field = "image" if "image" in test else "input"
    rows = torch.cat([b[field].flatten(1) for b in data.ordered_train_dataloader()])
    fitted(noise, rows)
    torch.manual_seed(seed)
    network = train(
        EnergyMLP(rows.shape[1], (256, 256)), noise, loss, rows, steps, 128, lr=1e-3, seed=seed
    )
    with torch.no_grad():
        x = test[field].flatten(1)
        own = -noise.log_prob(x)
        metric = EnergyRows()
        metric.update(network(x) + own, own, is_outlier=test["is_outlier"])
        scores = metric.compute().scores(torch.zeros(()), "nll")
    return float(scores["auroc"]), float(scores["auroc/noise"])


def _mean(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def _means(seeds: int) -> None:
    steps = 2000
    columns = [f"{name}, {what}" for name in LOSSES for what in COLUMNS]
    print(f"| true mean, sd of q | {' | '.join(columns)} |")
    found = {
        name: (learned_means(name, seeds, steps), learned_means(name, seeds, steps, decay=True))
        for name in LOSSES
    }
    for place, (mean, sd) in enumerate(SETTINGS):
        cells = []
        for plain, decayed in found.values():
            arrival = plain.arrival[place]
            there = int((arrival <= steps).sum())
            cells += [
                f"{float(plain.final[place].mean()):.3f}",
                f"{float(decayed.final[place].mean()):.3f}",
                f"{float(arrival.mean()):.0f}" if there == seeds else f"{there} of {seeds}",
            ]
        print(f"| {mean}, {sd} | {' | '.join(cells)} |", flush=True)


def _planes(seeds: int) -> None:
    # chains take most of the time: one density shows what they do
    losses: dict[str, Callable[[], EnergyLoss]] = {
        **LOSSES,
        "CD, 20 steps": lambda: ContrastiveDivergenceLoss(20, 0.005),
    }
    print(f"| density | true | noise | {' | '.join(losses)} |")
    for name in PLANAR:
        tried = losses if name == "eight_gaussians" else LOSSES
        found = {
            title: [plane(name, make(), seed) for seed in range(seeds)]
            for title, make in tried.items()
        }
        _, own, true = zip(*found["MECO"], strict=True)
        learned = [_mean([run[0] for run in runs]) for runs in found.values()]
        print(f"| {name} | {_mean(true)} | {_mean(own)} | {' | '.join(learned)} |", flush=True)


def _outliers(seeds: int) -> None:
    kinds: dict[str, Callable[[int], OutlierClasses]] = {
        "digits 8 and 9": lambda seed: OutlierClasses(
            Digits(val_size=100, test_size=500, split_seed=seed), outliers=[8, 9]
        ),
        "malignant tumors": lambda seed: OutlierClasses(
            BreastCancer(split_seed=seed), outliers=[0]
        ),
    }
    noises: dict[str, Callable[[], Noise]] = {
        "Gaussian": lambda: NormalNoise(ridge=0.01),
        "Gaussian, 1.2 times as wide": lambda: NormalNoise(ridge=0.01, widening=1.2),
        "mixture of 8": lambda: MixtureNoise(8, ridge=0.01),
    }
    print("| outliers | noise | AUROC of the noise | " + " | ".join(LOSSES) + " |")
    for kind, data in kinds.items():
        for title, noise in noises.items():
            found = {
                name: [outliers(data(seed), noise(), make(), seed) for seed in range(seeds)]
                for name, make in LOSSES.items()
            }
            own = _mean([run[1] for run in found["MECO"]])
            cells = " | ".join(_mean([run[0] for run in runs]) for runs in found.values())
            print(f"| {kind} | {title} | {own} | {cells} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("mean", "plane", "outliers"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*of the noise counts")
    {"mean": _means, "plane": _planes, "outliers": _outliers}[options.table](options.seeds)


if __name__ == "__main__":
    main()
