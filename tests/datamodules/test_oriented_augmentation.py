import math

import pytest
import torch
from torchvision.transforms.v2 import ColorJitter

from datamodules.object_augmentation import ObjectAugmentation, ObjectTransform
from datamodules.oriented_augmentation import (
    Mixup,
    Mosaic,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomQuarterTurn,
    RandomTranslation,
)
from datamodules.pixel_augmentation import PixelTransform
from datamodules.rendered_scenes import RenderedScenes
from framework.data.datasets import ArrayDataset
from framework.detection.rotated.boxes import signed_area

SIZE = 96


def inside(quad, height=SIZE, width=SIZE):
    """The share of each pixel that a convex quad, clockwise on screen, covers."""
    fine = 4
    y, x = torch.meshgrid(
        (torch.arange(fine * height) + 0.5) / fine,
        (torch.arange(fine * width) + 0.5) / fine,
        indexing="ij",
    )
    covered = torch.ones(fine * height, fine * width, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(quad.tolist(), quad.roll(-1, 0).tolist(), strict=True):
        covered &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    return covered.float().view(height, fine, width, fine).mean((1, 3))


def a_quad(angle=0.4, x=50.0, y=40.0, length=40.0, width=16.0):
    along = torch.tensor([math.cos(angle), math.sin(angle)]) * length / 2
    across = torch.tensor([-math.sin(angle), math.cos(angle)]) * width / 2
    center = torch.tensor([x, y])
    # a trapezoid: the right side is shorter
    return torch.stack(
        [
            center - along - across,
            center + along - across / 2,
            center + along + across / 2,
            center - along + across,
        ]
    )


def a_sample(quad=None, label=3, height=SIZE, width=SIZE):
    quad = a_quad() if quad is None else quad
    mask = inside(quad, height, width)
    return {
        "image": mask.expand(3, -1, -1).clone(),
        "quads": quad[None],
        "label": torch.tensor([label]),
        "difficult": torch.tensor([False]),
        "object_weight": torch.ones(1),
        "index": torch.tensor(7),
    }


def none_drawn():
    raise AssertionError("needs no other sample")


def covered(sample):
    """The image that the objects of a sample say it shows."""
    return torch.stack(
        [torch.zeros(sample["image"].shape[1:]), *map(inside_of(sample), sample["quads"])]
    ).amax(0)


def inside_of(sample):
    return lambda quad: inside(quad, *sample["image"].shape[1:])


def results(transform, number=20, sample=None, draw=none_drawn):
    torch.manual_seed(0)
    given = a_sample() if sample is None else sample
    before = {name: value.clone() for name, value in given.items()}
    found = [transform(given, draw) for _ in range(number)]
    assert all(torch.equal(before[name], given[name]) for name in before), "the sample is unchanged"
    return found


@pytest.mark.parametrize(
    ("transform", "kinds"), [(RandomFlip(), 4), (RandomQuarterTurn(), 4), (RandomFlip(0, 1), 1)]
)
def test_pixels_and_corners_move_together_exactly(transform, kinds):
    images = set()
    for sample in results(transform):
        # no coverage lies within rounding of the next one
        assert (covered(sample) - sample["image"][0]).abs().gt(1e-6).sum() <= 4
        assert signed_area(sample["quads"]) > 0, "clockwise"
        quad = sample["quads"][0]
        sides = [(quad[0] - quad[k]).norm().item() for k in (1, 3)]
        assert max(sides) > 40
        assert min(sides) == pytest.approx(16, abs=1e-4), "the first corner is at the long side"
        images.add(tuple(sample["quads"].round().flatten().tolist()))
    assert len(images) == kinds


def test_a_flip_of_an_oblong_image():
    quad = a_quad(x=30, y=30, length=30)
    (sample,) = results(RandomFlip(1, 1), 1, a_sample(quad, height=64, width=80))
    assert (covered(sample) - sample["image"][0]).abs().max() < 0.1
    assert sample["quads"][0, 0].tolist() == pytest.approx(
        (torch.tensor([80, 64]) - quad[0]).tolist()
    )


def test_a_quarter_turn_needs_a_square():
    with pytest.raises(ValueError, match="needs square images, got 64 x 80"):
        RandomQuarterTurn()(a_sample(height=64, width=80), none_drawn)


@pytest.mark.parametrize(
    "transform",
    [
        RandomAffine(180, p=1),
        RandomAffine(0, scale=(0.5, 1.5), p=1),
        RandomAffine(30, (0.7, 1.2), 0.1, p=1),
        RandomTranslation(1),
        RandomCrop(1),
    ],
)
def test_interpolated_pixels_follow_the_corners(transform):
    """An image of coordinates says from where each pixel comes, hence where corners must lie."""
    sample = a_sample()
    middles = (torch.arange(SIZE) + 0.5) / SIZE
    sample["image"] = torch.stack(
        [middles.expand(SIZE, -1), middles[:, None].expand(-1, SIZE), torch.ones(SIZE, SIZE)]
    )
    corners = set()
    for moved in results(transform, sample=sample):
        known = moved["image"][2] > 0.9999  # not mixed with the gray outside
        row, column = known.nonzero().double().add(0.5).unbind(1)
        source = moved["image"][:2, known].double().T * SIZE
        ones = torch.ones(len(source), 1, dtype=torch.float64)
        there = torch.stack([column, row], 1)
        affine = torch.linalg.lstsq(torch.cat([source, ones], 1), there).solution
        assert known.sum() > 500
        assert torch.cat([source, ones], 1).mm(affine).sub(there).abs().max() < 0.01
        expected = torch.cat([a_quad().double(), torch.ones(4, 1)], 1) @ affine
        assert (moved["quads"][0] - expected).abs().max() < 0.01
        corners.add(tuple(moved["quads"].round(decimals=2).flatten().tolist()))
    assert len(corners) > 15


@pytest.mark.parametrize("transform", [RandomTranslation(1), RandomCrop(1)])
def test_no_object_is_cut(transform):
    quads = torch.stack([a_quad(), a_quad(1.2, 30, 60, 20, 8)])
    sample = {**a_sample(), "quads": quads, "label": torch.tensor([1, 2])}
    sample |= {"difficult": torch.zeros(2).bool(), "object_weight": torch.ones(2)}
    for moved in results(transform, 40, sample):
        assert moved["label"].tolist() == [1, 2]
        assert moved["image"].shape == (3, SIZE, SIZE)
        assert moved["quads"].min() >= -1e-4
        assert moved["quads"].max() <= SIZE + 1e-4
    empty = {name: value[:0] for name, value in sample.items() if name not in ("image", "index")}
    empty = {**sample, **empty}
    assert transform(empty, none_drawn) is empty


def test_an_object_that_leaves_is_left_out():
    shift = RandomAffine(0, translate=1.0, p=1)
    kept = [sample for sample in results(shift, 60) if len(sample["quads"])]
    gone = [sample for sample in results(shift, 60) if not len(sample["quads"])]
    assert kept
    assert gone
    area = a_sample()["image"][0].sum()
    for sample in kept:
        assert inside(sample["quads"][0]).sum() > 0.65 * area
        assert len(sample["label"]) == len(sample["difficult"]) == len(sample["object_weight"]) == 1
    for sample in gone:
        assert sample["image"].gt(0.75).float().mean() * SIZE**2 < 0.75 * area
        assert len(sample["label"]) == len(sample["difficult"]) == len(sample["object_weight"]) == 0


def test_four_images_meet():
    others = [a_sample(a_quad(0.3 * k, 40 + 4 * k, 50), label=10 + k) for k in range(5)]

    def draw():
        return others[int(torch.randint(5, ()))]

    numbers = []
    for sample in results(Mosaic(), 40, draw=draw):
        assert sample["image"].shape == (3, SIZE, SIZE)
        assert sample["index"] == 7
        numbers.append(len(sample["label"]))
        # what the corners cover is bright, as far as it is of one of the four images
        shown, said = sample["image"][0], covered(sample)
        assert (said > 0.5).logical_and(shown > 0.5).sum() >= 0.7 * (said > 0.5).sum()
        # and most of what is bright is an object that is kept, or one that is cut
        assert signed_area(sample["quads"]).gt(0).all()
    assert set(numbers) == {0, 1}
    assert Mosaic().mixes_samples


def test_a_mosaic_at_its_corners(monkeypatch):
    one, other = a_sample(label=1), a_sample(a_quad(1.0), label=2)
    for x, y, expected in ((SIZE, SIZE, one), (0, 0, other), (SIZE, 0, other)):
        places = iter([torch.tensor(x), torch.tensor(y)])
        monkeypatch.setattr(torch, "randint", lambda *_, places=places: next(places))
        sample = Mosaic()(one, lambda: other)
        assert torch.equal(sample["image"], expected["image"])
        assert torch.equal(sample["quads"], expected["quads"])
        assert torch.equal(sample["label"], expected["label"])


def test_shares_of_mixed_images():
    one, other = a_sample(label=1), a_sample(a_quad(1.2, 30, 60), label=2)
    shares = []
    for sample in results(Mixup(p=1), 200, one, lambda: other):
        share = sample["object_weight"][0]
        shares.append(float(share))
        assert sample["label"].tolist() == [1, 2]
        assert sample["object_weight"].sum() == pytest.approx(1)
        expected = share * one["image"] + (1 - share) * other["image"]
        assert torch.allclose(sample["image"], expected, atol=1e-6)
    shares = torch.tensor(shares)
    # Beta(1.5, 1.5): mean 1/2, variance 1/16
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.var() == pytest.approx(1 / 16, rel=0.25)


def test_how_often_something_is_done():
    one, other = a_sample(label=1), a_sample(a_quad(1.2, 30, 60), label=2)
    mixed = [len(sample["label"]) == 2 for sample in results(Mixup(), 400, one, lambda: other)]
    assert sum(mixed) / 400 == pytest.approx(0.7, abs=0.07)
    for transform in (
        Mixup(p=0),
        Mosaic(0),
        RandomAffine(p=0),
        RandomCrop(0),
        RandomTranslation(0),
    ):
        assert transform(one, none_drawn) is one


def test_colors_change_and_corners_stay():
    sample = a_sample()
    (changed,) = results(PixelTransform(ColorJitter(brightness=(0.5, 0.5))), 1, sample)
    assert torch.allclose(changed["image"], sample["image"] / 2)
    assert changed["quads"] is sample["quads"]


def test_partners_have_gone_through_what_comes_before():
    class Add(ObjectTransform):
        def __call__(self, sample, draw):
            return {**sample, "value": sample["value"] + 1}

    class Join(ObjectTransform):
        def __call__(self, sample, draw):
            return {**sample, "value": 100 * sample["value"] + draw()["value"]}

    augment = ObjectAugmentation([Add(), Join(), Add()], ArrayDataset(value=torch.tensor([3])))
    assert augment({"value": torch.tensor(5)})["value"] == 100 * (5 + 1) + (3 + 1) + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_all_together_on_scenes_is_the_same_for_any_workers(workers):
    def batches(workers):
        data = RenderedScenes(
            num_train=8,
            num_val=0,
            image_size=96,
            batch_size=4,
            num_workers=workers,
            augment=[
                Mosaic(0.5),
                RandomFlip(),
                RandomQuarterTurn(),
                RandomAffine(10, (0.8, 1.2), 0.1),
                PixelTransform(ColorJitter(0.4, 0, 0.7, 0.015)),
                Mixup(),
            ],
        )
        data.setup("fit")
        assert data.mixes_samples
        return list(data.train_dataloader())

    for one, other in zip(batches(0), batches(workers), strict=True):
        assert one["image"].min() >= 0
        assert one["image"].max() <= 1
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert one["object_weight"].gt(0).equal(one["label"] >= 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomFlip(horizontal=1.5), r"horizontal must lie in \[0, 1\], got 1.5"),
        (lambda: Mosaic(-1), r"p must lie in \[0, 1\]"),
        (lambda: RandomCrop(2), r"p must lie in \[0, 1\]"),
        (lambda: RandomTranslation(2), r"p must lie in \[0, 1\]"),
        (lambda: RandomAffine(p=2), r"p must lie in \[0, 1\]"),
        (
            lambda: RandomAffine(scale=(0, 1)),
            r"scale must be a least and a largest factor, got \(0, 1\)",
        ),
        (lambda: RandomAffine(-1), "degrees must be at least 0, got -1"),
        (lambda: Mixup(alpha=0), "alpha must be positive, got 0"),
        (lambda: Mixup(p=2), r"p must lie in \[0, 1\]"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("transform", [Mosaic(1), Mixup(p=1)])
def test_images_of_two_sizes_do_not_mix(transform):
    with pytest.raises(ValueError, match="needs images of one size"):
        transform(a_sample(), lambda: a_sample(height=64))
