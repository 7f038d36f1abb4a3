"""Readers of faces: identities to train on, and pairs to verify."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.helpers import record_io
from tests.hostile.image_readers import image
from tests.hostile.mutations import BYTES
from tests.hostile.registry import PICKLE, TEXTS, reader


@reader(
    "faces-bin",
    lambda: {"a.bin": pickle.dumps(([image("PNG"), image("JPEG")], [True]), protocol=2)},
    ["datamodules.faces.bin_file:read_bin", "framework.data.image_files:_file"],
    (*PICKLE, *BYTES),
)
def _(folder: Path) -> Any:
    return _verified(folder / "a.bin")


@reader(
    "faces-lfw",
    lambda: {
        "pairs.txt": b"1\t1\nA\t1\t2\nA\t1\tB\t1\n",
        "A/A_0001.jpg": image("JPEG"),
        "A/A_0002.jpg": image("JPEG"),
        "B/B_0001.jpg": image("JPEG"),
    },
    ["datamodules.faces.pair_files:_lines", "framework.utilities.limits:read_text"],
    TEXTS,
)
def _(folder: Path) -> Any:
    return _verified(folder / "pairs.txt")


@reader(
    "faces-table",
    lambda: {
        "a.csv": b"file_x,file_y,Decision\n1.png,2.png,Yes\n1.png,3.png,No\n",
        **{f"{number}.png": image("PNG") for number in (1, 2, 3)},
    },
    [
        "datamodules.faces.pair_files:_lines",
        "datamodules.faces.pair_files:read_pair_table",
        "framework.utilities.limits:read_text",
    ],
    TEXTS,
)
def _(folder: Path) -> Any:
    return _verified(folder / "a.csv")


@reader(
    "faces-records",
    lambda: {**_records(), "property": b"2,20,24\n"},
    [
        "datamodules.faces.record_identities:_count",
        "framework.data.record_io:RecordFile._file",
        "framework.data.record_io:RecordFile._indexed",
        "framework.data.image_files:_file",
        "framework.utilities.limits:read_text",
    ],
    (*TEXTS, *BYTES),
)
def _(folder: Path) -> Any:
    return _trained(folder)


@reader(
    "faces-records-without-index",
    lambda: {"train.rec": _records()["train.rec"]},
    ["framework.data.record_io:RecordFile._file"],
    BYTES,
)
def _(folder: Path) -> Any:
    return _trained(folder)


@reader(
    "faces-packed",
    lambda: {"a/1.png": image("PNG"), "b/2.jpg": image("JPEG")},
    ["datamodules.faces.record_packing:_records"],
    BYTES,
)
def _(folder: Path) -> Any:
    from datamodules.faces import pack_identities

    with TemporaryDirectory() as place:
        packed = Path(place, "packed")
        pack_identities(folder, packed)
        return _trained(packed)


def _records() -> dict[str, bytes]:
    parts = record_io.insightface((1, 1), lambda person, _: image(("PNG", "JPEG")[person]))
    content, index = record_io.joined(parts)
    return {"train.rec": content, "train.idx": index.encode()}


def _trained(root: Path) -> Any:
    from datamodules import Faces

    data = Faces(str(root), image_size=8, val_identities=0, test_identities=0)
    data.setup("fit")
    return [data.train_set[row] for row in range(len(data.train_set))]


def _verified(path: Path) -> Any:
    from datamodules import Faces

    data = Faces(verification=[str(path)], image_size=8)
    data.setup("validate")
    return data.val_set.batch(range(len(data.val_set))), data.pairs("val")
