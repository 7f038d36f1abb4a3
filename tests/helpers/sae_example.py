"""The worked example of three tokens and four features, by three rules."""

from __future__ import annotations

import torch

X = torch.tensor([[1.0, 0.5], [0.9, 1.2], [0.1, 0.8]], dtype=torch.float64)
DIRECTIONS = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
BIAS = torch.tensor([0.1, -0.2], dtype=torch.float64)
# which features each token uses, and what the rule then reaches: fvu, nmse_openai, nmse_ratio
RULES = {
    "topk": ("1010 0110 0110", 3.780000, 0.699524, 0.667952),
    "mutual": ("1010 1110 0100", 4.129091, 0.504059, 0.729639),
    "feature": ("1000 1110 0101", 4.650000, 0.694541, 0.821687),
}


def mask(rule: str) -> torch.Tensor:
    """Return the (3, 4) mask of a rule."""
    return torch.tensor([[bit == "1" for bit in row] for row in RULES[rule][0].split()])


def reconstruction(rule: str) -> torch.Tensor:
    """Return (3, 2)."""
    code = (X - BIAS) @ DIRECTIONS.T * mask(rule)
    return code.relu() @ DIRECTIONS + BIAS
