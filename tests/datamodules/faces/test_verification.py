"""Verification sets: pickles of encoded images, lists of LFW and tables."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.faces import Faces, read_bin, read_lfw_pairs, read_pair_table
from tests.datamodules.faces.faces_on_disk import colors_of, png, write_people
from tests.helpers.data import shared_data

PAIRS = [((0, 0), (0, 1)), ((1, 0), (2, 0)), ((1, 0), (1, 1)), ((0, 0), (2, 0))]
SAME = [True, False, True, False]


def write_bin(path, images=None, same=SAME, protocol=2):
    if images is None:
        images = [png(*image) for pair in PAIRS for image in pair]
    path.write_bytes(pickle.dumps((images, same), protocol=protocol))
    return path


def write_lfw(folder):
    for person in range(3):
        (folder / "lfw" / f"P{person}").mkdir(parents=True)
        for number in (0, 1):
            path = folder / "lfw" / f"P{person}" / f"P{person}_{number:04d}.jpg"
            Image.new("RGB", (12, 12), (20 * person, 10 * number, 100)).save(path, format="PNG")
    lines = ["2\t1", "P0\t0\t1", "P1\t0\tP2\t0", "P1\t0\t1", "P0\t0\tP2\t0"]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder / "pairs.txt"


def write_table(folder, rows):
    folder.mkdir()
    write_people(folder, persons=3, images=2)
    (folder / "master.csv").write_text("file_x,file_y,Decision\n" + "\n".join(rows))
    return folder / "master.csv"


def pairs_of(data, name, stage="val"):
    images = {"val": data.val_set, "test": data.test_set}[stage]
    found = [*zip(*colors_of(images.batch(range(len(images)))["image"]), strict=True)]
    pairs = data.pairs(stage)[name]
    return [
        (found[first], found[second])
        for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    ]


def test_sets_of_all_forms_are_one_set_of_images(tmp_path):
    lfw = write_lfw(tmp_path / "lfw")
    table = write_table(
        tmp_path / "table",
        [
            "p0/0.png,p0/1.png,Yes",
            "p1/0.png,p2/0.png,no",
            "p1/0.png,p1/1.png,1",
            "p0/0.png,p2/0.png,0",
        ],
    )
    paths = [write_bin(tmp_path / "small.bin"), lfw, table]
    data = Faces(verification=[*map(str, paths)], image_size=8)
    data.setup("validate")
    assert [*data.pairs("val")] == ["small", "lfw", "master"]
    assert len(data.val_set) == 15
    assert data.val_set.batch([3])["label"].tolist() == [-1]
    for name, folds in (("small", 4), ("lfw", 2), ("master", 4)):
        assert pairs_of(data, name) == PAIRS
        assert data.pairs("val")[name].same.tolist() == SAME
        assert data.pairs("val")[name].num_folds == folds
    assert data.train_set is None
    assert [data.val_set.names[row] for row in (3, 9, 14)] == [
        "small/small.bin, image 3",
        "lfw/lfw/P1/P1_0001.jpg",
        "master/p1/1.png",
    ]
    data.setup("test")
    assert pairs_of(data, "lfw", "test") == PAIRS
    loaded = torch.cat([batch["index"] for batch in data.val_dataloader()])
    assert loaded.tolist() == list(range(15))


def test_identities_are_trained_where_others_are_verified(tmp_path):
    write_people(tmp_path / "train", persons=3)
    data = Faces(str(tmp_path / "train"), [str(write_bin(tmp_path / "a.bin"))], image_size=8)
    data.setup("fit")
    assert data.num_classes == 3
    assert len(data.train_set) == 12
    assert [*data.pairs("val")] == ["a"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bin_files_of_every_protocol(tmp_path, protocol):
    found = read_bin(write_bin(tmp_path / "a.bin", protocol=protocol))
    assert [image.content for image in found.images] == [
        png(*image) for image in ((0, 0), (0, 1), (1, 0), (2, 0), (1, 1))
    ], "each once"
    assert found.images[4].name == f"{tmp_path}/a.bin, image 5"
    assert found.pairs.first.tolist() == [0, 2, 2, 0]
    assert found.pairs.second.tolist() == [1, 3, 4, 3]


def test_bin_files_of_python_2_and_of_arrays(tmp_path):
    one, other = png(0, 0), png(1, 0)
    # protocol 2: a list of byte strings, a list of True, both in a tuple
    strings = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in (one, other))
    old = b"\x80\x02](" + strings + b"e](\x88e\x86."
    (tmp_path / "old.bin").write_bytes(old)
    # protocol 0, the default of Python 2: texts with escapes
    texts = b"".join(b"S" + repr(image)[1:].encode() + b"\na" for image in (one, other))
    (tmp_path / "text.bin").write_bytes(b"((l" + texts + b"(lI01\nat.")
    images = [np.frombuffer(one, np.uint8), bytearray(other)]
    for path in (
        tmp_path / "old.bin",
        tmp_path / "text.bin",
        write_bin(tmp_path / "array.bin", images, np.array([True]), protocol=4),
        write_bin(tmp_path / "number.bin", images, [np.bool_(True)], protocol=4),
    ):
        found = read_bin(path)
        assert [image.content for image in found.images] == [one, other]
        assert found.pairs.same.tolist() == [True]


class Runs:
    def __reduce__(self):
        return print, ("no",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([b"a", b"b", b"c"], [True]), "has 3 images for 1 pairs: two for each"),
        (([], []), "has 0 images for 0 pairs"),
        (([b"a", "b"], [True]), "image 1 is of the type str"),
        (([b"a", b"b"], [2]), "whether pair 0 is of one person is neither"),
        (([b"a", b"b"], [[True]]), "whether pair 0 is of one person is neither"),
        ([b"a", b"b"], "is no verification set"),
        ({"a": 1}, "is no verification set"),
        (([b"a", b"b"], [True], 3), "is no verification set"),
        (([Runs(), b"b"], [True]), "holds more than arrays and plain containers"),
    ],
)
def test_other_bin_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        read_bin(path)
    assert str(path) in str(caught.value)


def test_a_cut_bin_file_is_refused(tmp_path):
    path = write_bin(tmp_path / "a.bin")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.bin is damaged or incomplete near byte"):
        read_bin(path)


def test_a_damaged_image_of_a_bin_file_is_named(tmp_path):
    path = write_bin(tmp_path / "a.bin", [png(0, 0), png(0, 1)[:-30]], [True])
    data = Faces(verification=[str(path)], image_size=8)
    data.setup("validate")
    with pytest.raises(ValueError, match=r"a\.bin, image 1 cannot be decoded as an image"):
        data.val_set.batch([1])


def test_a_development_list_has_one_fold(tmp_path):
    path = write_lfw(tmp_path).with_name("pairsDevTrain.txt")
    path.write_text("2\nP0 0 1\nP1 0 1\nP1 0 P2 0\nP0 0 P2 0\n")
    found = read_lfw_pairs(path)
    assert found.pairs.num_folds == 1
    assert found.pairs.count == 4
    assert [path.name for path in found.paths] == [
        f"P{person}_{number:04d}.jpg" for person, number in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    ]


def test_names_hold_spaces_where_tabs_divide_them(tmp_path):
    path = write_lfw(tmp_path)
    for old in [*(tmp_path / "lfw/P1").iterdir()]:
        (tmp_path / "lfw/P 1").mkdir(exist_ok=True)
        old.rename(tmp_path / "lfw/P 1" / old.name.replace("P1", "P 1"))
    path.write_text("1\t1\r\nP 1\t0\t1\r\nP 1\t0\tP2\t0\r\n")
    assert [path.name for path in read_lfw_pairs(path).paths] == [
        "P 1_0000.jpg", "P 1_0001.jpg", "P2_0000.jpg"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["2 1"], "has 0 pairs, and its first line says 2 x 2"),
        (["x 1"], "line 1: 'x' is no number"),
        (["1 0"], "line 1: one or two numbers above 0"),
        (
            ["1 1", "P0 0 1", "P1 0 1"],
            "line 3: 4 words, a pair of two persons, are expected, not 3",
        ),
        (["1", "P0 0 P1 1", "P1 0 P2 0"], "line 2: 3 words, a pair of one person"),
        (["1", "P0 0 -1", "P1 0 P2 0"], "line 2: '-1' is no number"),
        (["1", "P0 0 1", "P1 0 P9 0"], "P9_0000.jpg does not exist"),
        (["1", "P9 0 1", "P1 0 P2 0"], "names P9/P9_0000.jpg, which lies neither"),
        (["1", "P0 0 1", "P1 0 ../P2 0"], "which does not lie in"),
        ([""], "is empty"),
    ],
)
def test_other_lists_are_refused(tmp_path, lines, message):
    path = write_lfw(tmp_path)
    path.write_text("\n".join(lines))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_lfw_pairs(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_x,file_y\na,b", "lacks the column decision"),
        ("file_x,file_y,Decision", "has no rows"),
        ("file_x,file_y,Decision\np0/0.png,p0/1.png", "line 2: 3 values are expected"),
        (
            "file_x,file_y,Decision\np0/0.png,p0/1.png,maybe",
            "line 2: 'maybe' is neither yes nor no",
        ),
        ("file_x,file_y,Decision\np0/0.png,/etc/passwd,yes", "which does not lie in"),
        ("file_x,file_y,Decision\np0/0.png,p7/1.png,yes", r"p7/1\.png does not exist"),
        (f"file_x,file_y,Decision\n{'a' * 140_000},b,yes", r"master\.csv is not a table: field"),
    ],
)
def test_other_tables_are_refused(tmp_path, content, message):
    path = write_table(tmp_path / "table", [])
    path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_pair_table(path)


def test_two_sets_of_one_name_are_refused(tmp_path):
    (tmp_path / "more").mkdir()
    paths = [write_bin(tmp_path / "a.bin"), write_bin(tmp_path / "more" / "a.bin")]
    data = Faces(verification=[*map(str, paths)])
    with pytest.raises(ValueError, match="two sets called a"):
        data.setup("validate")


def test_another_ending_is_refused(tmp_path):
    data = Faces(verification=[str(tmp_path / "a.zip")])
    with pytest.raises(ValueError, match="is no verification set"):
        data.setup("validate")


def test_pairs_of_deepface():
    data = Faces(verification=[str(shared_data("deepface_pairs", "dataset", "master.csv"))])
    data.setup("test")
    pairs = data.pairs("test")["master"]
    assert (pairs.count, int(pairs.same.sum()), pairs.num_folds) == (300, 38, 10)
    assert data.test_set[5]["image"].shape == (3, 112, 112)
