"""Verification sets in one file: a pickle of encoded images, two for each pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.faces.pair_files import MOST_FOLDS
from framework.data.encoded_image import EncodedImage
from framework.data.restricted_pickle import load_pickle
from framework.embedding.pairs import Pairs


class BinFile(NamedTuple):
    """Pairs of images in one file.

    Args:
        images: Encoded images, each once, however many pairs it is in.
        pairs: Pairs of their positions.
    """

    images: list[EncodedImage]
    pairs: Pairs


def read_bin(path: Path) -> BinFile:
    """Read a verification set of InsightFace, such as ``lfw.bin`` or ``cfp_fp.bin``.

    Such a file is a pickle of 2 M encoded images, those of a pair one after the other, and M
    statements whether both are of one person. It is read by a machine that runs nothing. Equal
    images become one, and pairs are put into ten folds in their order, or in as many as there are.

    Args:
        path: File ending in ``.bin``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds anything else, or another number of images.
    """
    found = load_pickle(path, encoding="bytes")
    if type(found) not in (list, tuple) or len(found) != 2 or not all(map(_is_list, found)):
        raise ValueError(
            f"{path} is no verification set: a list of encoded images and a list of statements "
            "whether pairs are of one person are expected."
        )
    images, same = found
    if len(images) != 2 * len(same) or not len(same):
        raise ValueError(
            f"{path} has {len(images):,} images for {len(same):,} pairs: two for each pair are "
            "expected."
        )
    place: dict[bytes, int] = {}
    number_of: list[int] = []
    for number, image in enumerate(images):
        number_of.append(place.setdefault(_content(image, f"{path}, image {number}"), len(place)))
    first_number = {number: k for k, number in reversed([*enumerate(number_of)])}
    pairs = torch.tensor(number_of).view(-1, 2)
    is_same = torch.tensor([_statement(value, k, path) for k, value in enumerate(same)])
    folds = min(MOST_FOLDS, len(is_same))
    return BinFile(
        [
            EncodedImage(f"{path}, image {first_number[number]}", content)
            for content, number in place.items()
        ],
        Pairs(first=pairs[:, 0], second=pairs[:, 1], same=is_same, num_folds=folds),
    )


def _is_list(value: Any) -> bool:
    return type(value) in (list, tuple) or (type(value) is np.ndarray and value.ndim == 1)


def _content(image: Any, name: str) -> bytes:
    if type(image) is np.ndarray and image.ndim == 1 and image.dtype == np.uint8:
        return image.tobytes()
    if type(image) in (bytes, bytearray):
        return bytes(image)
    raise ValueError(f"{name} is of the type {type(image).__name__}, and no encoded image.")


def _statement(value: Any, number: int, path: Path) -> bool:
    if not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (0, 1):
        raise ValueError(
            f"{path}: whether pair {number} is of one person is neither true nor false."
        )
    return bool(value)
