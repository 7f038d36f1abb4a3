"""The smooth adversarial comp-sum loss: a clean loss and a penalty on how far margins can move."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from framework.attacks.attack import Attack, Forward, under_attack
from framework.attacks.pgd import PGDAttack
from framework.distributed.collectives import shared_generator
from framework.losses.comp_sum import CompSumLoss
from framework.losses.loss import check_labels, check_logits
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import at_least_float32
from framework.utilities.randomness import global_seed

CHECK_EVERY = 100  # steps between looks for a collapse: each look makes a GPU wait


def margin_shift(shift: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\lVert \Delta(x', y) - \Delta(x, y) \rVert_2` per row, (B,).

    Δ holds the margins :math:`f_y - f_{y'}`. Class y itself adds 0 to the norm, so no row needs a
    mask.

    Args:
        shift: (B, K), the logits at x' minus those at x.
        targets: (B,) int64, y.
    """
    # its gradient where nothing moved is 0, and not the NaN of a square root
    return torch.linalg.vector_norm(shift.gather(1, targets[:, None]) - shift, dim=1)


class SmoothAdversarialCompSumLoss(CompSumLoss):
    r"""Adversarial training by a clean loss and a smooth penalty (ADV-COMP-SUM).

    .. math:: \ell_\tau(f / \rho, y) + \nu_t \sup_{\lVert x' - x \rVert \le \epsilon}
        \lVert \Delta(x', y) - \Delta(x, y) \rVert_2

    with :math:`\ell_\tau` of ``CompSumLoss`` and the margins
    :math:`\Delta = (f_y - f_{y'})_{y' \ne y}`. For :math:`\nu \ge \sqrt{K - 1} / \rho` it bounds
    the adversarial comp-sum :math:`\rho`-margin loss from above. The supremum is approached by
    ``attack``, which ascends the squared norm with the model in evaluation mode; the gradient goes
    through the predictions at x and at x'. In evaluation mode the loss is its clean term alone:
    robustness is then measured by ``RobustAccuracy``.

    ``nu=1`` from the first step drove a perceptron on MNIST to a constant prediction, hence the
    smaller default; more needs a warm-up over 20 to 30 % of the steps. The loss warns once if the
    penalty vanishes while the accuracy is at chance. Dropout draws anew for x', which adds to the
    penalty.

    Shapes: predictions (B, K) logits, K >= 2; targets (B,) int64; ``inputs`` (B, ...); returns a
    scalar, or (B,).

    Paper: Mao, Mohri, Zhong, *Cross-Entropy Loss Functions: Theoretical Analysis and
    Applications*, ICML 2023, arXiv:2304.07288, section 5. There is no official code.

    Cost: ``attack.steps`` + 1 forward and backward passes and one forward pass more than
        cross-entropy; the activations of two passes in memory.
    Use it for: classifiers that must withstand small perturbations of their inputs.

    Args:
        tau: Exponent of the family, see ``CompSumLoss``.
        rho: Margin by which the logits of the clean term are divided.
        nu: Weight of the penalty; 0.3 suited two perceptrons on digits, 1 was too much.
        nu_warmup_steps: Optimizer steps over which the weight grows linearly from 0.
        attack: Attack that looks for x'; default ``PGDAttack()``: l-infinity, 8/255, 10 steps. For
            normalized inputs it needs their ``mean`` and ``std``.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: an argument out of its range, an attack that starts where its objective has no
            gradient, or predictions or targets of another shape.

    Example:
        >>> import torch
        >>> from framework.attacks.pgd import PGDAttack
        >>> from framework.losses import SmoothAdversarialCompSumLoss
        >>> model, image = torch.nn.Linear(4, 3), torch.rand(2, 4)
        >>> loss = SmoothAdversarialCompSumLoss(nu=0.3, attack=PGDAttack(eps=0.1, steps=5))
        >>> value = loss(model(image), torch.tensor([0, 2]), inputs=image, forward=model, step=0)
        >>> value.backward()
    """

    needs: ClassVar[tuple[str, ...]] = ("inputs", "forward", "step", "micro_batch")
    soft_targets: ClassVar[bool] = False

    def __init__(
        self,
        tau: float = 1.0,
        rho: float = 1.0,
        nu: float = 0.3,
        nu_warmup_steps: int = 0,
        attack: Attack | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(tau=tau, reduction=reduction)
        check_positive(rho=rho)
        check_at_least(0, nu=nu, nu_warmup_steps=nu_warmup_steps)
        self.rho = rho
        self.nu = nu
        self.nu_warmup_steps = nu_warmup_steps
        self.attack = PGDAttack() if attack is None else attack
        if isinstance(self.attack, PGDAttack) and not self.attack.random_start:
            raise ValueError(
                "The attack needs random_start: at the inputs themselves nothing has moved yet, "
                "and its objective has no gradient."
            )
        self.seed = global_seed()
        self._warned = False

    def forward(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Predict at the attacked inputs, then compute as any loss.

        Predictions at x' are made here, in the precision and mode in which those at x were.
        """
        # what is missing or does not fit is refused by the base class
        if self.training and not self.missing(needs) and len(predictions) == len(targets):
            kept = self.kept(targets)
            labels = targets if kept is None else targets.where(kept, 0)
            needs["adversarial"] = self._adversarial_predictions(predictions, labels, **needs)
        return super().forward(predictions, targets, **needs)

    def _adversarial_predictions(
        self,
        predictions: Tensor,
        targets: Tensor,
        inputs: Tensor,
        forward: Forward,
        step: int,
        micro_batch: int = 0,
    ) -> Tensor:
        check_logits(self, predictions)
        check_labels(self, predictions, targets)
        with under_attack(forward, inputs.device), torch.no_grad():
            # not `predictions`: in training mode batch norm and dropout move the margins as well
            reference = at_least_float32(forward(inputs))

        def objective(attacked: Tensor) -> Tensor:
            return margin_shift(at_least_float32(attacked) - reference, targets).square()

        generator = shared_generator(
            self.seed, step, "smooth_adversarial", inputs.device, micro_batch
        )
        return forward(self.attack.perturb(forward, inputs, objective, generator=generator))

    def per_sample(
        self,
        predictions: Tensor,
        targets: Tensor,
        step: int = 0,
        adversarial: Tensor | None = None,
        kept: Tensor | None = None,
        **needs: Any,
    ) -> Tensor:
        """Return the loss of every row, (B,), given the predictions at x' (none: clean term)."""
        clean = super().per_sample(predictions / self.rho, targets)
        if adversarial is None:
            return clean
        shift = margin_shift(adversarial - predictions, targets)
        if step > 0 and step % CHECK_EVERY == 0:
            counted = slice(None) if kept is None else kept
            self._check_collapse(shift.detach()[counted], predictions[counted], targets[counted])
        return clean + self.nu_at(step) * shift

    def nu_at(self, step: int) -> float:
        """Return the weight of the penalty at an optimizer step."""
        return self.nu * min(1.0, step / self.nu_warmup_steps) if self.nu_warmup_steps else self.nu

    def _check_collapse(self, shift: Tensor, predictions: Tensor, targets: Tensor) -> None:
        rows, chance = len(targets), 1 / predictions.shape[1]
        if self._warned or not rows or (penalty := float(shift.mean())) >= 1e-3:
            return
        accuracy = float((predictions.argmax(1) == targets).float().mean())
        if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / rows):
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: the penalty is {penalty:.1e} and the accuracy "
                f"{accuracy:.3f} is that of chance: the model predicts a constant. Use a smaller "
                "nu or more nu_warmup_steps.",
                stacklevel=2,
            )
