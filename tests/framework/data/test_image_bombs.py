"""Pictures that are small as files and large in memory are refused by one line."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib

import pytest
from PIL import Image

from framework.data.image_files import decode_image, image_size, intact_images
from framework.data.image_folders import find_images
from framework.data.raw_inputs import as_images
from tests.helpers.memory import raised_within

LIMIT = "GiB of memory, above the limit of 0.0156 GiB: set TRIMTAB_MAX_GIB to allow more"
SIDE = 30_000


def png(*chunks):
    """Return a PNG of chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in [*chunks, (b"IEND", b"")]:
        check = struct.pack(">I", zlib.crc32(kind + content))
        parts += [struct.pack(">I", len(content)), kind, content, check]
    return b"".join(parts)


def head(width, height, color=0, bits=8):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)


def saved(kind, patches=(), **options):
    """Return a small image of PIL in which bytes are replaced."""
    file = io.BytesIO()
    Image.new("RGB", (0x1234, 0x0123)).save(file, kind, **options)
    content = file.getvalue()
    for old, new in patches:
        assert old in content
        content = content.replace(old, new)
    return content


def claimed(form, kind, **options):
    """Return an image whose header claims another size."""
    return saved(
        kind, [(struct.pack(form, n), struct.pack(form, SIDE)) for n in (0x1234, 0x0123)], **options
    )


LARGE = {
    "gray.png": png(head(SIDE, SIDE), (b"IDAT", zlib.compress(bytes(1000)))),
    "bits.png": png(head(SIDE, SIDE, bits=1), (b"IDAT", zlib.compress(bytes(1000)))),
    "a.jpg": claimed(">H", "JPEG"),
    "a.gif": claimed("<H", "GIF"),
    "a.bmp": claimed("<I", "BMP"),
    "a.tif": claimed("<H", "TIFF"),
    "packed.tif": claimed("<H", "TIFF", compression="tiff_lzw"),
    "a.jp2": claimed(">I", "JPEG2000"),
    "a.pgm": b"P5 30000 30000 255\n",
    "plain.pgm": b"P2 30000 30000 255\n1 2",
}
BOMB = zlib.compress(bytes(1 << 27), 9)
OTHER = {
    "shorter.png": png(head(1200, 1200), (b"IDAT", zlib.compress(bytes(9)))),
    "text.png": png(head(2, 2), (b"zTXt", b"a\0\0" + BOMB)),
    "international.png": png(head(2, 2), (b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    "ico.png": saved("ICO"),
    "tga.png": saved("TGA"),
    "pdf.png": saved("PDF"),
    "empty.png": b"",
}


@pytest.mark.parametrize("read", [image_size, decode_image])
def test_sizes_are_limited(tmp_path, read):
    cases = []
    for name, content in LARGE.items():
        (tmp_path / name).write_bytes(content)
        cases.append(lambda path=tmp_path / name: read(path))
    found = raised_within(cases)
    for name, (kind, said) in zip(LARGE, found, strict=True):
        assert kind == "FileTooLargeError", (name, said)
        assert re.search(rf"{name}: 30,000 x 30,000 pixels would take [0-9.]+ {LIMIT}", said), said


def test_other_formats_and_texts_that_unpack_are_refused(tmp_path):
    cases = []
    for name, content in OTHER.items():
        (tmp_path / name).write_bytes(content)
        cases.append(lambda path=tmp_path / name: decode_image(path))
    for name, (kind, said) in zip(OTHER, raised_within(cases), strict=True):
        assert kind == "ValueError", (name, said)
        assert f"{name} cannot be decoded as an image: " in said
        assert "\n" not in said


def test_a_profile_that_unpacks_is_left_out(tmp_path):
    pixels = b"IDAT", zlib.compress(bytes(6))
    (tmp_path / "a.png").write_bytes(png(head(2, 2), (b"iCCP", b"a\0\0" + BOMB), pixels))
    assert raised_within([lambda: decode_image(tmp_path / "a.png")])[0][0] in ("", "ValueError")


def test_a_strip_of_pixels_is_not_made_large(tmp_path):
    (tmp_path / "a.png").write_bytes(png(head(1, 60_000), (b"IDAT", zlib.compress(bytes(120_000)))))
    ((kind, said),) = raised_within([lambda: as_images(tmp_path / "a.png", (1, 224, 224))])
    assert kind == "FileTooLargeError"
    assert re.search(r"a\.png: a size of \[13440000, 224\] pixels would take 22\.4 GiB", said)


def test_the_scan_lists_what_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.01")
    Image.new("L", (4, 4)).save(tmp_path / "fine.png")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(LARGE["gray.png"])
    paths = find_images(tmp_path)
    with pytest.raises(
        ValueError, match=r"2 of the 3 images .*: a\.png, b\.png\. The first: .*GiB"
    ):
        intact_images(paths, tmp_path)
    with pytest.warns(UserWarning, match="2 of the 3 images in .* are left out"):
        assert intact_images(paths, tmp_path, strict=False) == [tmp_path / "fine.png"]


def test_pipes_and_links_that_lead_nowhere_are_not_waited_for(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "fine.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="pipes, devices and links that lead nowhere: 4"):
        assert find_images(tmp_path) == [tmp_path / "fine.png"]
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(ValueError, match=rf"{name} is no regular file"):
            decode_image(tmp_path / name)


@pytest.mark.parametrize("name", [b"a\nb.png", b"\x1b[31m.png", b"caf\xe9.png"])
def test_names_that_are_no_text_are_refused(tmp_path, name):
    Image.new("L", (4, 4)).save(tmp_path / "fine.png")
    os.rename(tmp_path / "fine.png", os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(ValueError, match="is no name of one line of text in UTF-8") as error:
        find_images(tmp_path)
    assert str(error.value).isprintable()
