"""Readers of arrays: IDX, NumPy's, HDF5, MATLAB's."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.container_mutations import (
    change_packed,
    change_zip,
)
from tests.hostile.mutations import BYTES, TEXT
from tests.hostile.registry import (
    JSON,
    LABELS,
    NUMBERS,
    PIXELS,
    RNG,
    TEXTS,
    packed,
    reader,
)

# ---- arrays --------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    """Return unsigned bytes as an IDX file."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


reader(
    "idx",
    lambda: {"images": idx(PIXELS)},
    ["datamodules.idx:read_idx", "datamodules.idx:_read"],
    BYTES,
)(lambda folder: _read_idx(folder / "images"))
reader(
    "idx-gz",
    lambda: {"images.gz": gzip.compress(idx(PIXELS))},
    ["datamodules.idx:read_idx", "datamodules.idx:_read"],
    (*[change_packed("gz", BYTES)] * 4, *BYTES),
)(lambda folder: _read_idx(folder / "images.gz"))


def _read_idx(path: Path) -> Any:
    from datamodules.idx import read_idx

    return read_idx(path, ndim=3)


@reader(
    "idx-folder",
    lambda: {
        **{f"{part}-images-idx3-ubyte": idx(PIXELS) for part in ("train", "t10k")},
        **{f"{part}-labels-idx1-ubyte": idx(LABELS[:6]) for part in ("train", "t10k")},
    },
    ["datamodules.idx:read_idx", "datamodules.idx:_read"],
    BYTES,
)
def _(folder: Path) -> Any:
    from datamodules import IDXImages

    return IDXImages(str(folder)).read()


def _arrays() -> dict[str, np.ndarray]:
    return {
        "x_train": PIXELS,
        "y_train": LABELS[:6],
        "x_test": PIXELS[..., None].astype(np.uint16),
        "y_test": LABELS[:6, None],
    }


def _image_arrays(path: Path) -> Any:
    from datamodules import ImageArrays

    return ImageArrays(str(path)).read()


reader(
    "npz",
    lambda: {"a.npz": packed(lambda file: np.savez(file, **_arrays()))},
    ["datamodules.image_arrays:_arrays", "datamodules.array_files:read_arrays"],
    (*[change_zip((*TEXT, *BYTES))] * 3, *BYTES),
)(lambda folder: _image_arrays(folder / "a.npz"))
reader(
    "npz-compressed",
    lambda: {"a.npz": packed(lambda file: np.savez_compressed(file, **_arrays()))},
    ["datamodules.image_arrays:_arrays", "datamodules.array_files:read_arrays"],
    (change_zip((*TEXT, *BYTES)), *BYTES),
)(lambda folder: _image_arrays(folder / "a.npz"))
reader(
    "npy-folder",
    lambda: {
        f"{name}.npy": packed(lambda file, array=array: np.save(file, array))
        for name, array in _arrays().items()
    },
    ["datamodules.image_arrays:_arrays", "datamodules.array_files:read_arrays"],
    (*TEXT, *BYTES),
)(_image_arrays)


@reader(
    "labels-npy",
    lambda: {"labels.npy": packed(lambda file: np.save(file, LABELS))},
    ["datamodules.labels:read_labels", "datamodules.array_files:read_npy"],
    (*TEXT, *BYTES),
)
def _(folder: Path) -> Any:
    from datamodules.labels import read_labels

    return read_labels(folder / "labels.npy")


@reader(
    "labels-txt",
    lambda: {"labels.txt": "\n".join(map(str, LABELS)).encode()},
    ["datamodules.labels:_read_lines"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from datamodules.labels import read_labels

    return read_labels(folder / "labels.txt")


def _hdf5() -> dict[str, bytes]:
    import h5py

    def write(target: io.BytesIO) -> None:
        with h5py.File(target, "w") as file:
            for part in ("train", "test"):
                file[f"{part}/data"] = RNG.random((4, 256)).astype(np.float32)
                options = {"compression": "gzip", "chunks": (2,)} if part == "test" else {}
                file[f"{part}"].create_dataset("target", data=np.arange(4), **options)

    return {"usps.h5": packed(write)}


@reader("hdf5", _hdf5, ["datamodules.hdf5_arrays:open_hdf5"], BYTES)
@reader(
    "libsvm",
    lambda: {
        name: bz2.compress(
            "".join(
                f"{1 + k} " + " ".join(f"{c + 1}:{v:.2f}" for c, v in enumerate(row)) + "\n"
                for k, row in enumerate(RNG.random((4, 256)) * 2 - 1)
            ).encode()
        )
        for name in ("usps.bz2", "usps.t.bz2")
    },
    ["datamodules.usps:_read_libsvm"],
    (*[change_packed("bz2", TEXTS)] * 2, *BYTES[:3]),
)
def _(folder: Path) -> Any:
    from datamodules import USPS

    return USPS(str(folder)).read()


def _features(folder: Path) -> Any:
    from datamodules import FeaturePairs

    first, *others = sorted(str(path) for path in folder.iterdir())
    second, labels = (others or [first])[0], (others[1:] or [None])[0]
    keys = {} if first.endswith(".npy") else {"key": "a", "key2": "b", "label_key": "c"}
    data = FeaturePairs(first, second, labels or first, **keys, val_size=0, test_size=0)
    data.setup("fit")
    return data


reader(
    "features-npy",
    lambda: {
        name: packed(lambda file, array=array: np.save(file, array))
        for name, array in {"a.npy": NUMBERS, "b.npy": NUMBERS, "c.npy": LABELS}.items()
    },
    ["datamodules.feature_files:read_numbers"],
    (*TEXT, *BYTES),
)(_features)
reader(
    "features-npz",
    lambda: {"a.npz": packed(lambda file: np.savez(file, a=NUMBERS, b=NUMBERS, c=LABELS))},
    ["datamodules.feature_files:_of_npz"],
    (change_zip((*TEXT, *BYTES)), *BYTES),
)(_features)


def _feature_hdf5() -> dict[str, bytes]:
    import h5py

    def write(target: io.BytesIO) -> None:
        with h5py.File(target, "w") as file:
            file["a"], file["c"] = NUMBERS, LABELS
            file.create_dataset("b", data=NUMBERS, compression="gzip", chunks=(4, 2))

    return {"a.h5": packed(write)}


reader("features-hdf5", _feature_hdf5, ["datamodules.hdf5_arrays:open_hdf5"], BYTES)(_features)


def _mat(compressed: bool) -> Callable[[], dict[str, bytes]]:
    def make() -> dict[str, bytes]:
        from scipy.io import savemat

        content = {"fts": NUMBERS, "labels": LABELS[:, None] + 1, "other": {"a": "text"}}
        return {"a.mat": packed(lambda file: savemat(file, content, do_compression=compressed))}

    return make


MAT = [f"datamodules.mat_file:{name}" for name in ("read_mat", "_variable", "_Variable.numbers")]
for _name, _compressed in (("mat", False), ("mat-compressed", True)):

    @reader(_name, _mat(_compressed), MAT, BYTES)
    def _(folder: Path) -> Any:
        from datamodules import MatFeatures

        return MatFeatures(str(folder / "a.mat")).read()


# ---- the cache of activations --------------------------------------------------------------------


@reader(
    "activation-cache",
    lambda: {
        "index.json": json.dumps({"model": "m", "rows": 12}).encode(),
        "activation-00000.npy": packed(lambda file: np.save(file, NUMBERS)),
    },
    [*(f"datamodules.activations.source:Cache.{name}" for name in ("_check", "_map"))],
    (*JSON, *BYTES),
)
def _(folder: Path) -> Any:
    from types import SimpleNamespace

    from datamodules.activations.source import Cache

    cache = object.__new__(Cache)
    cache.folder, cache.description = folder, {"model": "m", "rows": 12}
    cache.file_rows, cache.widths, cache.dtype = 12, {"activation": 4}, np.dtype("float32")
    cache.forward = SimpleNamespace(num_rows=12)  # type: ignore[assignment]
    cache._check(folder / "index.json")
    cache._map("activation", 0)
