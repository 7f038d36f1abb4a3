"""Time of M-FAC's direct form against the paper's recursion in plain torch, and against AdamW.

``python -m benchmarks.mfac [--device cuda] [--rounds 5]``: one step on d weights with a full window
of m gradients, for several m and d; nothing but the step is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

if TYPE_CHECKING:
    from torch import Tensor

DIRECT = "M-FAC direct"
RECURSION = "M-FAC recursion"
ADAMW = "AdamW foreach"
SIZES = ((64, 10_000), (512, 10_000), (1024, 10_000), (512, 100_000))
# at least five times faster than the recursion at m = 512
GOALS = {512: 0.2}


def recursive_step(
    rows: Tensor, gram: Tensor, place: int, gradient: Tensor, damping: float
) -> Tensor:
    """Return F^-1 g by the dynamic algorithm of the paper, arXiv:2107.03356, in plain torch.

    ``gram`` holds the products of the rows, of which a step renews those with the new row.
    Coefficients of D and B are computed row by row, as the recursion says.
    """
    import torch

    m = len(rows)
    rows[place] = gradient
    products = rows @ gradient
    gram[place] = gram[:, place] = products
    d, b = gram / damping, torch.eye(m, dtype=rows.dtype, device=rows.device) / damping
    for i in range(1, m):
        shares = d[:i, i] / (m + d.diagonal()[:i])
        d[i, i:] -= shares @ d[:i, i:]
        b[i, :i] = -shares @ b[:i, :i]
    y = b @ products
    coefficients = b.T @ (y / (m + d.diagonal()))
    return gradient / damping - coefficients @ rows


def mfac_arms(m: int, d: int, device: str = "cpu") -> dict[str, Callable[[], object]]:
    """Return the step of each algorithm on d weights, with a full window of m gradients."""
    import torch

    from framework.optim import MFAC

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(m, d, generator=generator).to(device)
    gradient = torch.randn(d, generator=generator).to(device)

    def parameter() -> torch.nn.Parameter:
        weight = torch.nn.Parameter(torch.zeros(d, device=device))
        weight.grad = gradient
        return weight

    optimizer = MFAC([parameter()], lr=1e-6, ngrads=m)
    optimizer.step()
    window = optimizer.state["window"]  # type: ignore[index]
    window["rows"].copy_(rows)
    window["gram"].copy_((rows.double() @ rows.double().T)[None])
    own, gram = rows.clone(), rows @ rows.T
    weight = torch.zeros(d, device=device)

    def recursion() -> None:
        weight.sub_(recursive_step(own, gram, 0, gradient, 1e-5), alpha=1e-6)

    return {
        RECURSION: recursion,
        DIRECT: optimizer.step,
        ADAMW: torch.optim.AdamW([parameter()], lr=1e-6, foreach=True).step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pin_allocator()
    print(machine(arguments.device))
    for m, d in SIZES:
        medians = interleaved_medians(mfac_arms(m, d, arguments.device), arguments.rounds, 1)
        goals = {DIRECT: GOALS[m]} if m in GOALS else None
        print_ratios(f"one step, m = {m}, d = {d:,}", medians, RECURSION, goals)


if __name__ == "__main__":
    main()
