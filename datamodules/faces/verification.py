"""Verification sets of any form, and several of them as one set of images with a list for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from datamodules.faces.bin_file import read_bin
from datamodules.faces.encoded_images import EncodedImages
from datamodules.faces.pair_files import read_lfw_pairs, read_pair_table
from datamodules.image_datasets import ImageFiles, JoinedImages
from framework.data.image_files import intact_images
from framework.embedding.pairs import Pairs


class VerificationSet(NamedTuple):
    """Images and pairs of them.

    Args:
        name: Name of the set.
        images: Images, each once.
        pairs: Pairs of their positions.
    """

    name: str
    images: ImageFiles
    pairs: Pairs


class VerificationImages(JoinedImages):
    """Images of several verification sets, one after another.

    Args:
        sets: Verification sets, whose images are normalized as they say.
        shape: Shape (C, H, W) of their images.
    """

    def __init__(self, sets: Sequence[VerificationSet], shape: tuple[int, int, int]) -> None:
        images = [one.images for one in sets]
        # only pairs are known
        super().__init__(images, {"label": torch.full((sum(map(len, images)),), -1)}, shape)
        self.sets = sets

    @property
    def names(self) -> list[str]:
        """Name of each image, behind that of its set."""
        return [f"{one.name}/{name}" for one in self.sets for name in one.images.names]

    def pairs(self) -> dict[str, Pairs]:
        """Return the list of pairs of each set by its name, as positions among all images."""
        found: dict[str, Pairs] = {}
        first = 0
        for one in self.sets:
            found[one.name] = replace(
                one.pairs, first=one.pairs.first + first, second=one.pairs.second + first
            )
            first += len(one.images)
        return found


def read_verification(
    paths: Sequence[Path], shape: tuple[int, int, int], resize: int | None = None
) -> list[VerificationSet]:
    """Return verification sets, named by their files, or by the folder of a ``pairs.txt``.

    Args:
        paths: Files: ``.bin`` (``read_bin``), ``.txt`` (``read_lfw_pairs``) or ``.csv``
            (``read_pair_table``).
        shape: Shape (C, H, W) that images are brought to, see ``ImageFiles``.
        resize: Length that the shorter side is resized to before.

    Raises:
        FileNotFoundError: no such file, or an image that it names.
        ValueError: another ending, two sets of one name, or a damaged file.
    """
    found: dict[str, VerificationSet] = {}
    for path in paths:
        name = path.parent.resolve().name if path.name == "pairs.txt" else path.stem
        if name in found:
            raise ValueError(f"verification has two sets called {name}: rename one of the files.")
        if path.suffix == ".bin":
            content = read_bin(path)
            images: ImageFiles = EncodedImages(content.images, path, shape, resize)
            pairs = content.pairs
        elif path.suffix in (".txt", ".csv"):
            read = read_lfw_pairs if path.suffix == ".txt" else read_pair_table
            files, pairs = read(path)
            images = ImageFiles(intact_images(files, path.parent), None, path.parent, shape, resize)
        else:
            raise ValueError(f"{path} is no verification set: .bin, .txt or .csv is expected.")
        found[name] = VerificationSet(name, images, pairs)
    return [*found.values()]
