"""Image files are decoded, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from framework.data.image_files import decode_image, image_size


def test_large_images_are_read_without_a_warning(tmp_path, monkeypatch):
    Image.new("L", (30, 20), 7).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 600 are more than twice as many
    assert image_size(tmp_path / "a.png") == (30, 20)
    assert decode_image(tmp_path / "a.png").getpixel((29, 19)) == (7, 7, 7)
    assert Image.MAX_IMAGE_PIXELS == 100, "the limit is there again"


def test_a_damaged_png_is_named(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"IHDR", b"IHD\x00", 1))
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded as an image"):
        image_size(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert image_size(path) == (40, 40), "of which the header says nothing"
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded as an image: .*truncated"):
        decode_image(path)


def test_a_damaged_chunk_is_named(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(256, size=(200, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    path.write_bytes(whole[:second] + b"\x00\x01\x02\x03" + whole[second + 4 :])
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded as an image: broken PNG"):
        decode_image(path)


@pytest.mark.parametrize(
    ("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")]
)
def test_gray_values_of_more_than_8_bits_are_refused(tmp_path, dtype, mode):
    Image.fromarray(np.full((4, 4), 300, dtype)).save(tmp_path / "a.tif")
    for read in (image_size, decode_image):
        with pytest.raises(ValueError, match=f"a.tif .*gray values of mode {mode} must be scaled"):
            read(tmp_path / "a.tif")
