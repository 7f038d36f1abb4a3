"""Verification sets of any form, and several of them as one set of images with a list for each."""

from __future__ import annotations

from collections.abc import Sequence
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


def joined_images(
    sets: Sequence[VerificationSet], shape: tuple[int, int, int]
) -> tuple[JoinedImages, dict[str, Pairs]]:
    """Return the images of several sets, one after another, with their lists of pairs by name.

    Args:
        sets: Verification sets, whose images are normalized as they say.
        shape: Shape (C, H, W) of their images.

    Returns:
        Images with ``label`` -1, as only pairs are known, and pairs of positions among all.
    """
    pairs: dict[str, Pairs] = {}
    first = 0
    for one in sets:
        pairs[one.name] = Pairs(
            first=one.pairs.first + first,
            second=one.pairs.second + first,
            same=one.pairs.same,
            num_folds=one.pairs.num_folds,
        )
        first += len(one.images)
    label = torch.full((first,), -1)
    return JoinedImages([one.images for one in sets], {"label": label}, shape), pairs
