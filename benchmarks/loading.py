"""Samples per second of each reader of images, against torchvision's on the same files.

    python -m benchmarks.loading [--images 512] [--rounds 7]

Pictures are JPEG files of 320 x 256 pixels, resized and cropped to 224 in batches of 64; digits are
an IDX file of 28 x 28 pixels in batches of 128. Every arm reads whole shuffled epochs, with 0 and 2
loading processes, in turns. Goal: none takes longer than torchvision's (a ratio of at most 1).
"""

from __future__ import annotations

import argparse
import logging
import os
import struct
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

SIZE, PICTURES, DIGITS = 224, 64, 128
BASELINE = "torchvision"


def write_pictures(root: Path, number: int) -> None:
    """Write noisy gradients, which are about as large as photographs, in ten folders of classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    slope = np.add.outer(np.arange(256), np.arange(320))[..., None] * np.array([0.2, 0.3, 0.4])
    for k in range(number):
        path = root / "photos" / str(k % 10) / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.normal(0, 12, slope.shape)
        Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "train.tar", "w") as file:
        file.add(root / "photos", ".")


def write_digits(root: Path, number: int) -> None:
    """Write random digits where torchvision expects MNIST."""
    import numpy as np

    generator = np.random.default_rng(0)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name, shape in (("images-idx3", (number, 28, 28)), ("labels-idx1", (number,))):
            head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
            high = 256 if len(shape) > 1 else 10
            values = generator.integers(0, high, shape, dtype=np.uint8)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())


def epoch_of_torchvision(dataset: Any, batch_size: int, workers: int) -> Callable[[], None]:
    """Return a function that reads an epoch as torch's own loader does."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: [None for _ in loader] and None


def epoch_of(data: Any) -> Callable[[], None]:
    """Return a function that reads an epoch of training of a datamodule."""
    data.setup("fit")
    loader = data.train_dataloader()
    return lambda: [None for _ in loader] and None


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    import torch
    import torchvision
    from torchvision.transforms import v2

    from datamodules import IDXImages, ImageFolder, ImageList, ImageTars

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}")
    to_floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), *to_floats])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root, arguments.images)
        write_digits(root, 10 * arguments.images)
        photos = torchvision.datasets.ImageFolder(str(root / "photos"), transform)
        mnist = torchvision.datasets.MNIST(folder, transform=v2.Compose(to_floats))
        for workers in (0, 2):
            options: Any = {"batch_size": PICTURES, "num_workers": workers}
            shape: Any = {"image_size": SIZE, "channels": 3}
            arms = {
                BASELINE: epoch_of_torchvision(photos, PICTURES, workers),
                "ImageFolder": epoch_of(
                    ImageFolder(str(root / "photos"), val_size=0, **shape, **options)
                ),
                "ImageTars": epoch_of(
                    ImageTars(str(root / "shards"), val_size=0, **shape, **options)
                ),
                "ImageList": epoch_of(ImageList(str(root / "photos"), **shape, **options)),
            }
            report(f"{arguments.images} pictures, {workers} workers", arguments, arms, 1)
            options = {"batch_size": DIGITS, "num_workers": workers}
            arms = {
                BASELINE: epoch_of_torchvision(mnist, DIGITS, workers),
                "IDXImages": epoch_of(
                    IDXImages(str(root / "MNIST" / "raw"), val_size=0, **options)
                ),
            }
            report(f"{10 * arguments.images} digits, {workers} workers", arguments, arms, 10)


def report(title: str, arguments: Any, arms: dict[str, Callable[[], None]], times: int) -> None:
    """Time the arms and print their ratios to torchvision's time, and samples per second."""
    medians = interleaved_medians(arms, arguments.rounds, warmup=1)
    goals = {name: 1.0 for name in arms if name != BASELINE}
    print_ratios(f"{title}, an epoch, median of {arguments.rounds}", medians, BASELINE, goals)
    rates = (f"{name} {times * arguments.images / s:,.0f}" for name, s in medians.items())
    print(f"  samples per second: {', '.join(rates)}", flush=True)


if __name__ == "__main__":
    pin_allocator()
    main()
