"""The handwritten digits that scikit-learn carries: real data without a download."""

from __future__ import annotations

from typing import Unpack

import torch

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from framework.utilities.checks import check_interval
from framework.utilities.randomness import stable_seed


class Digits(ClassificationData):
    """1,797 handwritten digits of 8x8 pixels in 16 gray levels, scaled to [0, 1].

    They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and
    Kaynak 1998). A permutation fixed by ``split_seed`` puts the last ``test_size`` rows aside for
    testing; the others are the full training set, from which ``val_size`` rows are held out: by
    default 1,437 train, 180 validate and 180 test.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        test_size: Rows of the test set.

    Raises:
        ValueError: a ``test_size`` that leaves no training sample, or see the base class.

    Example:
        >>> data = Digits(batch_size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, sorted(batch)
        (torch.Size([32, 1, 8, 8]), ['image', 'index', 'label'])
    """

    num_classes = 10
    class_names = tuple("0123456789")
    input_shape = (1, 8, 8)

    def __init__(
        self,
        test_size: int = 180,
        val_size: int | float = 180,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_interval("[0, 1796]", test_size=test_size)
        self.test_size = test_size

    def read(self) -> Splits:
        """Return the permuted digits, the last ``test_size`` of them for testing."""
        from sklearn.datasets import load_digits

        pixels, label = load_digits(return_X_y=True)
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "digits"))
        order = torch.randperm(len(label), generator=generator)
        image = torch.from_numpy(pixels)[order].view(-1, 1, 8, 8).float() / 16
        label = torch.from_numpy(label).long()[order]
        train, test = [
            ImageSet(image=image[part], label=label[part])
            for part in (
                slice(len(label) - self.test_size),
                slice(len(label) - self.test_size, None),
            )
        ]
        return Splits(train, None, test if self.test_size else None)
