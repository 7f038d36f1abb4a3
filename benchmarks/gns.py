"""Time of gradient-normalized smoothness to a gradient below 1e-6, beside LBFGS and trust regions.

    python -m benchmarks.gns [--rounds 5] [--mnist FOLDER]

Logistic regression in float64 from zero: scikit-learn's digits, even against odd; breast cancer;
and 2,000 images of MNIST, even against odd, where a folder has its files. The last two have a ridge
of 1e-3 |w|^2 / 2. LBFGS is torch's with a strong Wolfe search, `trust-ncg` scipy's with a product
that is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

GOAL = 1e-6
MOST_STEPS = 400


class Problem:
    """Mean of softplus(-y x.w) over rows, and a ridge."""

    def __init__(self, x: Any, y: Any, ridge: float) -> None:
        import torch

        self.signed = torch.as_tensor(x, dtype=torch.float64) * torch.as_tensor(y)[:, None]
        self.ridge = ridge

    def loss(self, margins: Any, w: Any) -> Any:
        """Return the loss at margins ``y x.w``."""
        import torch.nn.functional as F

        return F.softplus(-margins).mean() + self.ridge / 2 * w.square().sum()


def newton(problem: Problem, curvature: str) -> tuple[float, int]:
    """Return the norm of the gradient at the end and the evaluations of our optimizer."""
    import torch

    from framework.optim import GradNormSmoothNewton, TargetClosure

    w = torch.nn.Parameter(problem.signed.new_zeros(problem.signed.shape[1]))
    optimizer = GradNormSmoothNewton([w], curvature=curvature, full_batch=True)
    # the ridge is a loss of the weights, so that they are an output too
    closure = TargetClosure(
        [w], lambda: (problem.signed @ w, 1 * w), lambda z: problem.loss(z[0], z[1])
    )
    found: dict[str, Any] = {"gradient_norm": 1.0, "evaluations": 0}
    for _ in range(MOST_STEPS):
        optimizer.step(closure)
        found = dict(optimizer.state)["search"]  # type: ignore[index]
        if found["gradient_norm"] < GOAL:
            break
    return found["gradient_norm"], found["evaluations"]


def lbfgs(problem: Problem) -> tuple[float, int]:
    """Return the same of torch's LBFGS."""
    import torch

    w = torch.nn.Parameter(problem.signed.new_zeros(problem.signed.shape[1]))
    optimizer = torch.optim.LBFGS(
        [w], max_iter=10, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    evaluations = 0

    def closure() -> Any:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        loss = problem.loss(problem.signed @ w, w)
        loss.backward()
        return loss

    norm = 1.0
    for _ in range(MOST_STEPS):
        optimizer.step(closure)
        (gradient,) = torch.autograd.grad(problem.loss(problem.signed @ w, w), w)
        norm = gradient.norm().item()
        if norm < GOAL:
            break
    return norm, evaluations


def trust_region(problem: Problem) -> tuple[float, int]:
    """Return the same of scipy's trust-ncg."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    a, n = problem.signed.numpy(), len(problem.signed)

    def value(w: Any) -> Any:
        margins = a @ w
        gradient = -(a.T @ expit(-margins)) / n + problem.ridge * w
        return np.logaddexp(0, -margins).mean() + problem.ridge / 2 * w @ w, gradient

    def product(w: Any, v: Any) -> Any:
        share = expit(a @ w)
        return a.T @ (share * (1 - share) * (a @ v)) / n + problem.ridge * v

    found = minimize(
        value,
        np.zeros(a.shape[1]),
        jac=True,
        hessp=product,
        method="trust-ncg",
        options={"gtol": GOAL, "maxiter": 5000},
    )
    return float(np.linalg.norm(found.jac)), int(found.nfev)


def problems(mnist: str | None) -> dict[str, Problem]:
    """Return the problems by name."""
    from sklearn.datasets import load_breast_cancer, load_digits

    x, y = load_digits(return_X_y=True)
    found = {"digits": Problem(x / 16, y % 2 * 2.0 - 1, 0.0)}
    x, y = load_breast_cancer(return_X_y=True)
    found["breast cancer"] = Problem((x - x.mean(0)) / x.std(0), y * 2.0 - 1, 1e-3)
    if mnist is not None:
        from datamodules.idx import read_idx

        images = read_idx(Path(mnist) / "train-images-idx3-ubyte", 3)[:2000]
        labels = read_idx(Path(mnist) / "train-labels-idx1-ubyte", 1)[:2000]
        x = images.reshape(2000, -1).double() / 255
        found["MNIST"] = Problem(x, labels.double() % 2 * 2 - 1, 1e-3)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mnist", help="folder of MNIST's IDX files")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(machine("cpu"))
    for name, problem in problems(arguments.mnist).items():
        arms: dict[str, Callable[[], tuple[float, int]]] = {
            "LBFGS": partial(lbfgs, problem),
            "exact": partial(newton, problem, "exact"),
            "ggn": partial(newton, problem, "ggn"),
            "trust-ncg": partial(trust_region, problem),
        }
        for arm, run in arms.items():
            norm, evaluations = run()
            print(f"  {name}: {arm:10s} |g| {norm:.1e} after {evaluations} evaluations")
        print_ratios(name, interleaved_medians(arms, arguments.rounds, warmup=0), "LBFGS")


if __name__ == "__main__":
    pin_allocator()
    main()
