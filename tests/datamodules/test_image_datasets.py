import torch
from torch.nn import functional as F

from datamodules.image_datasets import ImageSet, JoinedImages


def images(rows, channels, size, first=0):
    """Return images of which number i, from ``first``, is constant i / 255."""
    values = torch.arange(first, first + rows, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(image=values.expand(-1, channels, size, size), label=torch.arange(rows))


def random_images(rows, channels, *size):
    generator = torch.Generator().manual_seed(rows)
    image = torch.rand(rows, channels, *size, generator=generator)
    return ImageSet(image=image, label=torch.zeros(rows, dtype=torch.int64))


def test_rows_are_those_of_the_sets_one_after_another():
    fields = {"label": torch.arange(12) * 3, "held_out": torch.arange(12) > 7}
    joined = JoinedImages(
        [images(5, 1, 4), images(3, 1, 4, 5), images(4, 1, 4, 8)], fields, (1, 4, 4)
    )
    assert len(joined) == 12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    batch = joined.batch(order)
    assert sorted(batch) == ["held_out", "image", "label"], "no field of the sets"
    torch.testing.assert_close(batch["image"], (order / 255).view(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    assert torch.equal(batch["label"], order * 3)
    assert torch.equal(batch["held_out"], order > 7)
    assert int(joined[7]["label"]) == 21


def test_no_rows_are_a_batch():
    joined = JoinedImages([images(2, 1, 6), images(2, 3, 9)], {"label": torch.arange(4)}, (3, 6, 6))
    batch = joined.batch([])
    assert batch["image"].shape == (0, 3, 6, 6)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (0,)


def test_images_are_float32_in_a_run_of_double_precision():
    joined = JoinedImages([images(3, 1, 4)], {}, (1, 4, 4))
    torch.set_default_dtype(torch.float64)
    try:
        found = [joined.batch(rows)["image"].dtype for rows in ([0, 2], [])]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == [torch.float32, torch.float32]


def test_gray_is_repeated_and_color_is_not():
    gray, color = random_images(2, 1, 4, 4), random_images(3, 3, 4, 4)
    image = JoinedImages([gray, color], {}, (3, 4, 4)).batch(range(5))["image"]
    assert torch.equal(image[:2], gray.fields["image"].expand(-1, 3, -1, -1))
    assert torch.equal(image[2:], color.fields["image"])


def test_images_of_another_size_are_resized_alone():
    large, wide = random_images(4, 1, 28, 28), random_images(3, 1, 10, 30)
    small = random_images(2, 1, 16, 16)
    joined = JoinedImages([large, small, wide], {}, (1, 16, 16))
    image = joined.batch(range(9))["image"]
    for part, found in ((large, image[:4]), (wide, image[6:])):
        expected = F.interpolate(
            part.fields["image"], (16, 16), mode="bilinear", antialias=True, align_corners=False
        )
        assert torch.equal(found, expected)
    assert torch.equal(image[4:6], small.fields["image"])
    one_by_one = [joined.batch([row])["image"] for row in range(9)]
    assert torch.equal(image, torch.cat(one_by_one)), "in any batch"


def test_the_center_is_cropped_after_resizing():
    part = random_images(2, 1, 10, 10)
    image = JoinedImages([part], {}, (1, 10, 10), crop=6).batch([0, 1])["image"]
    assert torch.equal(image, part.fields["image"][:, :, 2:8, 2:8])
    image = JoinedImages([part], {}, (1, 20, 20), crop=6).batch([0, 1])["image"]
    expected = F.interpolate(part.fields["image"], (20, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(image, expected[:, :, 7:13, 7:13])


def test_each_set_is_normalized_by_its_own():
    first, second, third = random_images(1, 1, 4, 4), random_images(2, 1, 4, 4), images(1, 1, 4)
    first.normalize = lambda image: image - 5
    second.normalize = lambda image: image * 2
    parts = [first, second, third]
    image = JoinedImages(parts, {}, (1, 4, 4)).batch(range(4))["image"]
    assert torch.equal(image[:1], first.fields["image"] - 5)
    assert torch.equal(image[1:3], second.fields["image"] * 2)
    assert not image[3].any()
    plain = JoinedImages(parts, {}, (1, 4, 4), normalize=False).batch(range(4))["image"]
    assert torch.equal(plain[1:3], second.fields["image"])


def test_a_change_in_place_does_not_change_the_data():
    joined = JoinedImages([random_images(2, 1, 4, 4)], {"label": torch.arange(2)}, (1, 4, 4))
    before = joined[1]["image"].clone()
    sample = joined[1]
    sample["image"].zero_()
    sample["label"].zero_()
    assert torch.equal(joined[1]["image"], before)
    assert int(joined[1]["label"]) == 1
