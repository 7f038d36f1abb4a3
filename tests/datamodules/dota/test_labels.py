import pytest
import torch

from datamodules.dota.classes import CLASS_NAMES
from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.labels import read_labels, write_labels
from tests.helpers.data import shared_data

SQUARE = "10 10 30 10 30 30 10 30"


def written(folder, *lines):
    path = folder / "P0001.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_class_lists():
    assert [len(CLASS_NAMES[version]) for version in ("1.0", "1.5", "2.0")] == [15, 16, 18]
    assert CLASS_NAMES["2.0"][:15] == CLASS_NAMES["1.0"]
    assert CLASS_NAMES["2.0"][15:] == ("container-crane", "airport", "helipad")
    assert CLASS_NAMES["1.0"].index("ship") == 6


def test_a_real_file():
    objects = read_labels(shared_data("dota_sample", "labelTxt", "P0706.txt"), CLASS_NAMES["1.0"])
    count = objects.label.bincount(minlength=15)
    assert {CLASS_NAMES["1.0"][c]: int(n) for c, n in enumerate(count) if n} == {
        "ship": 531,
        "harbor": 5,
    }
    assert int(objects.difficult.sum()) == 6
    assert objects.quads[0].tolist() == [[1054, 1028], [1063, 1011], [1111, 1040], [1112, 1062]]


def test_headers_empty_lines_tabs_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "P0001.txt"
    text = f"imagesource:GoogleEarth\r\ngsd:null\r\n\r\n{SQUARE.replace(' ', chr(9))} ship\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    objects = read_labels(path, CLASS_NAMES["1.0"])
    assert objects.label.tolist() == [6]
    assert objects.difficult.tolist() == [0], "where it is missing"


def test_a_file_without_objects(tmp_path):
    objects = read_labels(written(tmp_path, "gsd:0.1"), ["ship"])
    assert objects.quads.shape == (0, 4, 2)
    assert objects.label.dtype == torch.int64
    assert objects.difficult.dtype == torch.uint8


def test_corners_are_put_clockwise_around_the_first(tmp_path):
    objects = read_labels(written(tmp_path, "1 1 1 5 5 5 5 1 ship 0"), ["ship"])
    assert objects.quads.tolist() == [[[1, 1], [5, 1], [5, 5], [1, 5]]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{SQUARE} boat 0", "boat is none of the classes ship, harbor"),
        (f"{SQUARE} ship 3", "difficult must be 0, 1 or 2, got 3"),
        (f"{SQUARE} ship 0 0", "11 fields instead of 'x1 y1"),
        (SQUARE, "8 fields instead of 'x1 y1"),
        ("10 10 30 10 30 30 10 b ship 0", "'10 10 30 10 30 30 10 b' are not eight coordinates"),
        ("10 10 30 10 30 30 10 nan ship 0", "a coordinate is not finite"),
        ("10 10 30 10 30 30 inf 30 ship 0", "a coordinate is not finite"),
        ("0 0 10 0 4 4 0 10 ship 0", r"the corners \[0.0, 0.0, 10.0, .*\] enclose no convex area"),
        ("0 0 10 10 10 0 0 10 ship 0", "the corners .* enclose no convex area"),
        ("0 0 10 0 20 0 30 0 ship 0", "the corners .* enclose no convex area"),
    ],
)
def test_a_wrong_line_is_named_or_counted(tmp_path, line, message):
    path = written(tmp_path, "gsd:0.1", f"{SQUARE} harbor 1", line, f"{SQUARE} ship 0")
    with pytest.raises(ValueError, match=f"P0001.txt, line 3: {message}"):
        read_labels(path, ["ship", "harbor"])
    faults = LabelErrors(strict=False)
    objects = read_labels(path, ["ship", "harbor"], faults)
    assert objects.label.tolist() == [1, 0]
    assert faults.kinds.total() == 1
    assert "line 3" in faults.first
    with pytest.raises(ValueError, match=r"line 3: .*[^.]; strict: false leaves it out\.$"):
        read_labels(path, ["ship", "harbor"], LabelErrors(strict=True))


def test_objects_wholly_outside_the_image_are_faults(tmp_path):
    lines = [f"{left} 0 {left + 9} 0 {left + 9} 9 {left} 9 ship 0" for left in (-9, -8, 49, 50)]
    path = written(tmp_path, *lines)
    assert len(read_labels(path, ["ship"])) == 4, "of an image of unknown size"
    faults = LabelErrors(strict=False)
    objects = read_labels(path, ["ship"], faults, size=(50, 20))
    assert objects.quads[:, 0, 0].tolist() == [-8, 49]
    assert faults.kinds == {"outside the image": 2}
    with pytest.raises(ValueError, match=r"line 1: .* lies outside the image, 50 x 20; strict"):
        read_labels(path, ["ship"], LabelErrors(strict=True), size=(50, 20))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "P0001.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"P0001.txt is not a text file in UTF-8"):
        read_labels(path, ["ship"])
    assert len(read_labels(path, ["ship"], LabelErrors(strict=False))) == 0


def test_what_is_written_is_read(tmp_path):
    objects = read_labels(shared_data("dota_sample", "labelTxt", "P0706.txt"), CLASS_NAMES["1.0"])
    moved = objects[:40]
    moved.quads.add_(torch.rand(1, generator=torch.Generator().manual_seed(0)))
    write_labels(tmp_path / "a.txt", moved, CLASS_NAMES["1.0"])
    back = read_labels(tmp_path / "a.txt", CLASS_NAMES["1.0"])
    assert torch.equal(back.quads, moved.quads)
    assert torch.equal(back.label, moved.label)
    assert torch.equal(back.difficult, moved.difficult)
