"""What a self-tuner is told, by a person's own loop or by the callback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from framework.utilities.checks import check_at_least, check_interval, check_positive


class SelfTuningOptions(TypedDict, total=False):
    """Arguments of ``SelfTuningSettings``, for what builds on it."""

    include: Sequence[str]
    exclude: Sequence[str]
    train_steps: int
    tune_steps: int
    hyper_lr: float
    scale_lr: float
    tune_scales: bool
    entropy_weight: float
    init_scale: float
    per_sample: bool
    centered: bool
    gate_scale: float


class SelfTuningSettings:
    """Base of what takes the arguments of self-tuning, which it checks and holds.

    Args:
        include: Patterns of the names of layers that respond, such as ``network.body.*``.
        exclude: Patterns of the names of layers that do not.
        train_steps: Number of training steps between two rounds of tuning.
        tune_steps: Number of tuning steps of a round.
        hyper_lr: Learning rate of Adam on the hyperparameters.
        scale_lr: Learning rate of Adam on the scales of the perturbation.
        tune_scales: Whether the scales are tuned; if not, a tuning step is not perturbed.
        entropy_weight: Weight of the entropy of the perturbation, which keeps it from vanishing.
        init_scale: Standard deviation of the perturbation at the start.
        per_sample: Whether each row of a batch has a draw of its own, or the batch has one.
        centered: Whether layers respond to the distance from the hyperparameters at the time, which
            is more stable (Delta-STN).
        gate_scale: Standard deviation of the gates of the response at the start; Delta-STN has 0.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        train_steps: int = 2,
        tune_steps: int = 1,
        hyper_lr: float = 3e-3,
        scale_lr: float = 3e-3,
        tune_scales: bool = True,
        entropy_weight: float = 1e-3,
        init_scale: float = 0.5,
        per_sample: bool = True,
        centered: bool = False,
        gate_scale: float = 0.01,
    ) -> None:
        check_at_least(1, train_steps=train_steps, tune_steps=tune_steps)
        check_at_least(0, entropy_weight=entropy_weight)
        check_positive(hyper_lr=hyper_lr, scale_lr=scale_lr)
        check_interval("[0.001, 5]", init_scale=init_scale)
        self.include = include
        self.exclude = exclude
        self.train_steps = train_steps
        self.tune_steps = tune_steps
        self.hyper_lr = hyper_lr
        self.scale_lr = scale_lr
        self.tune_scales = tune_scales
        self.entropy_weight = entropy_weight
        self.init_scale = init_scale
        self.per_sample = per_sample
        self.centered = centered
        self.gate_scale = gate_scale
