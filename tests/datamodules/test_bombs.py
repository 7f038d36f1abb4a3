"""Small files that would take more memory than the machine has are refused by one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from datamodules import USPS, ImageArrays, MatFeatures, Tabular
from datamodules.activations.file import read_activations
from datamodules.array_files import map_npy
from datamodules.dota.labels import read_labels as read_objects
from datamodules.hrsc2016 import read_hrsc
from datamodules.idx import read_idx
from datamodules.labels import plain_integers, read_labels
from datamodules.table_reader import read_table
from framework.data.image_files import decode_image
from framework.language.text import BLOCK, read_texts
from framework.utilities.json_files import read_json
from tests.helpers.memory import raised_within

GIB = 1 << 30
LIMIT = "above the limit of 0.0156 GiB: set TRIMTAB_MAX_GIB to allow more"


def zeros(number, of=b"\0", block=1 << 20):
    """Return gzip members that unpack to a number of bytes that repeat."""
    return gzip.compress(of * (block // len(of))) * (number // block)


def header(shape, kind="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def zipped(path: Path, content: bytes, claimed: int | None = None) -> Path:
    """Write one array of an archive, which may claim another size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", content)
    if claimed is not None:
        whole = bytearray(path.read_bytes())
        size = struct.pack("<I", len(content))
        while (place := whole.find(size)) >= 0:
            whole[place : place + 4] = struct.pack("<I", claimed)
        path.write_bytes(whole)
    return path


def idx(folder):
    large = struct.pack(">BBBBIII", 0, 0, 8, 3, 1 << 14, 1 << 9, 1 << 9)
    medium = struct.pack(">BBBBIII", 0, 0, 8, 3, 1 << 8, 1 << 7, 1 << 8)
    small = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 2, 2)
    announced = f"the shape .* that its header announces would take 4 GiB of memory, {LIMIT}"
    for name, parts, message in (
        ("whole.gz", (gzip.compress(large), zeros(GIB)), announced),
        ("longer.gz", (gzip.compress(small), zeros(GIB)), "more bytes follow byte 24"),
        ("shorter.gz", (gzip.compress(medium),), r"and no more than [\d,]+ can be packed"),
        ("stored", (large,), "ends at byte 16 of 4,294,967,312"),
    ):
        path = write(folder / name, *parts)
        yield lambda path=path: read_idx(path, 3), f"{name}: .*{message}"


def arrays(folder):
    for name, parts, message in (
        ("large.npy", (header((1 << 40,), "<i8"),), "does not fit into the 0 bytes there"),
        ("negative.npy", (header((-1,), "<i8"),), "no numbers"),
        ("texts.npy", (header((1,), "<U400000000"),), "does not fit into the 0 bytes there"),
        ("none.npy", (header((1 << 60,), "|V0"),), "no numbers"),
        ("long.npy", (b"\x93NUMPY\2\0\xff\xff\xff\x7f", bytes(1 << 20)), "header is too long"),
        ("nested.npy", (b"\x93NUMPY\1\0\0\x20", b"(" * 8192), "no complete file of numbers"),
        ("line.txt", (b"1" * (1 << 24),), r"line 1: '1{40}' is not a class number"),
        ("digits.txt", (b"1\n", b"9" * 30), r"line 2: '9{30}' is not a class number"),
    ):
        path = write(folder / name, *parts)
        yield lambda path=path: read_labels(path), f"{name}.*{message}"
    path = folder / "large.npy"
    yield lambda: map_npy(path, "r"), "large.npy.* does not fit into the 0 bytes there"
    shape = (1 << 10, 1 << 9, 1 << 9)
    for name, content, claimed, message in (
        ("whole.npz", header(shape) + bytes(1 << 25), None, f"its arrays would take .*{LIMIT}"),
        ("shorter.npz", header(shape), 1 << 23, "cannot unpack to 8,388,608 bytes"),
        ("header.npz", header(shape) + bytes(1 << 20), None, "fit into the 1,048,576 bytes there"),
    ):
        archive = zipped(folder / name, content, claimed)
        yield lambda root=str(archive): ImageArrays(root).setup(), f"{name}.*{message}"


def hdf5(folder):
    other = folder / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = np.zeros((4, 256), np.float32)
    (folder / "raw").write_bytes(bytes(4096))
    rows = 1 << 20
    layout = h5py.VirtualLayout((4, 256), np.float32)
    layout[:] = h5py.VirtualSource(other, "data", (4, 256))

    def made(name, make):
        (folder / name).mkdir()
        with h5py.File(folder / name / "usps.h5", "w") as file:
            make(file.create_group("train"))
        return lambda: USPS(str(folder / name)).setup()

    def dataset(shape, **options):
        return lambda group: group.create_dataset("data", shape, np.float32, **options)

    def overfull(group):
        data = group.create_dataset("data", (4, 256), np.float32, chunks=(4, 256), compression=4)
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 21)))

    def packed(group):
        group["data"] = 0
        del group["data"]
        group.create_dataset("data", data=np.zeros((16500, 256), np.float32), compression=1)

    elsewhere = [(str(folder / "raw"), 0, 4096)]
    for name, make, message in (
        ("unwritten", dataset((rows, 256)), f"its values would take 1 GiB of memory, {LIMIT}"),
        ("fill", dataset((rows, 256), chunks=(64, 256)), f"its values would take 1 GiB .*{LIMIT}"),
        ("few", dataset((64, 256)), "65,536 bytes are announced, and 0 stored"),
        ("chunk", dataset((4, 256), chunks=(rows, 256), maxshape=(None, 256)), "would take 1 GiB"),
        ("gzip", packed, f"its values would take 0.01.* GiB of memory, {LIMIT}"),
        ("overfull", overfull, "a chunk unpacks to more than its 4,096 bytes"),
        ("external", dataset((4, 256), external=elsewhere), "has its values in other files"),
        ("virtual", lambda g: g.create_virtual_dataset("data", layout), "values in other files"),
        ("lzf", dataset((4, 256), compression="lzf"), r"not by the filters \[32000\]"),
        ("soft", lambda g: g.update(data=h5py.SoftLink("/x")), "a link to another place"),
        ("link", lambda g: g.update(data=h5py.ExternalLink(other, "data")), "to another place"),
    ):
        yield made(name, make), f"{name}/usps.h5, train/data.*{message}"
    for name, text, message in (
        ("rows", b"1\n" * (1 << 18), f"262,145 images of 256 numbers would take 1.5 GiB .*{LIMIT}"),
        ("line", bytes(1 << 24), f"its content would take .*{LIMIT}"),
    ):
        for part in ("usps", "usps.t"):
            write(folder / f"{name}.{part}.bz2", bz2.compress(text))
            (folder / name).mkdir(exist_ok=True)
            (folder / f"{name}.{part}.bz2").rename(folder / name / f"{part}.bz2")
        yield lambda name=name: USPS(str(folder / name)).setup(), f"{name}/usps.bz2: {message}"


def tables(folder):
    wide = b",".join([b"12"] * (1 << 18))
    for name, content, message in (
        (
            "rows.csv.gz",
            gzip.compress(b"ab,12\n") + zeros(1 << 24, of=b"12,34\n"),
            "its cells would",
        ),
        ("line.csv.gz", zeros(GIB, of=b"1"), "line 1: a row has more than 524,288 characters"),
        ("line.txt.bz2", bz2.compress(bytes(1 << 27)), "line 1: a row has more than 524,288"),
        ("wide.csv.xz", lzma.compress(wide), "line 1: a row has more than 524,288 characters"),
        ("blank.csv.gz", zeros(GIB, of=b"\n"), f"its cells would take .*{LIMIT}"),
        (
            "quote.csv.gz",
            gzip.compress(b'"') + zeros(GIB, of=b"1\n"),
            "is no table in UTF-8 text: field larger than",
        ),
        ("fields.csv.gz", zeros(GIB, of=b'"ab\n",'), "a row has more than 524,288 characters"),
    ):
        path = write(folder / name, content)
        yield lambda path=path: read_table(path), f"{name}.*{message}"
    table = pyarrow.table({"x": np.zeros(1 << 21)})
    parquet.write_table(table, folder / "rows.parquet")
    yield lambda: read_table(folder / "rows.parquet"), f"rows.parquet: its columns would .*{LIMIT}"
    names = "\n".join(["x,y", *(f"a{k},{k}" for k in range(1 << 13))])
    path = write(folder / "names.csv", names.encode())
    wide = Tabular(str(path), target="y", categories="one_hot")
    yield lambda: wide.setup(), f"names.csv: [0-9,]+ inputs of one-hot codes would take .*{LIMIT}"


def element(kind, *parts):
    content = b"".join(parts)
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def variable(shape, content, matlab_class=6, name=b"fts"):
    """Return a variable of MATLAB's version 5: by default double, stored as bytes."""
    return element(
        14,
        element(6, struct.pack("<II", matlab_class, 0)),
        element(5, struct.pack(f"<{len(shape)}i", *shape)),
        element(1, name),
        content,
    )


def matlab(folder):
    top = b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    one = element(2, b"1")
    labels = variable((1, 1), one, name=b"labels")
    for name, parts, message in (
        ("shape", (variable((1 << 15, 1 << 15), one),), f"fts of shape .* would take 12 .*{LIMIT}"),
        ("cells", (variable((1 << 15, 1 << 15), b"", 1),), "must be an array of .*, not cell"),
        ("struct", (variable((1 << 15, 1 << 15), b"", 2),), "must be an array of .*, not struct"),
        ("object", (variable((1, 1), b"", 3),), "must be an array of real numbers, not object"),
        (
            "packed",
            (element(15, zlib.compress(variable((1, 1), element(2, bytes(1 << 25))))),),
            f"a variable would take .*{LIMIT}",
        ),
        (
            "name",
            (element(15, zlib.compress(variable((1, 1), one, name=bytes(1 << 25)))),),
            f"a variable would take .*{LIMIT}",
        ),
        ("short", (variable((1, 1), struct.pack("<II", 2, 1 << 31)),), "is no complete MATLAB"),
    ):
        path = write(folder / f"{name}.mat", top, labels, *parts)
        yield lambda path=path: MatFeatures(str(path)).setup(), f"{name}.mat.*{message}"
    path = write(folder / "4.mat", struct.pack("<5i", 0, 1 << 20, 1 << 20, 0, 4), b"fts\0")
    yield lambda: MatFeatures(str(path)).setup(), "it is of none of the versions 5 to 7.2"


def texts(folder):
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (k, b"&l%d;" % (k - 1) * 10) for k in range(1, 12))
    box = "".join(f"<{name}>1e300</{name}>" for name in ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h"))
    far = f"<a><HRSC_Object>{box}<mbox_ang>0</mbox_ang></HRSC_Object></a>".encode()
    doctype = "is no XML: its document type, 'a', declares entities"
    for name, content, message in (
        ("laughs.xml", b'<!DOCTYPE a [<!ENTITY l0 "ha">' + laughs + b"]><a>&l11;</a>", doctype),
        ("file.xml", b'<!DOCTYPE a [<!ENTITY f SYSTEM "/etc/passwd">]><a>&f;</a>', doctype),
        ("defaults.xml", b'<!DOCTYPE a [<!ATTLIST a b CDATA "ha">]><a></a>', doctype),
        ("entity.xml", b"<a>&f;</a>", "is no XML: undefined entity"),
        ("long.xml", b"<a>" * (1 << 20), f"its elements would take .*{LIMIT}"),
        ("deep.xml", b"<a>" * (1 << 16), "is no XML: no element found"),
        ("far.xml", far, "object 1: no box of finite"),
    ):
        path = write(folder / name, content)
        yield lambda path=path: read_hrsc(path), f"{name}.*{message}"
    for name, content, message in (
        ("deep.json", b"[" * (1 << 17), "is no JSON: .*recursion"),
        ("long.json", b"[" * (1 << 20), f"its values would take .*{LIMIT}"),
        ("nan.json", b'{"k": NaN}', "is no JSON: NaN is no number of JSON"),
        ("digits.json", b"9" * 5000, "is no JSON: .*4300 digits"),
        ("bytes.json", b"\xff{}", "is no JSON: 'utf-8' codec"),
    ):
        path = write(folder / name, content)
        yield lambda path=path: read_json(path), f"{name}.*{message}"
    for name, content, message in (
        ("long.txt", b"a\n" * (1 << 16), f"its lines would take .*{LIMIT}"),
        ("field.txt", b"1" * (1 << 15), "line 1: 1 fields instead"),
        ("class.txt", b"0 0 8 0 8 4 0 4 " + b"a" * 9999, "line 1: a{60} is none of the classes"),
        ("numbers.txt", b"a" * 9999 + b" 0 8 0 8 4 0 4 ship", "line 1: 'a{99}' are not eight"),
        ("far.txt", b"0 0 1e308 0 1e308 1e308 0 1e308 ship", "enclose no convex area"),
    ):
        path = write(folder / name, content)
        yield lambda path=path: read_objects(path, ["ship"]), f"{name}.*{message}"
    jsonl = write(folder / "a.jsonl", b"[" * (1 << 16) + b"\n")
    yield lambda: list(read_texts(str(jsonl))), "a.jsonl, line 1 is no JSON object with a text"
    line = write(folder / "b.jsonl", b"[" * (1 << 20))
    yield lambda: list(read_texts(str(line))), f"b.jsonl, line 1: a line of this .*{LIMIT}"


def test_nested_lists_of_a_pickle_are_no_labels():
    values = [0] * 10
    for _ in range(12):
        values = [values] * 10
    ((kind, said),) = raised_within([lambda: plain_integers(values, "a")])
    assert (kind, said) == ("ValueError", "a must be a list of integers, not a list of others.")


def test_a_text_without_lines_is_read_in_blocks(tmp_path):
    path = write(tmp_path / "a.txt", b"a" * (5 * BLOCK + 1))
    blocks = list(read_texts(str(path)))
    assert [len(block) for block in blocks] == [2 * BLOCK, 2 * BLOCK, BLOCK + 1]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    readers = {
        "idx": lambda path: read_idx(path, 3),
        "idx.gz": lambda path: read_idx(path, 3),
        "npy": read_labels,
        "txt": read_labels,
        "pt": read_labels,
        "npz": lambda path: ImageArrays(str(path)).setup(),
        "mat": lambda path: MatFeatures(str(path)).setup(),
        "csv": read_table,
        "csv.gz": read_table,
        "parquet": read_table,
        "xml": read_hrsc,
        "label": lambda path: read_objects(path, ["ship"]),
        "json": read_json,
        "text.txt": lambda path: list(read_texts(str(path))),
        "jsonl": lambda path: list(read_texts(str(path))),
        "activations.npy": read_activations,
        "activations.pt": read_activations,
        "png": decode_image,
    }
    cases = []
    for ending, read in readers.items():
        os.mkfifo(tmp_path / f"a.{ending}")
        cases.append(lambda path=tmp_path / f"a.{ending}", read=read: read(path))
    (tmp_path / "arrays").mkdir()
    os.mkfifo(tmp_path / "arrays" / "train_images.npy")
    cases.append(lambda: ImageArrays(str(tmp_path / "arrays")).setup())
    for kind, said in raised_within(cases, seconds=30):
        assert kind in ("ValueError", "FileNotFoundError"), said


def test_a_text_of_many_rows_of_parquet_is_there_once(tmp_path):
    texts = pyarrow.DictionaryArray.from_arrays(np.zeros(1 << 10, np.int32), ["a" * (1 << 20)])
    parquet.write_table(pyarrow.table({"x": texts}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 21
    assert raised_within([lambda: read_table(tmp_path / "a.parquet").texts("x")]) == [("", "")]


@pytest.mark.parametrize("group", [idx, arrays, hdf5, tables, matlab, texts])
def test_is_refused_before_memory_is_taken(tmp_path, group):
    cases = list(group(tmp_path))
    found = raised_within([case for case, _ in cases])
    for (_, message), (kind, said) in zip(cases, found, strict=True):
        assert re.search(message, said), (message, kind, said)
        assert kind in ("ValueError", "FileTooLargeError"), said
        assert "\n" not in said
        assert len(said) < 600
