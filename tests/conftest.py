"""Fixtures of all tests."""

import gc
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# What a scheduler, a launcher or a person has set says nothing about the tests. Lightning reads the
# rank when it is imported, and W&B its settings at its first use, so all of it goes first.
FOREIGN = ("SLURM_", "WANDB_", "TRIMTAB_", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL_", "PL_")
RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "XDG_CACHE_HOME")
KEPT = ("TRIMTAB_DATA", "SLURM_CONF")  # where data and a cluster's config lie
for name in [*os.environ]:
    if name not in KEPT and (name.startswith(FOREIGN) or name in (*RANKS, *TERMINAL)):
        del os.environ[name]
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from PIL import Image  # noqa: E402

from tests.helpers.omniglot import write_omniglot  # noqa: E402
from tests.helpers.ranks import TwoRanks  # noqa: E402

ENVIRONMENT = dict(os.environ)
THREADS = torch.get_num_threads()
# the same examples everywhere, however long they take there
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later search for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True)
def surroundings() -> None:
    """Let no test depend on those before it: environment, generators, number of threads."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures blank where no test looks at them: drawing takes longer than a fit."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(FigureCanvasAgg, "print_png", write_blank)


def write_blank(_: FigureCanvasAgg, file: BinaryIO, **__: object) -> None:
    """Write a picture of one pixel."""
    Image.new("L", (1, 1)).save(file, "png")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, so that whatever is written is seen."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.set_num_threads(1)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 68 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=68k", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


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
    the middle 16 x 16 pixels of each, ``cifar-10-batches-py`` with color noise, ``train`` and
    ``val`` in the layout of DOTA, and Omniglot's ``images_background_small1.zip``.
    """
    folder = tmp_path_factory.mktemp("idx")
    write_small_data(folder)
    return folder


def write_small_data(folder: Path) -> None:
    """Write what ``data_folder`` says."""
    import h5py

    folder.mkdir(exist_ok=True)
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
    for part, pictures in (("train", 4), ("val", 2)):
        write_dota(folder / part, pictures, generator)
    write_omniglot(folder)
    write_cifar(folder / "cifar-10-batches-py", generator)


def write_cifar(folder: Path, generator: torch.Generator) -> None:
    """Write batches of CIFAR-10: five of 29 rows and a test batch, noise that tells classes."""
    folder.mkdir()
    for name in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"):
        label = torch.randint(10, (29,), generator=generator)
        pixels = torch.randint(60, (29, 3072), generator=generator)
        pixels = (pixels + 15 * label[:, None]).to(torch.uint8).numpy()
        batch = {b"data": pixels, b"labels": label.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"label_names": [f"class {k}".encode() for k in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def write_dota(folder: Path, pictures: int, generator: torch.Generator) -> None:
    """Write pictures of 140 x 100 pixels with a bright ship each, at a place of its own."""
    for name in ("images", "labelTxt"):
        (folder / name).mkdir(parents=True)
    for number in range(pictures):
        image = torch.randint(60, (100, 140, 3), generator=generator, dtype=torch.uint8)
        x, y = 20 + 20 * number, 30
        image[y : y + 20, x : x + 40] += 150
        Image.fromarray(image.numpy()).save(folder / "images" / f"P{number}.png")
        corners = f"{x} {y} {x + 40} {y} {x + 40} {y + 20} {x} {y + 20}"
        (folder / "labelTxt" / f"P{number}.txt").write_text(f"gsd:0.1\n{corners} ship 0\n")


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Write unsigned bytes as an IDX file."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.contiguous().numpy().tobytes())
