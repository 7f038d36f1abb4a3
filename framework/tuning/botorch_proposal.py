"""Points at which BoTorch's acquisition functions are largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from botorch import fit_gpytorch_mll
from botorch.acquisition import (
    AcquisitionFunction,
    FixedFeatureAcquisitionFunction,
    InverseCostWeightedUtility,
    PosteriorMean,
    qKnowledgeGradient,
    qMaxValueEntropy,
    qMultiFidelityKnowledgeGradient,
)
from botorch.acquisition.utils import project_to_target_fidelity
from botorch.exceptions import ModelFittingError
from botorch.models import AffineFidelityCostModel, SingleTaskGP, SingleTaskMultiFidelityGP
from botorch.models.model import Model
from botorch.optim import optimize_acqf
from botorch.utils.transforms import t_batch_mode_transform
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from framework.tuning.acquisition.knowledge_gradient import log_gain_at_evaluated
from framework.tuning.encoded_space import EncodedSpace

EXACT, EXACT_FANTASIES = 1e-6, 1e-4
"""Variance of the noise of standardized values that have none; with less, fantasies fail."""
FANTASIES = 16
STEPS, FANTASY_STEPS = 100, 25
"""Steps of the search for the best point."""
FIXED_COST = 0.01
"""Cost of starting a trial, as a part of a whole one."""


def proposals(
    name: str,
    space: EncodedSpace,
    inputs: Sequence[Sequence[float]],
    targets: Sequence[float],
    pending: Sequence[Sequence[float]] = (),
    deterministic: bool = False,
) -> list[list[float]]:
    """Return points of the encoded space, the most promising first.

    Draws from torch's and NumPy's global generators.

    Args:
        name: Name of the acquisition function, as in ``BoTorchSampler``.
        space: Encoded space.
        inputs: Encoded settings (n, d) of the trials that ended.
        targets: Their standardized values (n,); larger is better.
        pending: Encoded settings (m, d) of the trials that are running.
        deterministic: Whether the values are exact.
    """
    x, y, bounds = _tensor(inputs), _tensor(targets)[:, None], _tensor(space.bounds)
    waiting = _tensor(pending) if pending else None
    one_shot = name in ("kg", "mf_kg")
    noise = None if not deterministic else EXACT_FANTASIES if one_shot else EXACT
    model = _fitted(x, y, noise, space.fidelity_column)
    function = _acquisition(name, model, space, bounds, x, waiting)
    points, values = optimize_acqf(
        function,
        bounds,
        q=1,
        num_restarts=4,
        raw_samples=64 if one_shot else 256,
        options={
            "maxiter": FANTASY_STEPS if one_shot else STEPS,
            "sample_around_best": not one_shot,
        },
        return_best_only=False,
        retry_on_optimization_warning=False,
    )
    points = points.detach()
    if not one_shot:
        # what the settings themselves are worth, which may lie some way from the point
        rounded = [[space.encode(space.decode(row[0]))] for row in points.tolist()]
        points = _tensor(rounded)
        with torch.no_grad():
            values = function(points)
    order = values.argsort(descending=True)
    return points[order].squeeze(1).tolist()


def expected_values(
    space: EncodedSpace,
    inputs: Sequence[Sequence[float]],
    targets: Sequence[float],
    deterministic: bool = False,
) -> list[float]:
    """Return what each of the trials that ended would be expected to come to at full fidelity.

    Args:
        space: Encoded space.
        inputs: Encoded settings (n, d) of the trials.
        targets: Their standardized values (n,); larger is better.
        deterministic: Whether the values are exact.
    """
    x, y = _tensor(inputs), _tensor(targets)[:, None]
    model = _fitted(x, y, EXACT_FANTASIES if deterministic else None, space.fidelity_column)
    full = x.clone()  # the model holds on to x itself
    if space.fidelity_column is not None:
        full[:, space.fidelity_column] = 1.0
    with torch.no_grad():
        return model.posterior(full).mean.squeeze(-1).tolist()


def _tensor(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _fitted(x: Tensor, y: Tensor, noise: float | None, fidelity: int | None) -> Model:
    """Return the Gaussian process with the likeliest hyperparameters."""

    def fresh() -> Model:
        options: dict[str, Any] = {"outcome_transform": None}
        if noise is not None:
            options["train_Yvar"] = torch.full_like(y, noise)
        if fidelity is None:
            return SingleTaskGP(x, y, **options)
        return SingleTaskMultiFidelityGP(x, y, data_fidelities=[fidelity], **options)

    model = fresh()
    try:
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    except ModelFittingError:
        # the hyperparameters that are likely before anything is known
        model = fresh()
    return model.eval()


def _acquisition(
    name: str, model: Model, space: EncodedSpace, bounds: Tensor, x: Tensor, pending: Tensor | None
) -> AcquisitionFunction:
    if name == "kg":
        return qKnowledgeGradient(model, num_fantasies=FANTASIES, X_pending=pending)
    if name == "noisy_ei":
        return EvaluatedGain(model, x, pending)
    if name == "mes":
        places = torch.rand(512, space.columns, dtype=torch.float64, device="cpu")
        settings = [space.encode(space.decode(row)) for row in places.tolist()]
        return qMaxValueEntropy(model, torch.cat([_tensor(settings), x]), X_pending=pending)
    return _multi_fidelity(model, space, bounds, pending)


def _multi_fidelity(
    model: Model, space: EncodedSpace, bounds: Tensor, pending: Tensor | None
) -> AcquisitionFunction:
    column = space.fidelity_column
    assert column is not None
    others = [i for i in range(space.columns) if i != column]
    if others:
        mean = FixedFeatureAcquisitionFunction(PosteriorMean(model), space.columns, [column], [1.0])
        _, current = optimize_acqf(
            mean, bounds[:, others], q=1, num_restarts=4, raw_samples=128, options={"maxiter": 50}
        )
    else:
        current = PosteriorMean(model)(torch.ones(1, 1, 1, dtype=torch.float64))[0]
    cost = AffineFidelityCostModel({column: 1.0}, fixed_cost=FIXED_COST)

    def at_full_fidelity(points: Tensor) -> Tensor:
        return project_to_target_fidelity(points, {column: 1.0}, d=space.columns)

    return qMultiFidelityKnowledgeGradient(
        model,
        num_fantasies=FANTASIES,
        X_pending=pending,
        current_value=current.detach(),
        cost_aware_utility=InverseCostWeightedUtility(cost),
        project=at_full_fidelity,
    )


class EvaluatedGain(AcquisitionFunction):
    """Logarithm of the noisy expected improvement of Frazier's tutorial.

    Points that are being evaluated count as evaluated, with the values that are expected there.

    Args:
        model: Model of one outcome with normal noise.
        evaluated: Evaluated points (n, d).
        pending: Points (m, d) that are being evaluated.
    """

    def __init__(self, model: Model, evaluated: Tensor, pending: Tensor | None = None) -> None:
        super().__init__(model)
        self._evaluated = evaluated if pending is None else torch.cat([evaluated, pending])
        self._pending = 0 if pending is None else len(pending)
        self._noise = model.likelihood.noise.detach().mean()

    @t_batch_mode_transform(expected_q=1)  # type: ignore[untyped-decorator]
    def forward(self, X: Tensor) -> Tensor:  # noqa: N803
        """Return the values (b,) of points (b, 1, d)."""
        before = self._evaluated.expand(*X.shape[:-2], *self._evaluated.shape)
        posterior = self.model.posterior(torch.cat([before, X], dim=-2)).distribution
        covariance = posterior.covariance_matrix
        if self._pending:
            # what is pending lowers the variances, whatever its values will be
            these = slice(-1 - self._pending, -1)
            unit = torch.eye(self._pending, dtype=X.dtype, device=X.device)
            inner = covariance[..., these, these] + self._noise * unit
            cross = covariance[..., these]
            explained = torch.linalg.solve(inner, cross.transpose(-1, -2))
            covariance = covariance - cross @ explained
        gain = log_gain_at_evaluated(posterior.mean, covariance, self._noise)
        # where nothing can be gained the search needs a number nevertheless
        return torch.where(gain.isfinite(), gain, -1e10)
