"""Adversarial attacks: the inputs near given ones on which an objective is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework.distributed import draw_for_global_batch
from framework.evaluation_mode import evaluation_mode
from framework.precision import at_least_float32

Forward = Callable[[Tensor], Any]
Objective = Callable[[Any], Tensor]
Norm = Literal["linf", "l2"]


@contextmanager
def under_attack(forward: Forward, device: torch.device) -> Iterator[None]:
    """Inside the block, ``forward`` runs as attacks run it; afterwards all is as it was.

    The module behind ``forward`` and its submodules are in evaluation mode, so that batch norm is
    frozen and dropout is off. Gradients are on, even inside :func:`torch.inference_mode`, and
    autocast is off: input gradients underflow in half precision.

    Args:
        forward: an ``nn.Module``, a bound method of one, or any function, whose modules then keep
            their modes.
        device: of the inputs.
    """
    owner = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", None)
    with (
        evaluation_mode(owner) if isinstance(owner, nn.Module) else nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device_type=device.type, enabled=False),
    ):
        yield


class Attack:
    """Base of all attacks. A subclass writes :meth:`search`, which sees pixels only.

    The base undoes the normalisation of the inputs, so that budgets and valid ranges are in units
    of pixels, and runs the search as :func:`under_attack` says.

    Args:
        mean: per channel (or one for all), if inputs are normalised. Together with ``std``.
        std: per channel, positive, in units of pixels.

    Raises:
        ValueError: different numbers of values in ``mean`` and ``std``, or a std that is not
            positive.
    """

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        self.mean, self.std = list(mean or []), list(std or [])
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(
                "mean and std must be given together, as many values each and std positive, got "
                f"{mean} and {std}."
            )

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> Attack:
        """Return this attack for inputs that are normalised by ``mean`` and ``std``."""
        attack = copy(self)
        Attack.__init__(attack, mean, std)
        return attack

    def search(
        self, forward: Forward, pixels: Tensor, objective: Objective, generator: torch.Generator
    ) -> Tensor:
        """Return perturbed pixels (B, ...), B may be 0; arguments as in :meth:`perturb`."""
        raise NotImplementedError(f"{type(self).__name__} defines no search.")

    def perturb(
        self,
        forward: Forward,
        inputs: Tensor,
        objective: Objective,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return inputs near the given ones for which the objective is large.

        Parameters get no gradient and no hook of theirs fires, so that this is safe inside a
        training step under DDP, with the *unwrapped* module. With several ranks it is collective.

        Args:
            forward: from inputs to predictions; see :func:`under_attack`.
            inputs: (B, ...), B may be 0. Are not changed.
            objective: from predictions to values that are summed and ascended. What it refers to
                must be no inference tensor (clone labels inside ``torch.inference_mode(False)``).
            generator: of random starts, drawn for the global batch; in the same state on every
                rank, see :func:`framework.distributed.shared_generator`.

        Returns:
            (B, ...) of the dtype of ``inputs``, without gradient.
        """
        with under_attack(forward, inputs.device):
            given = at_least_float32(inputs.detach())
            mean, std = self._normalization(given)
            # a new tensor: one of inference mode could take part in no gradient
            pixels = given * std + mean

            def as_inputs(perturbed: Tensor) -> Tensor:
                if not self.mean:
                    return perturbed.to(inputs.dtype)
                # what is not perturbed comes back bit by bit
                return (given + (perturbed - pixels) / std).to(inputs.dtype)

            perturbed = self.search(lambda x: forward(as_inputs(x)), pixels, objective, generator)
            return as_inputs(perturbed).detach()

    def _normalization(self, inputs: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if not self.mean:
            return 0.0, 1.0
        shape = (-1, *[1] * (inputs.ndim - 2))
        mean, std = (inputs.new_tensor(values).view(shape) for values in (self.mean, self.std))
        return mean, std


class PGDAttack(Attack):
    r"""Projected gradient ascent in a ball around the inputs.

    From a random point of the ball it takes ``steps`` steps along the sign of the gradient
    (``'linf'``) or along the gradient scaled to length 1 (``'l2'``), each followed by the
    projection on the ball and on the valid range; the last point is returned. The start is uniform
    in the ball for either norm.

    Shapes: inputs (B, ...); the l2 norm is over all but the first dimension. Units: ``eps``,
    ``step_size`` and ``clamp`` in pixels, usually of images in [0, 1], also if inputs are
    normalised.

    Paper: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018,
    arXiv:1706.06083. Where a row's gradient is zero, the row stays where it is.

    Args:
        eps: radius of the ball.
        step_size: default ``eps / 4``.
        steps: 0 leaves the random start.
        norm: ``'linf'`` or ``'l2'``.
        random_start: or start at the inputs themselves.
        clamp: the valid range of a pixel, or None.
        mean: per channel (or one for all), if inputs are normalised. Together with ``std``.
        std: per channel.

    Raises:
        ValueError: an argument out of its range, or inputs outside ``clamp`` (looked at in the
            first batch): they are normalised, and ``mean`` and ``std`` are missing.

    Example:
        >>> import torch
        >>> from framework.attacks import PGDAttack
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
        if not 0 <= eps < math.inf:
            raise ValueError(f"PGDAttack: eps must be a finite number of at least 0, got {eps}.")
        if step_size is not None and not 0 < step_size < math.inf:
            raise ValueError(f"PGDAttack: step_size must be positive, got {step_size}.")
        if steps < 0:
            raise ValueError(f"PGDAttack: steps must not be negative, got {steps}.")
        if norm not in get_args(Norm):
            raise ValueError(f"PGDAttack: norm must be 'linf' or 'l2', got {norm!r}.")
        if clamp is not None and not clamp[0] < clamp[1]:
            raise ValueError(f"PGDAttack: clamp must be (low, high) with low < high, got {clamp}.")
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
                f"clamp={list(self.clamp)}; give the attack the mean and std of the normalisation."
            )


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _unit(x: Tensor) -> Tensor:
    """Return every row scaled to length 1; a row of zeros stays."""
    length = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return x / _per_row(length.clamp(min=torch.finfo(x.dtype).tiny), x)
