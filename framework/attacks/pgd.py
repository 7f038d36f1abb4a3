"""Projected gradient ascent in a ball around the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.attacks.attack import Attack, Forward, Objective
from framework.distributed.collectives import draw_for_global_batch
from framework.utilities.checks import check_at_least, check_one_of, check_positive

Norm = Literal["linf", "l2"]


class PGDAttack(Attack):
    r"""Projected gradient ascent in a ball around the inputs.

    From a random point of the ball it takes ``steps`` steps along the sign of the gradient
    (``'linf'``) or along the gradient scaled to length 1 (``'l2'``), each followed by the
    projection on the ball and on the valid range; the last point is returned. The start is uniform
    in the ball for either norm.

    Shapes: inputs (B, ...); the l2 norm is over all but the first dimension. Units: ``eps``,
    ``step_size`` and ``clamp`` in pixels, usually of images in [0, 1], also if inputs are
    normalized.

    Paper: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018,
    arXiv:1706.06083. Where a row's gradient is zero, the row stays where it is.

    Args:
        eps: Radius of the ball.
        step_size: Length of a step; default ``eps / 4``.
        steps: Number of steps; 0 leaves the random start.
        norm: Norm of the ball, ``'linf'`` or ``'l2'``.
        random_start: Whether to start at a random point of the ball rather than at the inputs.
        clamp: Valid range of a pixel, or None.
        mean: Mean of each channel (or one for all), if inputs are normalized. Together with
            ``std``.
        std: Standard deviation of each channel.

    Raises:
        ValueError: an argument out of its range, or inputs outside ``clamp`` (looked at in the
            first batch): they are normalized, and ``mean`` and ``std`` are missing.

    Example:
        >>> import torch
        >>> from framework.attacks.pgd import PGDAttack
        >>> model, label = torch.nn.Linear(4, 3), torch.tensor([0, 2])
        >>> x = PGDAttack(eps=0.1).perturb(
        ...     model,
        ...     torch.full((2, 4), 0.5),
        ...     lambda logits: torch.nn.functional.cross_entropy(logits, label, reduction="none"),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(((x - 0.5).abs() <= 0.1 + 1e-6).all())
        True
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        step_size: float | None = None,
        steps: int = 10,
        norm: Norm = "linf",
        random_start: bool = True,
        clamp: tuple[float, float] | None = (0.0, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(mean, std)
        check_at_least(0, eps=eps, steps=steps)
        check_positive(step_size=step_size)
        check_one_of(get_args(Norm), norm=norm)
        if clamp is not None and not clamp[0] < clamp[1]:
            raise ValueError(f"clamp must be (low, high) with low < high, got {clamp}.")
        self.eps = eps
        self.step_size = eps / 4 if step_size is None else step_size
        self.steps = steps
        self.norm = norm
        self.random_start = random_start
        self.clamp = clamp
        self._range_checked = False

    def search(
        self, forward: Forward, pixels: Tensor, objective: Objective, generator: torch.Generator
    ) -> Tensor:
        """Return perturbed pixels (B, ...)."""
        perturbed = pixels
        if self.random_start:
            # every rank draws, also one without rows
            perturbed = pixels + self.eps * self._start(pixels, generator)
        if pixels.numel() == 0:
            return perturbed
        self._check_range(pixels)
        perturbed = self._project(perturbed, pixels)
        for _ in range(self.steps):
            perturbed.requires_grad_()
            value = objective(forward(perturbed)).sum()
            (gradient,) = torch.autograd.grad(value, perturbed)
            step = self.step_size * self._direction(gradient)
            perturbed = self._project(perturbed.detach() + step, pixels)
        return perturbed

    def _start(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return points uniform in the unit ball, of the shape of ``pixels``."""
        shape = pixels.shape[1:]

        def sample(rows: int, generator: torch.Generator) -> Tensor:
            device = generator.device
            if self.norm == "linf":
                return torch.rand(rows, *shape, generator=generator, device=device) * 2 - 1
            direction = _unit(torch.randn(rows, *shape, generator=generator, device=device))
            radius = torch.rand(rows, generator=generator, device=device) ** (1 / shape.numel())
            return direction * _per_row(radius, direction)

        return draw_for_global_batch(sample, len(pixels), generator).to(pixels)

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else _unit(gradient)

    def _project(self, perturbed: Tensor, pixels: Tensor) -> Tensor:
        offset = perturbed - pixels
        if self.norm == "linf":
            offset = offset.clamp(-self.eps, self.eps)
        else:
            length = torch.linalg.vector_norm(offset.flatten(1), dim=1)
            # 1 inside the ball, and no division by zero
            offset = offset * _per_row(self.eps / length.clamp(min=max(self.eps, 1e-30)), offset)
        # the inputs lie in the range, so this leads out of no ball
        projected = pixels + offset
        return projected if self.clamp is None else projected.clamp(*self.clamp)

    def _check_range(self, pixels: Tensor) -> None:
        if self.clamp is None or self._range_checked:
            return
        # once, since a GPU waits for it
        self._range_checked = True
        low, high = (float(value) for value in pixels.aminmax())
        slack = 1e-3 * (self.clamp[1] - self.clamp[0])
        if low < self.clamp[0] - slack or high > self.clamp[1] + slack:
            raise ValueError(
                f"{type(self).__name__}: inputs lie in [{low:.4g}, {high:.4g}] and not in "
                f"clamp={list(self.clamp)}; give the attack the mean and std of the normalization."
            )


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _unit(x: Tensor) -> Tensor:
    """Return every row scaled to length 1; a row of zeros stays."""
    length = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return x / _per_row(length.clamp(min=torch.finfo(x.dtype).tiny), x)
