"""Image files are decoded, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ExifTags, Image

from framework.data.image_files import decode_image, image_size, intact_images
from framework.data.raw_inputs import as_images


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


def gray_of(source):
    """Return the mean of every decoder's image."""
    decoded = np.asarray(decode_image(source)).mean() / 255
    return [float(decoded), *(float(as_images(source, (c, 64, 64)).mean()) for c in (1, 3))]


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", (RAMP * 255).round().astype(np.uint8)),
        ("a.png", (RAMP * 65535).round().astype(np.uint16)),
        ("a.tif", (RAMP * 65535).round().astype(np.uint16)),
        ("a.tif", RAMP.astype(np.float32)),
    ],
)
def test_a_ramp_is_half_gray_at_any_depth(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    assert gray_of(tmp_path / name) == pytest.approx([0.5] * 3, abs=0.002)
    with Image.open(tmp_path / name) as image:
        assert gray_of(image) == pytest.approx([0.5] * 3, abs=0.002)


def test_16_bits_keep_their_levels(tmp_path):
    Image.fromarray(np.full((4, 4), 1, np.uint16)).save(tmp_path / "a.png")
    assert float(as_images(str(tmp_path / "a.png"), (3, 2, 2)).max()) == pytest.approx(1 / 65535)


def test_a_16_bit_pgm_is_read_by_its_own_maximum(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1000 " + (500).to_bytes(2) + (1000).to_bytes(2))
    assert gray_of(tmp_path / "a.pgm") == pytest.approx([0.75] * 3, abs=0.002)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4), 300, np.int32), "gray values must have 8 or 16 bits, and have 32"),
        (np.full((4, 4), 3, np.float32), r"floats must lie in \[0, 1\], and lie in \[3, 3\]"),
        (np.full((4, 4), np.nan, np.float32), r"floats must lie in \[0, 1\], and lie in \[nan"),
    ],
)
def test_gray_values_of_unknown_range_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    for read in (decode_image, as_images, lambda path: intact_images([path], path.parent)):
        with pytest.raises(ValueError, match=f"a.tif cannot be decoded as an image: .*{message}"):
            read(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"The image cannot be decoded as an image: .*{message}"):
        as_images(Image.fromarray(values))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (39, 19)), (6, (19, 0))])
def test_images_are_upright(tmp_path, name, orientation, corner):
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(tmp_path / name, exif=exif, quality=95)
    turned = (20, 40) if orientation == 6 else (40, 20)
    assert image_size(tmp_path / name) == turned
    assert decode_image(tmp_path / name).size == turned
    with Image.open(tmp_path / name) as given:
        for source in (tmp_path / name, given):
            image = as_images(source)[0]
            assert tuple(image.shape[1:]) == turned[::-1]
            assert image[0, corner[1], corner[0]] > 0.9
            assert float(image.mean()) == pytest.approx(64 / 800, abs=0.01)


def test_damaged_exif_data_do_not_spoil_an_image(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0")
    assert image_size(tmp_path / "a.jpg") == decode_image(tmp_path / "a.jpg").size == (8, 4)


def test_transparency_of_a_palette_is_read_without_a_warning(tmp_path):
    picture = Image.new("P", (4, 4))
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(1, (0, 0, 4, 4))
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert decode_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("shape", "resize", "left"),
    [((1, 4, 8), None, 0.0), ((1, 8, 4), None, 0.0), ((1, 4, 8), 10, 0.0), ((1, 4, 4), None, 0.5)],
)
def test_an_image_covers_a_rectangle(shape, resize, left):
    """Half of the image is white: the middle half from left to right."""
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 20:60] = 255
    image = as_images(Image.fromarray(pixels), shape, resize)
    assert tuple(image.shape[1:]) == shape
    assert float(image[0, 0, :, shape[2] // 2 - 1 : shape[2] // 2 + 1].min()) == 1


def write_noise(folder, name):
    noise = np.random.default_rng(0).integers(256, size=(90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("strict", [True, False])
def test_files_that_end_early_are_found(tmp_path, name, strict):
    whole = write_noise(tmp_path, name)
    assert intact_images([whole], tmp_path, strict) == [whole]
    cut = whole.with_stem("cut")
    cut.write_bytes(whole.read_bytes()[:-200])
    if strict:
        with pytest.raises(ValueError, match=r"1 of the 2 images in .*cut\."):
            intact_images([whole, cut], tmp_path)
    else:
        with pytest.warns(UserWarning, match=r"1 of the 2 images in .* are left out: .*cut\."):
            assert intact_images([whole, cut], tmp_path, strict=False) == [whole]


def test_all_damaged_images_are_named_at_once(tmp_path):
    paths = [tmp_path / f"{number:02}.jpg" for number in range(30)]
    for number, path in enumerate(paths):
        path.write_bytes(b"" if number % 2 else b"no image")
    good = write_noise(tmp_path, "good.png")
    with pytest.raises(ValueError, match=r"30 of the 31 images .*strict: false") as error:
        intact_images([good, *paths], tmp_path)
    assert "\n" not in str(error.value)
    assert ", ".join(f"{number:02}.jpg" for number in range(20)) in str(error.value)
    assert "19.jpg and 10 more. The first: " in str(error.value)
    assert "00.jpg cannot be decoded as an image: it begins as no image" in str(error.value)
    with pytest.warns(UserWarning, match="30 of the 31 images"):
        assert intact_images([good, *paths], tmp_path, strict=False) == [good]
    assert Image.MAX_IMAGE_PIXELS, "the limit is there again"
