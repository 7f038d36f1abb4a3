"""The data sets of ``benchmarks.transfer``, at small sizes, in files that the command reads."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 16


def _pixels(stream: io.BytesIO | Path, side: int = SIDE) -> NDArray:
    """Return an image (C * side * side,) in [0, 1]."""
    from PIL import Image

    with Image.open(stream) as image:
        small = image.resize((side, side), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32) / 255
    return np.moveaxis(np.atleast_3d(pixels), -1, 0).ravel()


def _save(path: Path, images: list[NDArray], labels: NDArray) -> list[str]:
    """Write a file of ``MatFeatures``, and return the flags that name it."""
    from scipy.io import savemat

    savemat(path, {"fts": np.stack(images), "labels": labels[:, None].astype(np.int16)})
    return [f"--data.path={path}", "--data.split_seed=SEED"]


def cifar10n(data: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return the flags of 1,300 photographs of CIFAR-10, and those of the labels of people.

    The labels are the worst of three that each image was given, 40 % of them wrong.
    """
    from framework.utilities.tensor_archive import load_archive

    columns = load_archive(data / "cifar10n" / "CIFAR-10_human.pt")
    true, given = (np.asarray(columns[n])[:1300] for n in ("clean_label", "worse_label"))
    seen: dict[int, int] = {}
    images = []
    with zipfile.ZipFile(data / "cifar10_jpeg" / "cifar10_train_first20000.zip") as archive:
        names = sorted({name.split("/")[1] for name in archive.namelist()})
        for label in true.tolist():
            number = seen.get(label, 0)
            seen[label] = number + 1
            content = archive.read(f"train/{names[label]}/{number:04d}.jpg")
            images.append(_pixels(io.BytesIO(content)))
    np.save(folder / "worse.npy", given.astype(np.int64))
    flags = _save(folder / "cifar10n.mat", images, true)
    sizes = ["--data.shape=[3,16,16]", "--data.val_size=500", "--model.input_shape=[3,16,16]"]
    noise = ["--data.label_noise=datamodules.LabelNoise", "--data.label_noise.kind=file"]
    return [*flags, *sizes], [*noise, f"--data.label_noise.path={folder / 'worse.npy'}"]


def coil20(data: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return the flags of 1,440 views of 20 objects, and those of 40 % labels drawn at random."""
    files = sorted((data / "coil20").glob("obj*.png"))
    labels = np.array([int(file.name[3:].split("__")[0]) for file in files])
    flags = _save(folder / "coil20.mat", [_pixels(file) for file in files], labels)
    sizes = ["--data.shape=[1,16,16]", "--data.val_size=480", "--model.input_shape=[1,16,16]"]
    noise = ["--data.label_noise=datamodules.LabelNoise", "--data.label_noise.rate=0.4"]
    seeded = ["--data.label_noise.seed=SEED"]
    return [*flags, *sizes, "--model.num_classes=20"], [*noise, *seeded]


def table(data: Path, name: str) -> list[str]:
    """Return the flags of a table of UCI; 200 rows are for validation and as many for testing."""
    return [
        f"--data.source={data / 'uci' / name / 'data' / 'data.txt'}",
        "--data.val_size=200",
        "--data.test_size=200",
        "--data.split_seed=SEED",
    ]


def bagged(data: Path, name: str) -> list[str]:
    """Return the flags of the same table in bags, of which only mean targets are known."""
    flags = [flag.replace("--data.", "--data.data.") for flag in table(data, name)]
    return [*flags, "--data.bag_seed=SEED", "--data.batch_size=2000"]


def pair(source: list[str], target: list[str], shape: str) -> list[str]:
    """Return the flags of a source with labels and a target without."""
    flags = [f"--model.input_shape={shape}"]
    for part, values in (("source", source), ("target", target)):
        flags += [f"--data.{part}=MatFeatures"]
        flags += [f"--data.{part}.{value}" for value in values]
    return flags


def surf(data: Path) -> list[str]:
    """Return the flags of Office-Caltech-10: histograms of pictures of a shop, and of Caltech."""
    root = data / "office_caltech10_surf"
    files = (root / "amazon_SURF_L10.mat", root / "Caltech10_SURF_L10.mat")
    source, target = ([f"path={file}", "standardize=true"] for file in files)
    return pair(source, target, "[800,1,1]")


def digits(data: Path) -> list[str]:
    """Return the flags of 1,800 digits of USPS and 2,000 of MNIST."""
    source, target = (
        [
            f"path={data / 'mnist_usps_mat' / 'MNIST_vs_USPS.mat'}",
            f"features=X_{part}",
            f"labels=Y_{part}",
            "columns=true",
            "shape=[1,16,16]",
        ]
        for part in ("tar", "src")
    )
    return pair(source, target, "[1,16,16]")
