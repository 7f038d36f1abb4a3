"""Fixtures of all tests."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ranks import TwoRanks

# W&B reads its settings once per process, at its first use in whichever test that is
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[TwoRanks]:
    """Call ``fn`` on two ranks: ``two_ranks(fn, *args) -> [of rank 0, of rank 1]``."""
    pair = TwoRanks()
    yield pair
    pair.close()


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of MNIST: 153 training and 40 test images of 28 x 28 pixels.

    Class c is a bright square at a place of its own, on noise. Beside them lies a ``usps.h5`` with
    the middle 16 x 16 pixels of each.
    """
    import h5py

    folder = tmp_path_factory.mktemp("idx")
    generator = torch.Generator().manual_seed(0)
    for part, rows in (("train", 153), ("t10k", 40)):
        label = torch.randint(10, (rows,), generator=generator, dtype=torch.uint8)
        image = torch.randint(60, (rows, 28, 28), generator=generator, dtype=torch.uint8)
        for i, c in enumerate(label.tolist()):
            row, column = 6 * (c // 4) + 2, 6 * (c % 4) + 2
            image[i, row : row + 5, column : column + 5] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte", image)
        write_idx(folder / f"{part}-labels-idx1-ubyte", label)
        with h5py.File(folder / "usps.h5", "a") as file:
            group = file.create_group("train" if part == "train" else "test")
            group["data"] = image[:, 6:22, 6:22].flatten(1).numpy() / np.float32(255)
            group["target"] = label.numpy()
    return folder


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Write unsigned bytes as an IDX file."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.contiguous().numpy().tobytes())
