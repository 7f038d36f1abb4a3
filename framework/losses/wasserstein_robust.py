"""The loss at the worst input near a given one, where distance has a price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.attacks.attack import Forward, under_attack
from framework.attacks.wasserstein import Cost, moved_cost, penalized_ascent, transport_cost
from framework.utilities.checks import check_one_of, check_positive
from framework.utilities.precision import at_least_float32

Inner = Literal["ascent", "closed_form_linear"]


def robust_zero_one(margin: Tensor, gamma: float | Tensor, cost: Cost = "l2") -> Tensor:
    r"""Return :math:`\sup_z 1(z \text{ is wrong}) - \gamma c(z, x)` of x at a distance from errors.

    Errors are all points on the other side of a hyperplane, or of one of several. For
    ``cost='l2'`` that is the ramp :math:`\min(1, \max(0, 1 - \gamma m))`, and for the absolute
    margin, whose label is the predicted one, the hat :math:`\max(0, 1 - \gamma |m|)`. It tends to
    the error :math:`1(m \le 0)` for :math:`\gamma \to \infty` and to 1 for :math:`\gamma \to 0`.

    Args:
        margin: Signed distances m to the nearest error, such as :math:`y \langle \theta, x \rangle
            / \lVert \theta \rVert`, of any shape; not positive where x itself is wrong.
        gamma: Price of transport, positive; a number, or a tensor of the shape of ``margin``.
        cost: Cost of transport: ``'l2'``, ``'l2sq'`` or ``'half_l2sq'``.

    Returns:
        Of the shape of ``margin``, in [0, 1].

    Example:
        >>> from framework.losses.wasserstein_robust import robust_zero_one
        >>> robust_zero_one(torch.tensor([1.4, 0.2, -0.14, 0.4]), gamma=0.5)
        tensor([0.3000, 0.9000, 1.0000, 0.8000])
    """
    # unlike a clamp this has a slope at 0, where a model of zeros begins
    distance = margin.masked_fill(margin < 0, 0)
    return (1 - gamma * transport_cost(distance, cost)).clamp(min=0)


def linear_weight(forward: Forward, inputs: Tensor) -> Tensor:
    """Return the weight (K, D) of a model that is linear in its D inputs, with its gradient.

    It is read off the derivative at zero inputs, whatever the model is made of.

    Args:
        forward: Function from (B, ...) to logits (B, K).
        inputs: (B, ...), for their shape alone; B may be 0.
    """
    with under_attack(forward, inputs.device):
        probe = torch.zeros(
            1, *inputs.shape[1:], dtype=inputs.dtype, device=inputs.device, requires_grad=True
        )
        logits = forward(probe)[0]
        rows = [torch.autograd.grad(logit, probe, create_graph=True)[0] for logit in logits]
        return at_least_float32(torch.stack(rows).flatten(1))


def distance_to_errors(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    r"""Return the signed distance of every row to the nearest input of another predicted class.

    It is :math:`\min_{k \ne y} (f_y - f_k) / \lVert w_y - w_k \rVert`, exact for a linear model; of
    two classes it is the margin divided by the norm of :math:`\theta = w_1 - w_0`. It is not
    positive where the prediction is wrong, and infinite where no input has another one.

    Args:
        logits: (B, K), K >= 2.
        targets: (B,) int64, y.
        weight: (K, D), the weight w that made the logits.

    Returns:
        (B,).
    """
    centered = weight - weight.mean(0).detach()
    gram = centered @ centered.T
    own = torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    total = gram.diagonal()[:, None] + gram.diagonal()
    square = total - 2 * gram
    # classes of one weight, such as a zero at the start, have no boundary between them, and the
    # root of their zero no slope
    alike = square <= 8 * torch.finfo(gram.dtype).eps * total
    margin = logits.gather(1, targets[:, None]) - logits
    distance = margin / square.masked_fill(alike, 1.0).sqrt()[targets]
    beyond = alike[targets] & (margin.detach() > 0) | own[targets]
    return distance.masked_fill(beyond, torch.inf).amin(1)


def wasserstein_robust_loss(
    model: Forward,
    x: Tensor,
    y: Tensor,
    gamma: float | Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    inner: Inner = "ascent",
    cost: Cost = "half_l2sq",
    steps: int = 15,
    step_size: float | None = None,
) -> Tensor:
    r"""Return the robust loss :math:`\phi_\gamma(x, y) = \sup_z \ell(z, y) - \gamma c(z, x)`.

    It is what a Wasserstein ball around the training distribution comes to in its dual: a larger
    :math:`\gamma` is less robust, and tends to :math:`\ell`. For a network the supremum is
    approached by ``penalized_ascent`` with batch norm and dropout in evaluation mode; the gradient
    is that of :math:`\ell(z^*, y)` with :math:`z^*` held (envelope theorem). With
    ``inner='closed_form_linear'`` the loss is the 0-1 loss of a linear model, whose supremum
    ``robust_zero_one`` has exactly, for two classes and for more.

    Paper: Sinha, Namkoong, Duchi, ICLR 2018, arXiv:1710.10571 (the ascent); Saberi et al., ICLR
    2024, arXiv:2310.00027 (the closed form).

    Args:
        model: Function from (B, ...) to predictions; with the closed form, linear and to (B, K).
        x: (B, ...) float.
        y: (B, ...) targets of ``loss``; (B,) int64 for the closed form.
        gamma: Price of transport, positive; a number, or one per row (B,).
        loss: Function from predictions and targets to the loss of every row; default
            cross-entropy. The closed form is of the 0-1 loss and takes none.
        inner: Solver of the supremum: ``'ascent'`` or ``'closed_form_linear'``.
        cost: Cost of transport: ``'half_l2sq'`` (:math:`\frac12 \lVert z - x \rVert^2`), ``'l2sq'``
            (:math:`\lVert z - x \rVert^2`), or, with the closed form, ``'l2'``.
        steps: Steps of the ascent.
        step_size: Size of a step of the ascent, see ``penalized_ascent``.

    Returns:
        (B,); with the ascent at least the loss of every row, if the model is in evaluation mode.

    Raises:
        ValueError: an argument out of its range, or a ``loss`` with the closed form.

    Example:
        >>> from framework.losses import wasserstein_robust_loss
        >>> x, y = torch.tensor([[1.0, 1.0], [0.2, 0.1]]), torch.tensor([1, 1])
        >>> model = lambda x: x @ torch.tensor([[0.0, 0.6], [0.0, 0.8]])
        >>> wasserstein_robust_loss(model, x, y, 0.5, inner="closed_form_linear", cost="l2")
        tensor([0.3000, 0.9000])
    """
    check_one_of(get_args(Inner), inner=inner)
    if not isinstance(gamma, Tensor):
        check_positive(gamma=gamma)
    if inner == "closed_form_linear":
        if loss is not None:
            raise ValueError("The closed form is that of the 0-1 loss: drop loss, or use 'ascent'.")
        check_one_of(get_args(Cost), cost=cost)
        logits = at_least_float32(model(x))
        margin = distance_to_errors(logits, y, linear_weight(model, x))
        return robust_zero_one(margin, gamma, cost)
    losses = _cross_entropy if loss is None else loss
    with under_attack(model, x.device):
        moved = penalized_ascent(
            lambda z: losses(at_least_float32(model(z.to(x.dtype))), y),
            at_least_float32(x),
            gamma,
            steps=steps,
            step_size=step_size,
            cost=cost,
        )
    values = losses(at_least_float32(model(moved.to(x.dtype))), y)
    return values - gamma * moved_cost(moved, at_least_float32(x.detach()), cost)


def _cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(predictions, targets, reduction="none")
