"""Linear regression on bags' mean responses in closed form, its exact risk, the best bag size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from framework.data.bag_sampling import assign_bags
from framework.data.privacy import MeanRelease, response_sensitivity
from framework.utilities.checks import check_interval

Array = NDArray[Any]


class AggregateRidge(RegressorMixin, BaseEstimator):
    r"""Fits a linear model to the mean responses of bags; what AggregateResponseLoss converges to.

    With H the projector that replaces each row by the mean of its bag, the coefficients minimize
    the squared ``AggregateResponseLoss``,

    .. math:: \hat\theta_\rho = A_\rho^{-1} X^\top H y, \qquad
              A_\rho = X^\top [(1 - \rho) H + \rho I] X,

    found as the least squares solution for :math:`[H + \sqrt\rho (I - H)] X`, whose square is
    :math:`A_\rho`; of several solutions the one of least norm. The intercept is not penalized, as
    a constant does not vary inside a bag.

    Shapes: X (n, d) numbers; y (n,) responses, of which only the bags' means are used, so that each
    row may carry its bag's mean; bags (n,) integers, the bag of each row, by default each row its
    own, which is ordinary least squares. Computed in float64.

    Paper: Javanmard et al., ICLR 2024, arXiv:2401.11081. There is no official code.

    Cost: one singular value decomposition of an (n, d) matrix.
    Use it for: linear models on bags, and as what a trained linear model must reach.

    Args:
        rho: Weight of the instance-level loss, in [0, 1]; 0 is unbiased, 1 is shrunk the most.
        fit_intercept: Whether to add a constant to the model.

    Attributes:
        coef_: (d,).
        intercept_: a number, 0 without ``fit_intercept``.
        n_features_in_: d.

    Raises:
        ValueError: an argument out of its range, or bags of another length than X.

    Example:
        >>> import numpy as np
        >>> from framework.solvers import AggregateRidge
        >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
        >>> y, bags = np.array([1.5, 1.5, 4.5, 4.5]), np.array([0, 0, 1, 1])
        >>> AggregateRidge(rho=0.5, fit_intercept=False).fit(X, y, bags).coef_.round(4)
        array([1.5616, 1.9726])
    """

    def __init__(self, rho: float = 0.1, fit_intercept: bool = True) -> None:
        self.rho = rho
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, bags: Any = None) -> AggregateRidge:  # noqa: N803
        """Fit to samples X (n, d) whose bags (n,) have the means of responses y (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        center, level = (X.mean(0), y.mean()) if self.fit_intercept else (np.zeros(X.shape[1]), 0.0)
        bags = np.arange(len(X)) if bags is None else bags
        solution = _solution_map(X - center, *_check_bags(X, bags, self.rho), self.rho)
        self.coef_ = solution @ (y - level)
        self.intercept_ = float(level - center @ self.coef_)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the prediction of every sample, (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_ + self.intercept_


class Risk(NamedTuple):
    """Squared norm of the bias, variance, and their sum, of the coefficients given X."""

    bias: float
    variance: float
    risk: float


def aggregate_risk(
    X: Any,  # noqa: N803
    bags: Any,
    rho: float,
    theta: Any,
    sigma: float,
    release_std: Any = 0.0,
) -> Risk:
    r"""Return the exact :math:`E \|\hat\theta_\rho - \theta^*\|^2` given X, if y = X theta + noise.

    .. math:: \mathrm{bias} = -\rho A_\rho^{-1} X^\top (I - H) X \theta^*, \qquad
              \mathrm{variance} = \mathrm{tr}(A_\rho^{-1} X^\top D H X A_\rho^{-1}),

    where D is diagonal, :math:`\sigma^2 + |a| v_a` for the rows of bag a, with v_a the variance of
    the noise on the released mean. For isotropic x it is what the model's squared error on
    new samples exceeds :math:`\sigma^2` by. For an intercept give X a column of ones.

    Args:
        X: (n, d).
        bags: (n,) integers, the bag of each row.
        rho: Weight of the instance-level loss, in [0, 1].
        theta: True coefficients, (d,), or a number: their norm, and the risk is the mean over all
            directions.
        sigma: Standard deviation of y given x.
        release_std: Standard deviation of the noise on the bags' means, a number or one per row.

    Raises:
        ValueError: an argument out of its range, or of another length than X.
    """
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2:
        raise ValueError(f"X must have the shape (n, d), got {X.shape}.")
    d = X.shape[1]
    bag_of_row, sizes = _check_bags(X, bags, rho)
    solution = _solution_map(X, bag_of_row, sizes, rho)
    distortion = solution @ X - np.eye(d)
    if np.ndim(theta) == 0:
        bias = float(theta) ** 2 / d * (distortion**2).sum()
    else:
        bias = ((distortion @ np.asarray(theta)) ** 2).sum()
    row_variance = sigma**2 + sizes[bag_of_row] * np.square(release_std)
    variance = (solution**2 @ np.broadcast_to(row_variance, len(X))).sum()
    return Risk(float(bias), float(variance), float(bias + variance))


def bag_size_risks(
    X: Any,  # noqa: N803
    *,
    sigma: float,
    theta: Any,
    rho: float = 0.1,
    release: MeanRelease | None = None,
    clip: float | None = None,
    bag_sizes: Iterable[int] | None = None,
    assignments: int = 5,
) -> dict[int, Risk]:
    """Return the exact risk at every bag size, averaged over random assignments to bags.

    The rows are assigned by ``assign_bags``. What clipping takes away from
    the responses is not counted.

    Args:
        X: (n, d) with isotropic rows, such as whitened inputs, or standard normal numbers where
            only n and d are known.
        sigma: Standard deviation of y given x.
        theta: True coefficients, (d,), or their norm.
        rho: Weight of the instance-level loss, in [0, 1].
        release: Release of the bags' means; default none, the exact means.
        clip: Bound C of the release; each response is clipped to [-C, C] first.
        bag_sizes: Sizes to compare; default all from 1 to n // (d + 2), beyond which the variance
            of the bag-level loss diverges.
        assignments: Number of random assignments that are averaged.

    Raises:
        ValueError: a release without ``clip``, or a bag size that does not fit X.
    """
    X = np.asarray(X, dtype=np.float64)
    if (release is None) != (clip is None):
        raise ValueError("release and clip must be given together.")
    n, d = X.shape
    risks = {}
    for size in range(1, n // (d + 2) + 1) if bag_sizes is None else bag_sizes:
        found = []
        for seed in range(assignments):
            bags = assign_bags(n, size, seed).numpy()
            std = np.zeros(n // size)
            if release is not None and clip is not None:
                rows = np.bincount(bags)
                std = np.array([release.noise_std(response_sensitivity(k, clip)) for k in rows])
            found.append(aggregate_risk(X, bags, rho, theta, sigma, std[bags]))
        risks[size] = Risk(*np.mean(found, axis=0).tolist())
    return risks


def optimal_bag_size(X: Any, **arguments: Any) -> int:  # noqa: N803
    r"""Return the bag size of least risk; arguments as those of ``bag_size_risks``.

    It is 1 without a private release, and also with one for the bag-level loss (``rho=0``): the
    noise on a mean falls with the bag size k, but so does the number of bags, and the risk of
    Laplace noise for standard normal X, :math:`d\,(k \sigma^2 + 8 C^2 / \epsilon^2) /
    (n - k (d + 1))`, grows with k. With ``rho`` above 0, whose shrinkage holds the noise down in
    larger bags, the best size grows as epsilon falls.

    Example:
        >>> import numpy as np
        >>> from framework.data.privacy import MeanRelease
        >>> from framework.solvers import optimal_bag_size
        >>> X = np.random.default_rng(0).standard_normal((300, 10))
        >>> facts = {"sigma": 0.7, "theta": 0.7, "rho": 0.1, "clip": 2.0}
        >>> sizes = [1, 2, 4, 6, 8, 12]
        >>> [
        ...     optimal_bag_size(X, release=MeanRelease(epsilon), bag_sizes=sizes, **facts)
        ...     for epsilon in (10.0, 3.0, 2.0)
        ... ]
        [1, 2, 6]
    """
    risks = bag_size_risks(X, **arguments)
    return min(risks, key=lambda size: risks[size].risk)


def _check_bags(X: Array, bags: Any, rho: float) -> tuple[Array, Array]:  # noqa: N803
    """Return the number of the bag of every row, (n,) in 0..m-1, and the rows of each, (m,)."""
    check_interval("[0, 1]", rho=rho)
    bags = np.asarray(bags)
    if bags.shape != (len(X),):
        raise ValueError(f"bags must have the shape ({len(X)},), got {bags.shape}.")
    _, bag_of_row, sizes = np.unique(bags, return_inverse=True, return_counts=True)
    return bag_of_row, sizes


def _solution_map(X: Array, bag_of_row: Array, sizes: Array, rho: float) -> Array:  # noqa: N803
    """Return the matrix (d, n) that takes responses to coefficients; constant inside a bag."""

    def averaged(rows: Array) -> Array:
        sums = np.zeros((len(sizes), rows.shape[1]))
        np.add.at(sums, bag_of_row, rows)
        return (sums / sizes[:, None])[bag_of_row]

    means = averaged(X)
    whitened = means + np.sqrt(rho) * (X - means)
    # with fewer bags than columns, singular values that are rounding must count as zero
    inverse = np.linalg.pinv(whitened, rcond=max(X.shape) * np.finfo(np.float64).eps)
    return averaged(inverse.T).T
