"""Linear heads of many widths on features that are drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from framework.dynamics.random_features import (
    Activation,
    condition_number,
    curvature,
    draw_first_layer,
    exact_solution,
    random_features,
)


class RandomFeatureNetwork(nn.Module):
    """Networks of one hidden layer, of W widths and R draws each, whose first layers are frozen.

    ``prepare`` looks at the training rows once: it centers the inputs, measures each network's
    features, and solves for the exact heads, which are kept beside the trained ones.

    Args:
        inputs: Number D of inputs.
        classes: Number K of outputs.
        widths: Numbers of features P of the networks.
        draws: Number R of draws of the first layer at each width.
        activation: Activation of the features: ``tanh`` or ``relu``.
        scale: Factor before the activation.
        init_scale: Standard deviation of the trained heads' weights at the start, times sqrt(P).
        center: Whether the mean of the training inputs is subtracted.
        normalize: Whether each feature is divided by its root mean square over the training rows.
        unit_curvature: Whether each network's features are divided by the square root of the
            curvature L of its loss.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        widths: Sequence[int],
        draws: int,
        activation: Activation = "tanh",
        scale: float = 2.0,
        init_scale: float = 0.0,
        center: bool = True,
        normalize: bool = False,
        unit_curvature: bool = True,
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.draws = draws
        self.activation: Activation = activation
        self.scale = scale
        self.centers, self.normalizes, self.has_unit_curvature = center, normalize, unit_curvature
        dtype = torch.get_default_dtype()
        layers = [draw_first_layer(inputs, p, None) for p in self.widths for _ in range(draws)]
        self.heads = nn.ParameterList(
            init_scale / math.sqrt(p) * torch.randn(draws, p, classes) for p in self.widths
        )
        shape = (len(self.widths), draws)
        self.register_buffer("first", torch.cat(layers, dim=1).to(dtype))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("unit", torch.ones(self.first.shape[1]))
        self.register_buffer("root_curvature", torch.ones(shape))
        self.register_buffer("condition", torch.zeros(shape))
        self.register_buffer("rows", torch.tensor(0))
        for p in self.widths:
            self.register_buffer(f"exact_{p}", torch.zeros(draws, p, classes))

    first: Tensor
    mean: Tensor
    unit: Tensor
    root_curvature: Tensor
    condition: Tensor
    rows: Tensor
    """Number N of training rows; 0 before ``prepare``."""

    @property
    def exact_heads(self) -> list[Tensor]:
        """Exact solutions (R, P, K), one for each width."""
        return [self.get_buffer(f"exact_{p}") for p in self.widths]

    def features(self, inputs: Tensor) -> list[Tensor]:
        """Return the features (R, B, P) of each width."""
        z = random_features(inputs - self.mean, self.first, self.activation, self.scale)
        blocks = (z / self.unit).split([self.draws * p for p in self.widths], dim=1)
        return [
            block.view(len(inputs), self.draws, p).transpose(0, 1)
            for block, p in zip(blocks, self.widths, strict=True)
        ]

    def outputs(self, features: list[Tensor]) -> Tensor:
        """Return the outputs of the trained heads, (W, R, B, K)."""
        found = torch.stack([z @ w for z, w in zip(features, self.heads, strict=True)])
        return found / self.root_curvature[:, :, None, None]

    def exact_outputs(self, features: list[Tensor]) -> Tensor:
        """Return the outputs of the exact solutions, (W, R, B, K)."""
        return torch.stack([z @ w for z, w in zip(features, self.exact_heads, strict=True)])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the trained heads, (W, R, B, K)."""
        return self.outputs(self.features(inputs))

    @property
    def weight_norms(self) -> Tensor:
        """Euclidean norm of each trained head as it acts on the features, (W, R)."""
        norms = torch.stack([w.detach().flatten(1).norm(dim=1) for w in self.heads])
        return norms / self.root_curvature

    @torch.no_grad()
    def prepare(self, inputs: Tensor, targets: Tensor) -> None:
        """Measure the features of the training rows, and solve for the exact heads, in float64.

        Args:
            inputs: Inputs (N, D) of all training rows.
            targets: Targets (N, K).
        """
        x, y = inputs.cpu().double(), targets.cpu().double()
        if self.centers:
            self.mean.copy_(x.mean(0))
        # as they are in training, where the mean is rounded
        x = x - self.mean.cpu().double()
        z = random_features(x, self.first.cpu().double(), self.activation, self.scale)
        if self.normalizes:
            size = z.square().mean(0).sqrt()
            self.unit.copy_(torch.where(size > 0, size, 1.0))
        z = z / self.unit.cpu().double()
        blocks = iter(z.split([p for p in self.widths for _ in range(self.draws)], dim=1))
        for place, head in enumerate(self.heads):
            for draw in range(self.draws):
                block = next(blocks)
                self.exact_heads[place][draw] = exact_solution(block, y).to(head)
                self.condition[place, draw] = condition_number(block)
                if self.has_unit_curvature:
                    root = curvature(block).sqrt().to(head)
                    self.root_curvature[place, draw] = root
                    # so that the start does not depend on it
                    head[draw] *= root
        self.rows.fill_(len(x))
