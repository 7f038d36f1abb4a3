"""What it costs to weigh terms by their gradients.

    python -m benchmarks.preference [--device cuda] [--rounds 15] [--backbone resnet18] [--size 32]

Domain adaptation with three terms on the shared part, 32 source, 32 target and 32 held-out images,
31 classes: the step of the held-out LP in both scopes against the plain sum (goals: 3.5 and 1.2);
that of TorchJD's UPGrad without a guide against TorchJD's own ``mtl_backward`` (goal: 1.0); and the
time to solve the linear program for 3 to 8 terms, beside scipy's ``linprog``. Arms take turns
step by step; each has a network of its own and SGD.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

HALF, CLASSES = 32, 31
GOALS = {"held-out LP, exact": 3.5, "held-out LP, representation": 1.2}
JD_GOALS = {"UPGrad, exact": 1.0}


def make_batches(size: int, device: str) -> tuple[Any, Any]:
    """Return a batch of both domains and one of the held-out part of the target."""
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3 * HALF, 3, size, size, generator=generator)
    label = torch.randint(CLASSES, (HALF,), generator=generator)
    unknown = torch.full((HALF,), -1)
    batch = {
        "image": image[: 2 * HALF],
        "label": torch.cat([label, unknown]),
        "domain": torch.arange(2 * HALF) // HALF,
        "index": torch.arange(2 * HALF),
    }
    guide = {
        "image": image[2 * HALF :],
        "label": unknown,
        "domain": torch.ones(HALF, dtype=torch.int64),
        "index": torch.arange(2 * HALF, 3 * HALF),
    }
    return tuple({k: v.to(device) for k, v in part.items()} for part in (batch, guide))  # type: ignore[return-value]


def make_module(backbone: str, size: int, device: str, combiner: Any, guide: Any) -> Any:
    """Return a module as it is in the first step of a fit, and its optimizer."""
    import torch
    from lightning.pytorch import Trainer

    from modules import DomainAdaptation

    torch.manual_seed(0)
    module = DomainAdaptation(
        CLASSES, (3, size, size), backbone, bottleneck=256, gradient_combiner=combiner
    )
    module.to(device).train()
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    module.trainer = trainer
    if combiner is not None and combiner.guided:
        module.guide_batch = lambda: guide
    return module, torch.optim.SGD(module.parameter_groups(), lr=1e-3, momentum=0.9)


def make_step(
    backbone: str, size: int, device: str, combiner: Any = None, jacobian_descent: bool = False
) -> Callable[[], None]:
    """Return a function that takes one training step of a network of its own."""
    batch, guide = make_batches(size, device)
    module, optimizer = make_module(backbone, size, device, combiner, guide)
    loop = module.trainer.fit_loop.epoch_loop.automatic_optimization
    steps = loop.optim_progress.optimizer.step

    def step() -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
        steps.increment_completed()

    if not jacobian_descent:
        return step

    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    from framework.objectives.reduction import reduce_objectives

    aggregator, shared = UPGrad(), list(module.shared_parameters())

    def mtl_step() -> None:
        optimizer.zero_grad()
        objectives = module.objectives(batch)
        terms = reduce_objectives(objectives).terms
        terms.pop("discriminators").backward(retain_graph=True)
        weighted = [objectives.weights.get(name, 1.0) * term for name, term in terms.items()]
        mtl_backward(weighted, features=objectives.features, shared_params=shared)
        jac_to_grad(shared, aggregator)
        optimizer.step()

    return mtl_step


def ten(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that takes ten steps."""

    def steps() -> None:
        for _ in range(10):
            step()

    return steps


def linear_programs(rounds: int) -> None:
    """Print how long a linear program takes."""
    import torch
    from scipy.optimize import linprog

    from framework.gradients import HeldOutGuidedLP

    solver = HeldOutGuidedLP()
    print("\nThe linear program of a step, median milliseconds (scipy.optimize.linprog beside it)")
    for terms in range(3, 9):
        generator = torch.Generator().manual_seed(terms)
        gradients = torch.randn(terms, 20, generator=generator, dtype=torch.float64)
        gram, guide = gradients @ gradients.T, gradients @ gradients.mean(0)
        bound = min(float(guide.max()), 0.0)
        rows = torch.cat([-gram, -guide[None]]).numpy()
        bounds = [0.0] * terms + [-bound]

        def ours(gram: Any = gram, guide: Any = guide) -> None:
            solver.weights(gram, guide)

        def theirs(gram: Any = gram, rows: Any = rows, bounds: Any = bounds) -> None:
            size = len(gram)
            cost = -gram.sum(0).numpy()
            linprog(cost, rows, bounds, [[1.0] * size], [1.0], method="highs")

        medians = interleaved_medians({"ours": ours, "linprog": theirs}, 20 * rounds)
        print(f"  {terms} terms {medians['ours'] * 1e3:9.3f}   {medians['linprog'] * 1e3:9.3f}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    from framework.gradients import HeldOutGuidedLP, TorchJD, WeightedSum

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    backbone, size, device = arguments.backbone, arguments.size, arguments.device

    def step(combiner: Any = None, **kwargs: Any) -> Callable[[], None]:
        return make_step(backbone, size, device, combiner, **kwargs)

    print(machine(device))
    shape = f"{backbone}, {2 * HALF} x 3 x {size} x {size}, median of {arguments.rounds} rounds"
    arms = {
        "plain sum": step(),
        "held-out LP, exact": step(HeldOutGuidedLP()),
        "held-out LP, representation": step(HeldOutGuidedLP(scope="representation")),
        "no guide, exact": step(WeightedSum()),
        "no guide, representation": step(WeightedSum(scope="representation")),
    }
    medians = interleaved_medians(arms, arguments.rounds)
    print_ratios(f"A step against the plain sum: {shape}", medians, "plain sum", GOALS)
    tens = {
        "plain sum": ten(step()),
        "exact, every 10 steps": ten(step(HeldOutGuidedLP(every_n_steps=10))),
    }
    medians = interleaved_medians(tens, max(3, arguments.rounds // 5), warmup=1)
    print_ratios(f"Ten steps: {shape}", medians, "plain sum")
    arms = {
        "mtl_backward, UPGrad": step(jacobian_descent=True),
        "UPGrad, exact": step(TorchJD("UPGrad")),
    }
    medians = interleaved_medians(arms, arguments.rounds)
    print_ratios(f"Against TorchJD: {shape}", medians, "mtl_backward, UPGrad", JD_GOALS)
    linear_programs(arguments.rounds)


if __name__ == "__main__":
    pin_allocator()
    main()
