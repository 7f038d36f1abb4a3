"""Refined schedules against linear decay, cosine and a constant rate, and what recording costs.

    python -m benchmarks.refined [--seeds 5] [--steps 10000] [--settings noisy] [--optimizers sgd]
    python -m benchmarks.refined --cost [--device cuda]

Scikit-learn's digits in two halves, a perceptron 64-64-10, batches of 32 drawn at random. ``clean``
is the data as it is, which the network comes to know by heart. ``noisy`` has Gaussian noise on each
batch's pixels and a fifth of the training labels drawn anew, so that gradients stay large. Each
seed's linear run is also the first run of its refined ones. Accuracy is that of the other half,
without noise, after the last step; loss the mean over the last tenth of the steps. All networks of
a setting train at once, side by side.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import interleaved_medians, machine, print_ratios
from framework.schedules import gradient_norms, refine_schedule

RATES = {"sgd": 0.1, "adam": 0.003}
NOISE = {"clean": (0.0, 0.0), "noisy": (0.3, 0.2)}
"""Standard deviation of the pixels' noise, and share of the labels that are random, by setting."""
BATCH = 32
PLAIN, RECORDED = "step", "step, norms recorded"
GOAL = 1.01
"""Largest time of a step with recorded norms, of that of one without."""


def digits(seed: int, random_labels: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels to train with and to test on."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    pixels, targets = load_digits(return_X_y=True)
    image, label = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(targets)
    order = torch.randperm(len(image), generator=generator)
    half = len(image) // 2
    train, test = order[:half], order[half : 2 * half]
    drawn = torch.randint(10, (half,), generator=generator)
    wrong = torch.rand(half, generator=generator) < random_labels
    return image[train], torch.where(wrong, drawn, label[train]), image[test], label[test]


def networks(seeds: int) -> list[Tensor]:
    """Return weights and biases of both layers, of one network per seed."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append([*nn.Linear(64, 64).parameters(), *nn.Linear(64, 10).parameters()])
    return [torch.stack([*parts]).detach() for parts in zip(*found, strict=True)]


def forward(weights: list[Tensor], image: Tensor) -> Tensor:
    """Return the logits (N, B, 10) of N networks for images (N, B, 64)."""
    hidden = torch.baddbmm(weights[1][:, None], image, weights[0].mT).relu()
    return torch.baddbmm(weights[3][:, None], hidden, weights[2].mT)


class Update:
    """SGD with momentum, or AdamW, of N networks at once, each with a learning rate of its own."""

    def __init__(self, kind: str, weights: list[Tensor]) -> None:
        self.kind = kind
        self.first = [torch.zeros_like(w) for w in weights]
        self.second = [torch.zeros_like(w) for w in weights]
        self.steps = 0

    def __call__(self, weights: list[Tensor], gradients: tuple[Tensor, ...], lr: Tensor) -> None:
        """Change the weights by rates (N,)."""
        self.steps += 1
        rows = zip(weights, gradients, self.first, self.second, strict=True)
        for weight, gradient, first, second in rows:
            rate = lr.view(-1, *[1] * (weight.ndim - 1))
            if self.kind == "sgd":
                weight -= rate * first.mul_(0.9).add_(gradient)
                continue
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            scale = (second / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
            weight *= 1 - 0.01 * rate
            weight -= rate / (1 - 0.9**self.steps) * first / scale


def train(
    setting: str, kind: str, schedules: Tensor, seeds: int
) -> tuple[list[float], list[float], Tensor]:
    """Train networks by schedules (A * seeds, T), the seeds of an arm one after the other.

    Returns:
        Accuracies, last losses and norms (A * seeds, T), by network.
    """
    noise, random_labels = NOISE[setting]
    parts = [
        torch.stack(x) for x in zip(*(digits(s, random_labels) for s in range(seeds)), strict=True)
    ]
    image, label, test_image, test_label = parts
    arms = len(schedules) // seeds
    weights = [w.repeat(arms, *[1] * (w.ndim - 1)).requires_grad_() for w in networks(seeds)]
    update = Update(kind, weights)
    each = torch.arange(seeds)[:, None]
    generator = torch.Generator().manual_seed(0)  # every arm sees the same batches
    losses, norms = [], []
    for factors in schedules.float().unbind(1):
        rows = torch.randint(image.shape[1], (seeds, BATCH), generator=generator)
        batch = image[each, rows]
        if noise:
            batch = batch + noise * torch.randn(batch.shape, generator=generator)
        logits = forward(weights, batch.repeat(arms, 1, 1))
        targets = label[each, rows].repeat(arms, 1)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        means = loss.view(len(schedules), BATCH).mean(1)
        gradients = torch.autograd.grad(means.sum(), weights)
        with torch.no_grad():
            whole = torch.cat([g.flatten(1) for g in gradients], 1)
            norms.append(whole.norm(p=2 if kind == "sgd" else 1, dim=1))
            update(weights, gradients, RATES[kind] * factors)
        losses.append(means.detach())
    with torch.no_grad():
        found = forward(weights, test_image.repeat(arms, 1, 1)).argmax(2)
    right = (found == test_label.repeat(arms, 1)).double().mean(1)
    last = torch.stack(losses[-(len(losses) // 10) :]).mean(0)
    return right.tolist(), last.tolist(), torch.stack(norms, 1)


def arms_of(steps: int, kind: str, norms: Tensor) -> dict[str, Tensor]:
    """Return schedules (seeds, T) by arm, of which some are refined by norms (seeds, T)."""
    done = torch.arange(steps, dtype=torch.float64) / steps
    options: dict[str, dict[str, Any]] = {
        "refined": {},
        "refined, `ignore_first: 0.1`": {"ignore_first": 0.1},
        "refined, `floor: 0.3`": {"floor": 0.3},
    }
    found = {}
    with warnings.catch_warnings(action="ignore"):  # of a peak in the first step
        for name, option in options.items():
            refined = [refine_schedule(one, steps, kind, **option) for one in norms]  # type: ignore[arg-type]
            found[name] = torch.stack(refined)
    cosine = ((1 + (torch.pi * done).cos()) / 2).expand(len(norms), -1)
    return {**found, "cosine": cosine, "constant": torch.ones_like(cosine)}


def compare(setting: str, kind: str, steps: int, seeds: int) -> None:
    """Print what every arm came to: accuracy and loss, mean and standard deviation of the seeds."""
    linear = refine_schedule([1.0], steps).expand(seeds, -1)
    *first, norms = train(setting, kind, linear, seeds)
    arms = arms_of(steps, kind, norms)
    *others, _ = train(setting, kind, torch.cat([*arms.values()]), seeds)
    print(f"\n{setting}, {kind}, {steps} steps, {seeds} seeds\n\n| | accuracy | last loss |")
    print("| --- | --- | --- |")
    for arm, name in enumerate(["linear", *arms]):
        columns = first if arm == 0 else [c[(arm - 1) * seeds : arm * seeds] for c in others]
        said = [f"{statistics.fmean(c):.4f} ± {statistics.stdev(c):.4f}" for c in columns]
        print(f"| {name} | {' | '.join(said)} |", flush=True)
    for name, schedule in arms.items():
        tenths = " ".join(f"{float(schedule[0, steps * i // 10]):.2f}" for i in range(10))
        print(f"{name}: {tenths}")


def recorder_arms(device: str = "cpu", batch: int = 128) -> dict[str, Callable[[], object]]:
    """Return a training step of a ResNet-18 on 32 x 32 images, without and with recorded norms."""
    import timm

    arms: dict[str, Callable[[], object]] = {}
    for name, norms in {PLAIN: (), RECORDED: ("l2", "l1")}.items():
        torch.manual_seed(0)
        network = timm.create_model("resnet18", pretrained=False, num_classes=10).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        image = torch.randn(batch, 3, 32, 32, device=device)
        label = torch.randint(10, (batch,), device=device)
        arms[name] = partial(_step, network, optimizer, image, label, norms, [])
    return arms


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    image: Tensor,
    label: Tensor,
    norms: tuple[str, ...],
    kept: list[Tensor],
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(image), label).backward()
    if norms:
        kept.append(torch.stack([*gradient_norms(network.parameters(), norms).values()]))
    optimizer.step()


def print_cost(device: str = "cpu", rounds: int = 30) -> None:
    """Print what recording costs, as a ratio to the step without it."""
    for batch in (32, 128):
        medians = interleaved_medians(recorder_arms(device, batch), rounds)
        title = f"Recorded norms, ResNet-18, {batch} images of 32 x 32, {machine(device)}"
        print_ratios(title, medians, PLAIN, {RECORDED: GOAL})


def main() -> None:
    """Print a table per setting and optimizer, or what recording costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--settings", nargs="+", default=[*NOISE], choices=[*NOISE])
    parser.add_argument("--optimizers", nargs="+", default=[*RATES], choices=[*RATES])
    parser.add_argument("--cost", action="store_true", help="what recording costs, and no table")
    parser.add_argument("--device", default="cpu", help="device of --cost")
    args = parser.parse_args()
    if args.cost:
        print_cost(args.device)
        return
    torch.set_num_threads(1)
    for setting, kind in product(NOISE, RATES):
        if setting not in args.settings or kind not in args.optimizers:
            continue
        compare(setting, kind, args.steps, args.seeds)


if __name__ == "__main__":
    main()
