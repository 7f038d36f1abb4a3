"""What an attack costs in training, and a training step of adversarial comp-sum beside TRADES.

    python -m benchmarks.attacks [--device cuda] [--rounds 9]

ResNet-18 at 32 x 32, 10 classes, 5 steps of PGD. The naive loop calls ``backward()`` for the
gradient of the inputs, and so computes those of all weights at every step. TRADES (beta 6) has as
many passes, with a KL divergence in the place of the margins' shift; goal: at most 1.0 of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

BATCH, CLASSES, STEPS, EPS = 32, 10, 5, 8 / 255


def make_arms(device: str) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """Return the arms of the attack and those of the training step."""
    import timm
    import torch
    import torch.nn.functional as F

    from framework.attacks.pgd import PGDAttack
    from framework.losses import SmoothAdversarialCompSumLoss

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=CLASSES).to(device)
    generator = torch.Generator(device).manual_seed(0)
    image = torch.rand(BATCH, 3, 32, 32, device=device, generator=generator)
    label = torch.randint(CLASSES, (BATCH,), device=device, generator=generator)
    attack = PGDAttack(eps=EPS, steps=STEPS)

    def entropy(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, label, reduction="none")

    def ours() -> None:
        attack.perturb(model, image, entropy, generator=generator)

    def naive() -> None:
        model.eval()
        start = torch.rand(image.shape, device=device, generator=generator) * 2 - 1
        adversarial = (image + EPS * start).clamp(0, 1)
        for _ in range(STEPS):
            adversarial.requires_grad_()
            entropy(model(adversarial)).sum().backward()
            assert adversarial.grad is not None
            moved = adversarial.detach() + EPS / 4 * adversarial.grad.sign()
            adversarial = (image + (moved - image).clamp(-EPS, EPS)).clamp(0, 1)
        model.train()

    loss = SmoothAdversarialCompSumLoss(nu=0.3, attack=attack)

    def comp_sum() -> None:
        model.zero_grad()
        loss(model(image), label, inputs=image, forward=model, step=0).backward()

    def trades() -> None:
        model.zero_grad()
        model.eval()
        with torch.no_grad():
            clean = model(image).softmax(1)
        model.train()

        def divergence(logits: torch.Tensor) -> torch.Tensor:
            return F.kl_div(logits.log_softmax(1), clean, reduction="sum")

        adversarial = attack.perturb(model, image, divergence, generator=generator)
        logits = model(image)
        penalty = F.kl_div(
            model(adversarial).log_softmax(1), logits.softmax(1), reduction="batchmean"
        )
        (F.cross_entropy(logits, label) + 6 * penalty).backward()

    def plain() -> None:
        model.zero_grad()
        F.cross_entropy(model(image), label).backward()

    model.train()
    return (
        {"naive loop": naive, "PGDAttack": ours},
        {"TRADES": trades, "SmoothAdversarialCompSumLoss": comp_sum, "cross-entropy": plain},
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    attacks, steps = make_arms(arguments.device)
    print(machine(arguments.device))
    medians = interleaved_medians(attacks, arguments.rounds)
    print_ratios(f"PGD, {STEPS} steps, {BATCH} x 3 x 32 x 32", medians, "naive loop")
    medians = interleaved_medians(steps, arguments.rounds)
    goals = {"SmoothAdversarialCompSumLoss": 1.0}
    print_ratios("training step, forward and backward", medians, "TRADES", goals)


if __name__ == "__main__":
    pin_allocator()
    main()
