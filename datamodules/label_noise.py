"""Wrong training labels: synthetic noise of three kinds, or the labels of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.labels import check_labels, read_labels
from framework.utilities.checks import check_interval, check_one_of
from framework.utilities.randomness import stable_seed

Kind = Literal["symmetric", "pair", "class_dependent", "file"]


class LabelNoise:
    """Replaces training labels, once and for the whole run, by noisy ones.

    The three synthetic kinds are one rule: a label y becomes class j with probability T[y, j],
    where T is the (K, K) transition matrix. It depends on ``seed`` and on a label's position alone,
    so every rank sees the same labels. As in "Co-teaching" (Han et al. 2018, arXiv:1804.06872) and
    the label-distributional robustness code, whose symmetric noise may redraw the true class; the
    human labels of CIFAR-N are those of Wei et al. 2022, arXiv:2110.12088.

    Args:
        kind: Kind of noise. ``symmetric``: with probability ``rate`` a uniform class. ``pair``:
            with probability ``rate`` class y + 1 mod K. ``class_dependent``: with probability
            ``rate`` the class ``flips[y]``, or drawn from row y of ``transition``. ``file``: the
            labels in ``path``.
        rate: Probability of a change in [0, 1]; for ``symmetric`` with ``redraw_true`` the share of
            wrong labels is rate (K - 1) / K.
        seed: Seed of the draw; it does not follow the seed of the run.
        redraw_true: Whether a symmetric draw may give the true class again.
        flips: Class that each class may turn into; a class not named keeps its labels.
        transition: Transition matrix (K, K) whose rows sum to 1; replaces ``rate`` and ``flips``.
        path: Label file of the *full* training set: ``.npy``, ``.txt``, ``.csv`` or ``.pt``.
        key: Column of the label file, such as ``worse_label`` of CIFAR-10N.

    Raises:
        ValueError: a value out of range, or an argument that ``kind`` does not use.

    Example:
        >>> labels = torch.arange(4).repeat(250)
        >>> noisy = LabelNoise("pair", rate=0.4).apply(labels, num_classes=4)
        >>> sorted({int(d) for d in (noisy - labels) % 4})
        [0, 1]
    """

    def __init__(
        self,
        kind: Kind = "symmetric",
        rate: float = 0.0,
        seed: int = 0,
        redraw_true: bool = True,
        flips: dict[int, int] | None = None,
        transition: list[list[float]] | None = None,
        path: str | Path | None = None,
        key: str | None = None,
    ) -> None:
        check_one_of(get_args(Kind), kind=kind)
        check_interval("[0, 1]", rate=rate)
        given = {"flips": flips, "transition": transition, "path": path, "key": key}
        used = {"class_dependent": ("flips", "transition"), "file": ("path", "key")}.get(kind, ())
        for name, value in given.items():
            if value is not None and name not in used:
                raise ValueError(f"{name} has no meaning for label noise of kind {kind!r}.")
        if kind == "class_dependent" and (flips is None) == (transition is None):
            raise ValueError("Class-dependent label noise needs either flips or transition.")
        if kind == "file" and path is None:
            raise ValueError("Label noise of kind 'file' needs a path.")
        if rate and (kind == "file" or transition is not None):
            raise ValueError("rate has no meaning where a file or a transition matrix is given.")
        self.kind = kind
        self.rate = rate
        self.seed = seed
        self.redraw_true = redraw_true
        self.flips = flips
        self.transition = transition
        self.path = path
        self.key = key

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Return T (K, K) float64, T[y, j] the probability that true class y is labeled j.

        Raises:
            ValueError: kind ``file``, which has none, or a matrix or a flip that does not fit.
        """
        if self.kind == "file":
            raise ValueError("Labels of a file have no transition matrix.")
        if self.transition is not None:
            return self._given_matrix(num_classes)
        keep = torch.eye(num_classes, dtype=torch.float64)
        if self.kind == "symmetric":
            if self.redraw_true:
                change = torch.full_like(keep, 1 / num_classes)
            else:
                change = (1 - keep) / (num_classes - 1)
        elif self.kind == "pair":
            change = keep.roll(1, dims=1)
        else:
            change = self._flip_matrix(keep)
        return (1 - self.rate) * keep + self.rate * change

    def apply(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the noisy labels (N,) int64 of the clean ``labels`` (N,) int64.

        Raises:
            ValueError: a file with another number of labels, with one outside the classes, or whose
                own clean labels are not ``labels``.
        """
        if self.kind == "file":
            return self._from_file(labels, num_classes)
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "label noise"))
        draw = torch.rand(len(labels), dtype=torch.float64, generator=generator)
        cumulative = self.transition_matrix(num_classes).cumsum(dim=1)
        # so that rounding never reaches past the last class of positive probability
        cumulative /= cumulative[:, -1:]
        noisy = torch.empty_like(labels)
        for label, bounds in enumerate(cumulative):
            members = labels == label
            noisy[members] = torch.searchsorted(bounds, draw[members], right=True)
        return noisy

    def _given_matrix(self, num_classes: int) -> Tensor:
        rows = [len(row) for row in self.transition or ()]
        if rows != [num_classes] * num_classes:
            raise ValueError(f"transition must be a {num_classes} x {num_classes} matrix.")
        matrix = torch.tensor(self.transition, dtype=torch.float64)
        for label, row in enumerate(matrix):
            if (row < 0).any() or abs(float(row.sum()) - 1) > 1e-6:
                raise ValueError(
                    f"Row {label} of transition must be probabilities that sum to 1, got "
                    f"{row.tolist()}."
                )
        return matrix

    def _flip_matrix(self, keep: Tensor) -> Tensor:
        assert self.flips is not None
        change = keep.clone()
        for label, wrong in self.flips.items():
            if not (0 <= label < len(keep) and 0 <= wrong < len(keep)):
                raise ValueError(
                    f"flips {label}: {wrong} is outside the {len(keep)} classes 0..{len(keep) - 1}."
                )
            change[label] = keep[wrong]
        return change

    def _from_file(self, labels: Tensor, num_classes: int) -> Tensor:
        assert self.path is not None
        columns = read_labels(self.path, self.key)
        noisy = columns["label"]
        if len(noisy) != len(labels):
            raise ValueError(
                f"{self.path} has {len(noisy)} labels for a training set of {len(labels)}."
            )
        check_labels(noisy, num_classes, self.path)
        clean = columns.get("clean_label", labels)
        differs = torch.nonzero(clean != labels)
        if len(differs):
            item = int(differs[0])
            raise ValueError(
                f"{self.path}: its clean label of item {item} is {int(clean[item])}, the training "
                f"set's is {int(labels[item])}; the file is of another data set or order."
            )
        return noisy
