"""Handwritten digits in two halves, turned as a whole: two domains without a download."""

from __future__ import annotations

from typing import Literal, Unpack

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.digits import Digits
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from framework.utilities.checks import check_one_of

FIRST_ROWS = 900


class RotatedDigits(ClassificationData):
    """A half of the digits of ``Digits``, each turned by the same angle.

    The halves share no digit: they are the first 900 and the other 897 of the 1,797 in the random
    order that ``Digits`` has by default. Images keep 8x8 pixels: they are turned about their center
    and interpolated bilinearly, and what comes in from outside is 0. In
    ``DomainPair`` the first half as it is and the second half turned
    by 25 degrees are two domains: an MLP that learns the first recognizes about half of the second.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        half: Half of the digits: ``first`` or ``second``.
        degrees: Angle of the turn in degrees, counterclockwise.

    Raises:
        ValueError: another ``half``, or see the base class.

    Example:
        >>> data = RotatedDigits("second", degrees=25)
        >>> data.setup("fit")
        >>> data.num_samples, next(iter(data.train_dataloader()))["image"].shape
        (897, torch.Size([128, 1, 8, 8]))
    """

    num_classes = 10
    class_names = tuple("0123456789")
    input_shape = (1, 8, 8)

    def __init__(
        self,
        half: Literal["first", "second"],
        degrees: float = 0.0,
        val_size: int | float = 0.1,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_one_of(("first", "second"), half=half)
        self.half = half
        self.degrees = degrees

    def read(self) -> Splits:
        """Return the half, turned; all of it is the training set."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        digits = Digits(test_size=0).read().train.fields
        rows = slice(FIRST_ROWS) if self.half == "first" else slice(FIRST_ROWS, None)
        image = transforms.rotate(digits["image"][rows], self.degrees, InterpolationMode.BILINEAR)
        return Splits(ImageSet(image=image, label=digits["label"][rows]), None, None)
