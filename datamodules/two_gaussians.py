"""Two Gaussians of opposite means: the data on which theories of learning are tried."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.randomness import stable_seed


class TwoGaussians(ClassificationData):
    r"""Points of two classes with means :math:`\pm \mu` and standard normal noise.

    The best classifier is linear, and its accuracy :math:`\Phi(\lVert \mu \rVert)`: 0.841 for a
    norm of 1. With ``shift`` the training points have the means :math:`\pm (\mu + \alpha v)`, v a
    unit vector, which is another domain, as unlabeled rows of ``SemiSupervised`` may be of; test
    points never have it. A point is an image of one row, ``image`` (B, 1, 1, D), so that
    a ``Classifier`` with ``backbone: mlp`` takes it, linear with ``widths: []``; its values do not
    lie in [0, 1].

    The remaining arguments are those of ``ClassificationData``.

    Args:
        num_train: Points of the full training set, half of each class as nearly as possible.
        num_test: Points of the test set.
        dimensions: Dimensions D of a point.
        norm: Norm of the mean.
        shift: Distance α by which the mean of the training points is moved.
        draw: Number of the draw of the training points; the means and the test points are the
            same for all. Unlabeled rows need another draw than labeled ones, whose points they
            would have.

    Raises:
        ValueError: an argument out of its range, or see the base class.

    Example:
        >>> from datamodules import TwoGaussians
        >>> data = TwoGaussians(num_train=40, dimensions=200, val_size=0)
        >>> data.setup("fit")
        >>> data.num_samples, data.input_shape
        (40, (1, 1, 200))
    """

    num_classes = 2
    class_names = ("minus", "plus")

    def __init__(
        self,
        num_train: int = 1000,
        num_test: int = 2000,
        dimensions: int = 200,
        norm: float = 1.0,
        shift: float = 0.0,
        draw: int = 0,
        val_size: int | float = 0.1,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_at_least(2, num_train=num_train)
        check_at_least(1, num_test=num_test, dimensions=dimensions)
        check_at_least(0, shift=shift, draw=draw)
        check_positive(norm=norm)
        self.num_train = num_train
        self.num_test = num_test
        self.norm = norm
        self.shift = shift
        self.draw = draw
        self.input_shape = (1, 1, dimensions)

    @property
    def mean(self) -> Tensor:
        """Mean of the class 1 without the shift, (D,)."""
        return self.norm * self._unit("mean")

    def read(self) -> Splits:
        """Return the points, the same for the same arguments."""
        moved = self.mean + self.shift * self._unit("shift")
        seed = stable_seed("two gaussians", "train", self.draw, str(float(self.shift)))
        test_seed = stable_seed("two gaussians", "test")
        train = self._points(self.num_train, moved, seed)
        return Splits(train, None, self._points(self.num_test, self.mean, test_seed))

    def _unit(self, name: str) -> Tensor:
        generator = torch.Generator().manual_seed(stable_seed("two gaussians", name))
        return F.normalize(torch.randn(self.input_shape[-1], generator=generator), dim=0)

    def _points(self, rows: int, mean: Tensor, seed: int) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        label = torch.arange(rows) % 2
        noise = torch.randn(rows, *self.input_shape, generator=generator)
        return ImageSet(image=(2 * label - 1).view(-1, 1, 1, 1) * mean + noise, label=label)
