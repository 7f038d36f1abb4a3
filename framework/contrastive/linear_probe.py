"""Accuracy of a linear classifier on frozen features."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.contrastive.bank_accuracy import BankAccuracy
from framework.contrastive.checks import check_features
from framework.distributed.collectives import all_reduce_sum, rank
from framework.ops.cosines import full_precision
from framework.utilities.checks import check_at_least, check_positive


class LinearProbe(NamedTuple):
    """Weights of a linear classifier.

    Args:
        weight: (K, D) float32.
        bias: (K,) float32; -inf of a class that was not there.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, feature: Tensor) -> Tensor:
        """Return the logits (B, K) of features (B, D)."""
        with full_precision(feature.device):
            return _finite(feature.float()) @ self.weight.T + self.bias


def fit_linear_probe(
    feature: Tensor,
    label: Tensor,
    num_classes: int,
    strength: float = 1.0,
    max_iterations: int = 200,
) -> LinearProbe:
    """Fit a multinomial logistic regression to frozen features, by scikit-learn's L-BFGS.

    It minimizes the summed cross-entropy + |W|^2 / (2 strength) in float64, W the weights of
    features that are scaled to mean 0 and standard deviation 1, so that the scale of an embedding
    does not matter. The papers train by SGD without regularization instead, whose accuracy depends
    on its learning rate.

    Args:
        feature: (N, D).
        label: (N,) int64 in 0..K-1.
        num_classes: Number K of classes.
        strength: Inverse of the regularization, ``C`` of scikit-learn.
        max_iterations: Most iterations of L-BFGS.

    Raises:
        ValueError: ``strength`` or ``max_iterations`` out of range, other shapes, a label outside
            the classes, or no row.

    Example:
        >>> feature = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> probe = fit_linear_probe(feature, torch.tensor([0, 0, 2, 2]), num_classes=3)
        >>> probe(torch.tensor([[0.4], [2.4]])).argmax(1)
        tensor([0, 2])
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    check_positive(strength=strength)
    check_at_least(1, max_iterations=max_iterations)
    check_features(feature, label, num_classes)
    x = _finite(feature.detach().cpu().double())
    y = label.cpu()
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64)
    bias = torch.full((num_classes,), -torch.inf, dtype=torch.float64)
    classes = y.unique()
    bias[classes] = 0.0
    if len(classes) > 1:
        model = LogisticRegression(C=strength, max_iter=max_iterations)
        with warnings.catch_warnings():
            # what it has reached by then classifies as well
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(((x - mean) / scale).numpy(), y.numpy())
        # of two classes there are weights of the second one alone
        rows = classes[-len(model.coef_) :]
        weight[rows] = torch.from_numpy(model.coef_) / scale
        bias[rows] = torch.from_numpy(model.intercept_) - weight[rows] @ mean
    return LinearProbe(weight.float().to(feature.device), bias.float().to(feature.device))


def _finite(feature: Tensor) -> Tensor:
    """Return features with 0 for what a network that diverged has made."""
    return feature.nan_to_num(0.0, 0.0, 0.0)


class LinearProbeAccuracy(BankAccuracy):
    """Share of samples that a linear classifier of their features tells, see ``fit_linear_probe``.

    It needs ``use_bank`` before the first batch, see ``BankAccuracy``. The classifier is fitted on
    one rank, and is the same on all.

    Args:
        num_classes: Number K of classes.
        strength: Inverse of the regularization, ``C`` of scikit-learn.
        max_iterations: Most iterations of L-BFGS.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_classes`` or ``max_iterations`` below 1, or a ``strength`` that is not
            positive.

    Example:
        >>> metric = LinearProbeAccuracy(num_classes=2)
        >>> metric.use_bank(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> metric.update(torch.tensor([[0.4], [2.4], [0.1]]), torch.tensor([0, 1, 1]))
        >>> metric.compute()
        tensor(0.6667)
    """

    def __init__(
        self, num_classes: int, strength: float = 1.0, max_iterations: int = 200, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_at_least(1, max_iterations=max_iterations)
        check_positive(strength=strength)
        self.strength = strength
        self.max_iterations = max_iterations
        self.probe: LinearProbe

    def learn(self, feature: Tensor, label: Tensor) -> None:
        """Fit the classifier to these rows."""
        # before ranks part, as it is the same on all
        check_features(feature, label, self.num_classes)
        if rank() == 0:
            probe = fit_linear_probe(
                feature, label, self.num_classes, self.strength, self.max_iterations
            )
        else:
            # of the type on rank 0, also where a run's precision is another default
            weight = torch.zeros(
                self.num_classes, feature.shape[1], dtype=torch.float32, device=feature.device
            )
            probe = LinearProbe(weight, weight.new_zeros(self.num_classes))
        self.probe = LinearProbe(*map(all_reduce_sum, probe))

    def scores(self, feature: Tensor) -> Tensor:
        """Return the logits of the classifier, (B, K)."""
        return self.probe(feature)
