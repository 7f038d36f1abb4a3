"""Images of numbered identities: where they come from, and which identities are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.image_datasets import ImageFiles
from framework.data.image_files import ImagePath, intact_images
from framework.data.image_folders import labeled_images
from framework.utilities.randomness import stable_seed

Open = Callable[[Sequence[ImagePath], Tensor], ImageFiles]
"""Makes a set of image files and their labels."""


class Identities(NamedTuple):
    """Images of identities.

    Args:
        images: Images with ``label`` (N,) int64, the number of the identity.
        num_identities: Number of identities, some of which may have no image.
        names: Name of each identity, where they have names.
    """

    images: ImageFiles
    num_identities: int
    names: list[str] | None

    def chosen(self, numbers: Tensor) -> Identities:
        """Return the images of some identities, which are numbered anew in the given order.

        Args:
            numbers: Numbers (n,) int64 of the identities.
        """
        place = torch.full((self.num_identities,), -1)
        place[numbers] = torch.arange(len(numbers))
        label = place[self.images.fields["label"]]
        rows = torch.nonzero(label >= 0).flatten()
        images = copy(self.images)
        images.paths = images.paths[rows.numpy()]
        images.fields = {"label": label[rows]}
        names = None if self.names is None else [self.names[number] for number in numbers.tolist()]
        return Identities(images, len(numbers), names)

    def with_images(self, least: int) -> Tensor:
        """Return the numbers of the identities that have ``least`` images or more, ascending."""
        count = self.images.fields["label"].bincount(minlength=self.num_identities)
        return torch.nonzero(count >= least).flatten()


def read_identity_folder(root: Path, strict: bool, open_images: Open) -> Identities:
    """Return the images in one folder per identity, numbered in the order of ``sorted_names``.

    Args:
        root: Folder of the identities' folders.
        strict: Whether an image that cannot be decoded raises, or is left out with a warning.
        open_images: Maker of the image set.

    Raises:
        FileNotFoundError: no such folder, no folder in it, or no image.
        ValueError: by name, all images that cannot be decoded, if ``strict``.
    """
    found = labeled_images(root)
    numbers = {name: number for number, name in enumerate(found.class_names)}
    number_of = {path: numbers[name] for path, name in found.class_of.items() if name is not None}
    # those of one identity follow each other, in the order of the numbers
    paths = sorted(intact_images([*number_of], root, strict), key=number_of.__getitem__)
    label = torch.tensor([number_of[path] for path in paths])
    return Identities(open_images(paths, label), len(numbers), found.class_names)


def split_identities(
    people: Identities, val: int | float, test: int | float, seed: int
) -> dict[str, Identities]:
    """Return the identities to train on, to validate on and to test on, none of them in two parts.

    Args:
        people: All identities.
        val: Identities to validate on, as a number (int) or as a share (float).
        test: Identities to test on, likewise.
        seed: Seed of the choice.

    Raises:
        ValueError: a number below 0, or none is left to train on.
    """
    present = people.with_images(1)
    sizes = [
        round(size * len(present)) if isinstance(size, float) else size for size in (val, test)
    ]
    if min(sizes) < 0 or sum(sizes) >= len(present):
        raise ValueError(
            f"val_identities={val} and test_identities={test} do not fit {len(present)} identities "
            "with images: at least one must be left to train on."
        )
    if not any(sizes):
        return {"train": people}
    generator = torch.Generator().manual_seed(stable_seed(seed, "identities"))
    order = torch.randperm(len(present), generator=generator)
    parts = order.split([*sizes, len(present) - sum(sizes)])
    return {
        part: people.chosen(present[numbers.sort().values])
        for part, numbers in zip(("val", "test", "train"), parts, strict=True)
        if len(numbers)
    }
