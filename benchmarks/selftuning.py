"""Self-tuning: the cost of response layers, and of folded ones.

    python -m benchmarks.selftuning [--device cuda] [--rounds 15] [--width 1024]

Forward and backward of a linear layer of width 4,096 with hyperparameters of each row,
against ``nn.Linear``, at 128 and 512 rows; besides, with one h for all rows, and folded. Goals: at
most 1.9 with h of each row, and 1.0 folded, within 2 percent. With h of each row there are two
products where the ordinary layer has one, as in an ordinary layer with twice the outputs, whose
time is printed beside it.

The arms take turns; medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from benchmarks.memory import peak_bytes
from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

HYPERPARAMETERS = 20
GOALS = {"response, h of each row": 1.9, "folded": 1.02}
BATCHES = (128, 512)


def layer_arms(rows: int, width: int, device: str) -> dict[str, Callable[[], None]]:
    """Return a forward and backward pass of the ordinary layer and of each kind of response."""
    import torch

    from framework.layers import ResponseLinear, convert_to_response, fold_response

    torch.manual_seed(0)
    plain, folded, response = (torch.nn.Linear(width, width).to(device) for _ in range(3))
    h = torch.randn(rows, HYPERPARAMETERS, device=device)
    convert_to_response(folded, HYPERPARAMETERS)
    fold_response(folded, h[0])
    conditioning = convert_to_response(response, HYPERPARAMETERS)
    assert isinstance(response, ResponseLinear)
    twice = torch.nn.Linear(width, 2 * width, device=device)
    x = torch.randn(rows, width, device=device, requires_grad=True)

    def arm(layer: torch.nn.Module, h: Any = None) -> Callable[[], None]:
        gradient = torch.randn(rows, 2 * width if layer is twice else width, device=device)

        def step() -> None:
            for tensor in (x, *layer.parameters()):
                tensor.grad = None
            with nullcontext() if h is None else conditioning.at(h):
                layer(x).backward(gradient)

        return step

    return {
        "nn.Linear": arm(plain),
        "nn.Linear, twice the outputs": arm(twice),
        "response, h of each row": arm(response, h),
        "response, one h": arm(response, h[0]),
        "folded": arm(folded),
    }


def print_layers(device: str, rounds: int, width: int) -> None:
    """Print the time and the memory of each kind of layer."""
    for rows in BATCHES:
        arms = layer_arms(rows, width, device)
        medians = interleaved_medians(arms, rounds)
        title = f"Linear layer of width {width}, {rows} rows, median of {rounds} rounds"
        print_ratios(title, medians, "nn.Linear", GOALS)
        peaks = {name: peak_bytes(arm, device) for name, arm in arms.items()}
        for name, peak in peaks.items():
            ratio = peak / peaks["nn.Linear"]
            print(f"  {name:32s} {peak / 2**20:10.1f} MiB  {ratio:6.3f}   alive in a step")


def main() -> None:
    """Run and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=4096, help="width of the linear layer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(arguments.device))
    print_layers(arguments.device, arguments.rounds, arguments.width)


if __name__ == "__main__":
    pin_allocator()
    main()
