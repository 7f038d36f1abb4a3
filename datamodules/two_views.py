"""Two augmented views of each training image, for contrastive learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Unpack

from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from datamodules.augmentation import check_keeps_shape
from datamodules.image_datasets import ImageSet
from datamodules.view_transforms import view_transforms
from datamodules.wrapped_data import WrappedData, check_makes_no_batches
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import Batch, Sample, root_and_rows
from framework.data.facts import copy_facts


class TwoViews(WrappedData):
    """Serves two randomly transformed views of each training image of other data.

    Training batches hold ``image`` (B, C, H, W) and ``image2`` (B, C, H, W), the two views,
    ``index`` (B,) int64, the row of the full training set of ``data``, and ``label`` (B,) where
    there are labels, which contrastive learning does not train on. Evaluation, and
    ``ordered_train_dataloader``, has ``image`` alone, as it is.

    The random numbers of a view are a function of (seed, epoch, index, number of the view), so that
    views are the same on any number of ranks and of loading processes, and after a resume.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Any datamodule of images, also wrapped ones such as ``LongTailed``; its own
            ``batch_size``, ``eval_batch_size`` and ``num_workers`` are not used.
        augment: Random transforms of an image in [0, 1], such as those of
            ``torchvision.transforms.v2``, that keep its shape; default those of
            ``view_transforms``, which depend on the channels and on the size.

    Raises:
        ValueError: Data with mixup, groups, transforms of its own or batches of its own; without
            ``augment`` images of neither 1 nor 3 channels, or outside [0, 1]; or an ``augment``
            that changes the shape of an image (at ``setup``).
        TypeError: Data that serve no images (at ``setup``).

    Example:
        >>> from datamodules import Digits
        >>> data = TwoViews(Digits(), batch_size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> sorted(batch), batch["image2"].shape
        (['image', 'image2', 'index', 'label'], torch.Size([32, 1, 8, 8]))
        >>> sorted(next(iter(data.val_dataloader())))
        ['image', 'index', 'label']
    """

    def __init__(
        self,
        data: DataModule,
        augment: list[nn.Module] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        name = type(data).__name__
        if data.mixes_samples or data.has_groups:
            raise ValueError(
                f"{name} makes samples of several images, which have no views: switch its mixup "
                "off."
            )
        check_makes_no_batches(self, data)
        self.data = data
        self.transforms = augment
        copy_facts(self.data, self)

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, once."""
        if self.train_set is not None:
            return
        self.set_up_data()
        name = type(self.data).__name__
        if self.data.augment is not None:
            raise ValueError(
                f"{name} has transforms of its own, of which there would be one view: switch them "
                "off there, and give them to TwoViews as augment."
            )
        self.train_set, normalize = _in_unit_range(self.data.train_set, name)
        image = self.train_set[0]["image"]
        transforms = self.transforms
        if transforms is None:
            low, high = float(image.min()), float(image.max())
            if low < 0 or high > 1:
                raise ValueError(
                    f"The usual views are of images in [0, 1], and one of {name} lies in "
                    f"[{low:g}, {high:g}]: set augment."
                )
            transforms = view_transforms(image.shape)
        check_keeps_shape(
            transforms, image, image.shape, "let augment end in the size that it is given"
        )
        self.augment = ViewPair(transforms, normalize)
        self.plain_train_set = self.data.train_set

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)


class ViewPair:
    """Replaces ``image`` of a sample by one view, and adds another as ``image2``.

    Args:
        transforms: Random modules from image to image.
        normalize: Normalization after the transforms; None for none.
    """

    def __init__(
        self, transforms: Sequence[nn.Module], normalize: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.transforms = nn.Sequential(*transforms)
        self.normalize = normalize

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with two views, which global generators decide."""
        first, second = (self._view(sample["image"]) for _ in range(2))
        return {**sample, "image": first, "image2": second}

    def _view(self, image: Tensor) -> Tensor:
        image = self.transforms(image)
        return image if self.normalize is None else self.normalize(image)


def _in_unit_range(
    dataset: Dataset[Sample] | None, name: str
) -> tuple[Dataset[Sample], Callable[[Tensor], Tensor] | None]:
    """Return the images before they are normalized, and their normalization."""
    source, rows = root_and_rows(dataset, list(range(len(dataset))))  # type: ignore[arg-type]
    if not rows or "image" not in source[rows[0]]:
        raise TypeError(f"{name} serves no images, of which TwoViews could make two views.")
    if not isinstance(source, ImageSet) or source.normalize is None:
        return dataset, None  # type: ignore[return-value]
    plain = copy(source)
    plain.normalize = None
    return plain if dataset is source else Subset(plain, rows), source.normalize
