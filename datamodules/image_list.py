"""All image files below a folder, without labels or with labels in their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Unpack

import torch
from torch import Tensor

from datamodules.image_data import ImageData, ImageGeometry, ImageOptions, Splits
from framework.data.folders import sorted_names
from framework.data.image_files import intact_images
from framework.data.image_folders import find_images


class ImageList(ImageData):
    r"""All images below a folder, decoded when they are needed; they need no labels.

    The images of all subfolders, in the order of their paths, are the training set and what is
    predicted; ``WholeSet`` serves them for validation and testing too. See ``find_images`` for what
    counts as an image, and ``open_image`` for how it is decoded.
    Batches hold ``image`` (B, C, H, W) float32 in [0, 1] unless normalized, ``index`` (B,) int64
    and, with ``label_pattern``, ``label`` (B,) int64. Files are found and checked, but not decoded,
    at ``setup``.

    Without a pattern ``num_classes`` and ``class_names`` are None. With one they are known after
    ``setup``: a class is what the pattern's group finds, and classes are numbered in the order
    1, 2, ..., 10, 11.

    The remaining arguments are those of ``ImageData``.

    Args:
        root: Folder of the images.
        image_size: Side of a square image, or its height and width (H, W); an image is resized, its
            sides in proportion, until it covers them, then the center is cropped. By default
            as in training, or the median of the shorter sides, at most 224.
        channels: Channels of an image: 3 for RGB, 1 for gray; by default as in training, or
            1 if all images are gray.
        resize: Length that the shorter side is resized to instead, at least ``image_size``.
        strict: Whether an image that cannot be decoded stops the run before it begins; otherwise it
            is left out and counted, and every image is decoded once before.
        label_pattern: Regular expression with one group, searched in each file's name, such as
            ``obj(\d+)__`` for COIL-20.

    Raises:
        FileNotFoundError: no such folder, or no image in it (at ``setup``).
        ValueError: an argument out of its range, no regular expression with one group; or (at
            ``setup``), by name, a file whose name it does not match, or all images that cannot be
            decoded.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("obj2__0", "obj2__5", "obj10__0"):
        ...     PIL.Image.new("L", (20, 30)).save(root / f"{name}.png")
        >>> data = ImageList(str(root), image_size=16, channels=1, label_pattern=r"obj(\d+)__")
        >>> data.setup("fit")
        >>> batch = next(iter(data.predict_dataloader()))
        >>> data.class_names, batch["label"], batch["image"].shape
        (['2', '10'], tensor([1, 0, 0]), torch.Size([3, 1, 16, 16]))
    """

    def __init__(
        self,
        root: str,
        image_size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        label_pattern: str | None = None,
        resize: int | None = None,
        strict: bool = True,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.strict = strict
        self.geometry = ImageGeometry(image_size, channels, resize)
        self.place = self.root
        self._use_preparation()
        self.label_pattern = None if label_pattern is None else _one_group(label_pattern)

    def read(self) -> Splits:
        """Find the files, and the labels in their names."""
        paths = intact_images(find_images(self.root), self.root, self.strict)
        label = None if self.label_pattern is None else self._labels(paths, self.label_pattern)
        return Splits(self.images_of(paths, label), None, None)

    def setup(self, stage: str | None = None) -> None:
        """Find the files once, for all stages."""
        if self.train_set is None:
            self.train_set = self.predict_set = self.read_normalized().train

    def _labels(self, paths: list[Path], pattern: re.Pattern[str]) -> Tensor:
        names = []
        for path in paths:
            match = pattern.search(path.name)
            if match is None or not match[1]:
                raise ValueError(
                    f"{path}: label_pattern {pattern.pattern} is not in the file's name."
                )
            names.append(match[1])
        self.class_names = sorted_names(names)
        self.num_classes = len(self.class_names)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([numbers[name] for name in names])


def _one_group(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"label_pattern {pattern!r} is no regular expression: {error}.") from None
    if compiled.groups != 1:
        raise ValueError(
            f"label_pattern needs one group in parentheses, {pattern!r} has {compiled.groups}."
        )
    return compiled
