"""Linear classifiers by gradient descent until no training error is left."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from framework.utilities.checks import check_at_least

Array = NDArray[Any]


class NormalizedLogisticRegression(ClassifierMixin, BaseEstimator):
    r"""Separates linearly separable classes by normalized logistic regression.

    Full-batch gradient descent from zero on the logistic loss, each step divided by the mean weight
    :math:`s_i = 1 - p_{y_i}` of the samples, which stops at the first step without a training
    error:

    .. math:: \theta \leftarrow \theta + \gamma\,\frac{\sum_i s_i y_i a_i}{\sum_i s_i}

    With R the largest norm of a sample and mu the margin of the data, that takes at most
    :math:`R^2 / \mu^2 + 2 \log(2n - 1) / (\gamma \mu^2)` steps in the binary case. With
    ``normalize=False`` it is plain logistic regression (a step :math:`\tfrac\gamma n \sum_i s_i y_i
    a_i`), which can take n times as many; with ``step_size=inf`` either becomes its limit, the
    batch perceptron, whose sums are over the misclassified samples (a tie counts half).

    Any step size works on separable data, and coefficients grow with it: neither their norm nor the
    distance to the boundary is calibrated, so that there is no ``predict_proba``. For K > 2
    classes, an extension, the loss is multinomial and a sample is right where its label has the
    strictly largest score.

    Shapes: X (n, d) numbers, computed in float64; y (n,) labels of any kind.

    Paper: Tyurin, *From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
    with Large Step Sizes*, AAAI 2025, arXiv:2412.08424. There is no official code. The same
    gradient for networks: ``NormalizedLogisticLoss``.

    Cost: two products of X with the coefficients per step, as plain logistic regression.
    Use it for: linear probes on separable features, above all where classes are imbalanced.

    Args:
        step_size: Step size gamma, above 0; 10 to 100 separate fastest, small ones find larger
            margins; ``inf`` is allowed, see above.
        max_iter: Largest number of steps. If errors are left then, because it is too small or the
            data are not separable, a ``ConvergenceWarning`` says how many.
        normalize: Whether to divide by the sum of s instead of n.
        fit_intercept: Whether to add a constant feature 1.

    Attributes:
        coef_: (1, d) for two classes, else (K, d).
        intercept_: (1,) or (K,).
        classes_: (K,) the labels, sorted.
        n_iter_: steps taken.
        n_features_in_: d.

    Raises:
        ValueError: an argument out of its range, or fewer than two classes.

    Example:
        >>> import numpy as np
        >>> from framework.solvers import NormalizedLogisticRegression
        >>> X, y = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 1.0]]), np.array([0, 0, 1])
        >>> model = NormalizedLogisticRegression().fit(X, y)
        >>> model.predict(X), model.n_iter_
        (array([0, 0, 1]), 3)
    """

    def __init__(
        self,
        step_size: float = 10.0,
        max_iter: int = 1000,
        normalize: bool = True,
        fit_intercept: bool = True,
    ) -> None:
        self.step_size = step_size
        self.max_iter = max_iter
        self.normalize = normalize
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any) -> NormalizedLogisticRegression:  # noqa: N803
        """Fit to samples X (n, d) with labels y (n,)."""
        if not self.step_size > 0:
            raise ValueError(f"step_size must be above 0, got {self.step_size}.")
        check_at_least(1, max_iter=self.max_iter)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("NormalizedLogisticRegression needs two classes, got 1 class.")
        if self.fit_intercept:
            X = np.column_stack([X, np.ones(len(X))])
        theta, self.n_iter_, errors = self._descend(X, labels)
        if errors:
            warnings.warn(
                f"{errors} of {len(X)} samples are still misclassified after {self.n_iter_} steps: "
                "the data are not linearly separable, or max_iter is too small.",
                ConvergenceWarning,
                stacklevel=2,
            )
        d = self.n_features_in_
        self.coef_ = theta[:, :d]
        self.intercept_ = theta[:, d] if self.fit_intercept else np.zeros(len(theta))
        return self

    def _descend(self, X: Array, labels: Array) -> tuple[Array, int, int]:  # noqa: N803
        """Return theta (1 or K, d), the steps taken and the errors left."""
        binary = len(self.classes_) == 2
        target = np.eye(len(self.classes_))[labels]
        # in units of the step size, which may be infinite
        theta = np.zeros((1 if binary else len(self.classes_), X.shape[1]))
        scale = self.step_size if np.isfinite(self.step_size) else 1.0
        scores = np.zeros_like(target)
        steps, errors = 0, len(X)
        while errors and steps < self.max_iter:
            steps += 1
            residual = -_softmax(scores, self.step_size) * (1 - target)
            # 1 - p of the label, with all its digits also where p rounds to 1
            residual -= target * residual.sum(1, keepdims=True)
            divisor = (residual * target).sum() if self.normalize else len(X)
            # two classes have one score, that of the second; the first one's stays zero
            theta += (residual[:, 1:] if binary else residual).T @ X / divisor
            scores[:, -len(theta) :] = X @ theta.T
            others = np.where(target == 1, -np.inf, scores).max(1)
            errors = int((scores[np.arange(len(X)), labels] <= others).sum())
        return theta * scale, steps, errors

    def decision_function(self, X: Any) -> Array:  # noqa: N803
        """Return the score of the second of two classes, (n,), or of every class, (n, K)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the label of every sample, (n,)."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]


def _softmax(scores: Array, scale: float) -> Array:
    """Return the softmax of ``scale * scores`` over rows; for infinite scale equal maxima share."""
    below = scores - scores.max(1, keepdims=True)
    weights = np.exp(scale * below) if np.isfinite(scale) else (below == 0).astype(float)
    return weights / weights.sum(1, keepdims=True)
