"""Time of one optimizer step, as a ratio to ``torch.optim``, and the memory of its state.

``python -m benchmarks.optimizers [--device cuda] [--rounds 15]``: the weights of a ResNet-18 and of
a ViT-S/16 with random gradients; nothing but ``step`` is timed. The arms take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

NETWORKS = ("resnet18", "vit_small_patch16_224")
BASELINE = "AdamW foreach"
SIGN = "LionK sign"
FUSED = "LionK sign fused"
LP = "LionK lp 2"
GOALS = {SIGN: 0.35, FUSED: 0.25, LP: 1.2}
ADAM = "Adam foreach"
PARTIAL = "PartialSignSGD"
PARTIAL_GOALS = {PARTIAL: 1.0}
# our name, module, class
PEERS = (
    ("timm Lion", "timm.optim.lion", "Lion"),
    ("lion-pytorch Lion", "lion_pytorch", "Lion"),
    ("pytorch_optimizer Lion", "pytorch_optimizer", "Lion"),
)


def peers() -> dict[str, Callable[..., Any]]:
    """Return the installed peers, and say how to install the others."""
    found: dict[str, Callable[..., Any]] = {}
    for name, module, kind in PEERS:
        try:
            found[name] = getattr(import_module(module), kind)
        except ModuleNotFoundError:
            print(f"  {name} is not installed: pip install 'trimtab[bench]'")
    return found


def optimizers_of(network: str, device: str) -> dict[str, Any]:
    """Return every optimizer, each with its own copy of the network's weights."""
    import timm
    import torch
    from torch.optim import SGD, Adam, AdamW

    from framework.optim import LionK, PartialSignSGD

    weights = [p.detach() for p in timm.create_model(network, pretrained=False).parameters()]
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(w.shape, generator=generator).mul_(1e-3).to(device) for w in weights]

    def parameters() -> Iterable[torch.nn.Parameter]:
        for weight, gradient in zip(weights, gradients, strict=True):
            parameter = torch.nn.Parameter(weight.to(device, copy=True))
            parameter.grad = gradient
            yield parameter

    common: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.1}
    optimizers: dict[str, torch.optim.Optimizer] = {
        BASELINE: AdamW(parameters(), **common, foreach=True),
        "AdamW fused": AdamW(parameters(), **common, fused=True),
        "AdamW loop": AdamW(parameters(), **common, foreach=False),
        "SGD fused": SGD(parameters(), **common, momentum=0.9, fused=True),
        SIGN: LionK(parameters(), **common),
        LP: LionK(parameters(), **common, kappa="lp", kappa_kwargs={"p": 2}),
        ADAM: Adam(parameters(), lr=1e-4, foreach=True),
        PARTIAL: PartialSignSGD(parameters()),
    }
    if device == "cpu":
        optimizers[FUSED] = LionK(parameters(), **common, fused=True)
    for name, kind in peers().items():
        optimizers[name] = kind(parameters(), **common)
    return optimizers


def state_bytes(optimizer: Any) -> float:
    """Return the bytes of state per parameter, after a step."""
    import torch

    tensors = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    sizes = [p.numel() for group in optimizer.param_groups for p in group["params"]]
    return sum(t.numel() * t.element_size() for t in tensors) / sum(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    pin_allocator()
    print(machine(arguments.device))
    for network in NETWORKS:
        optimizers = optimizers_of(network, arguments.device)
        arms = {name: optimizer.step for name, optimizer in optimizers.items()}
        medians = interleaved_medians(arms, arguments.rounds)
        print_ratios(f"one step on the weights of {network}", medians, BASELINE, GOALS)
        pair = {name: medians[name] for name in (ADAM, PARTIAL)}
        print_ratios(f"partial adaptivity, on the weights of {network}", pair, ADAM, PARTIAL_GOALS)
        print(f"\nbytes of state per parameter of {network}")
        for name, optimizer in optimizers.items():
            print(f"  {name:32s} {state_bytes(optimizer):10.2f}")


if __name__ == "__main__":
    main()
