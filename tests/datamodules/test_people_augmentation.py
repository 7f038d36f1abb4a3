import colorsys

import pytest
import torch

from datamodules.object_augmentation import ObjectAugmentation
from datamodules.people_augmentation import GRAY, MosaicAffine, PeopleFlip, join_four, warp_people
from datamodules.pixel_augmentation import RandomHSV, scale_hsv
from framework.data.datasets import IndexedDataset
from framework.detection.body_parts.people import NAMES, People, pad_people

SIZE = 64
SLOTS = ("head", "hand", "hand")


def people(bodies, parts=None, visible=None, **more):
    bodies = torch.tensor(bodies, dtype=torch.float32).view(-1, 4)
    number = len(bodies)
    slots = 1 if parts is None else len(parts[0])
    shown = torch.tensor(parts or [[[0, 0, 0, 0]]] * number, dtype=torch.float32)
    fields = {
        "bodies": bodies,
        "parts": shown.view(number, slots, 4),
        "visible": shown.view(number, slots, 4).ne(0).any(-1),
        "part_ignored": torch.zeros(number, slots, dtype=torch.bool),
        "visible_ratio": torch.ones(number),
        "ignored": torch.zeros(number, dtype=torch.bool),
    }
    return People(**{**fields, **{name: torch.tensor(value) for name, value in more.items()}})


def a_sample(of=None, value=None):
    of = people([[10, 8, 30, 48]], [[[16, 8, 24, 16]]]) if of is None else of
    image = torch.rand(3, SIZE, SIZE) if value is None else torch.full((3, SIZE, SIZE), value)
    return {"image": image, **of.fields(), "index": torch.tensor(7)}


def none_drawn():
    raise AssertionError("needs no other sample")


def affine(factor=1.0, x=0.0, y=0.0):
    return torch.tensor([[factor, 0, x], [0, factor, y], [0, 0, 1]], dtype=torch.float64)


def test_a_factor_of_1_without_a_shift_changes_nothing():
    sample = a_sample()
    moved = MosaicAffine(mosaic=0, translate=0, scale=0)(sample, none_drawn)
    assert all(torch.equal(moved[name], sample[name]) for name in (*NAMES, "index"))
    assert torch.allclose(moved["image"], sample["image"], atol=1e-4)


def test_boxes_are_mapped_and_clipped_and_parts_are_whole():
    found = people(
        [[10, 8, 30, 48], [40, 10, 60, 40]],
        [[[16, 8, 24, 16]], [[46, 30, 56, 50]]],
    )
    moved = warp_people(a_sample(found), affine(2, -40, -40), (SIZE, SIZE))
    assert moved["bodies"].tolist() == [[0, 0, 20, 56], [40, 0, 64, 40]]
    assert moved["visible"].tolist() == [[False], [True]]
    assert moved["parts"].tolist() == [[[0, 0, 0, 0]], [[52, 20, 72, 60]]]
    moved = warp_people(a_sample(found), affine(2, -110, -20), (SIZE, SIZE))
    assert moved["bodies"].tolist() == [[0, 0, 10, 60]]
    assert moved["visible"].tolist() == [[False]]


def test_a_center_on_the_right_border_is_outside():
    found = people([[0, 0, 60, 60]], [[[20, 20, 40, 40]]])
    for shift, seen in ((33, True), (34, False), (-30, True), (-31, False)):
        moved = warp_people(a_sample(found), affine(x=shift), (SIZE, SIZE))
        assert moved["visible"].tolist() == [[seen]], shift


@pytest.mark.parametrize(
    ("body", "factor", "x", "ignored", "kept"),
    [
        ([0, 0, 4, 4], 0.5, 0, False, False),  # 2 x 2
        ([0, 0, 4.1, 4.1], 0.5, 0, False, True),
        ([0, 0, 50, 50], 1, -45, False, False),  # exactly a tenth
        ([0, 0, 50, 50], 1, -44.5, False, True),
        ([0, 0, 50, 50], 1, -45, True, True),  # a region is kept
        ([0, 0, 60, 3], 1, 0, False, False),  # 20 : 1
        ([0, 0, 59, 3], 1, 0, False, True),
        ([0, 0, 60, 3], 1, 0, True, True),
        ([0, 0, 50, 50], 1, -48, True, False),  # 2 wide
    ],
)
def test_which_bodies_are_kept(body, factor, x, ignored, kept):
    sample = a_sample(people([body], ignored=[ignored]))
    moved = warp_people(sample, affine(factor, x), (SIZE, SIZE))
    assert [len(moved[name]) for name in NAMES] == [int(kept)] * len(NAMES)


def test_four_images_meet_where_they_are_told_to():
    samples = [a_sample(value=0.1 * (place + 1)) for place in range(4)]
    joined = join_four(samples, 40, 90)
    image = joined["image"]
    assert image.shape == (3, 2 * SIZE, 2 * SIZE)
    for place, rows, columns in (
        (0, slice(26, 90), slice(0, 40)),
        (1, slice(26, 90), slice(40, 104)),
        (2, slice(90, 128), slice(0, 40)),
        (3, slice(90, 128), slice(40, 104)),
    ):
        assert (image[:, rows, columns] == samples[place]["image"][0, 0, 0]).all()
    assert image.eq(torch.tensor(GRAY)).sum() == 3 * (26 * 128 + 102 * 24)
    # the person of each, shifted by the origin of its image
    assert joined["bodies"].tolist() == [
        [0, 34, 6, 74],
        [50, 34, 70, 74],
        [0, 98, 6, 128],
        [50, 98, 70, 128],
    ]
    assert joined["visible"][:, 0].tolist() == [False, True, False, True]
    assert joined["parts"][1, 0].tolist() == [56, 34, 64, 42]


def test_a_mosaic_shows_no_borders_of_letterboxes():
    sample = a_sample(people([[0, 16, 64, 48]]), value=0.25)
    sample["image"][:, :16] = sample["image"][:, 48:] = 0.75
    sample |= {
        "letterbox_offset": torch.tensor([0.0, -16]),
        "letterbox_scale": torch.tensor(0.5),
        "image_size": torch.tensor([128.0, 64]),
    }
    joined = join_four([sample] * 4, 64, 64)
    assert joined["image"][:, 32:96].eq(0.25).all()
    assert joined["image"][:, :32].eq(torch.tensor(GRAY)).all()
    assert joined["bodies"].tolist() == [
        [0, 32, 64, 64],
        [64, 32, 128, 64],
        [0, 64, 64, 96],
        [64, 64, 128, 96],
    ]
    assert "letterbox_scale" not in joined


def test_pixels_follow_the_boxes():
    """A body is drawn in a gray that is its own, and found where its box says."""
    torch.manual_seed(0)
    number = 0
    for _ in range(20):
        samples = []
        for value in (0.9, 1.0, 0.7, 0.8):
            sample = a_sample(people([[10, 8, 40, 52]]), 0.0)
            sample["image"][:, 8:52, 10:40] = value
            samples.append(sample)
        rest = iter(samples[1:])
        moved = MosaicAffine()(samples[0], lambda rest=rest: next(rest))
        assert moved["image"].shape == (3, SIZE, SIZE)
        for box in moved["bodies"].tolist():
            left, top, right, bottom = box
            inner = moved["image"][
                0, int(top) + 2 : int(bottom) - 1, int(left) + 2 : int(right) - 1
            ]
            if inner.numel():
                number += 1
                assert inner.min() > 0.65
                assert inner.max() - inner.min() < 1e-3
    assert number > 20


def test_a_second_hand_takes_the_place_of_one_that_left():
    hands = people([[0, 0, 60, 60]], [[[20, 2, 30, 12], [2, 20, 12, 30], [30, 20, 40, 30]]])
    augment = MosaicAffine(mosaic=0, translate=0, scale=0)
    augment.use_slots(SLOTS)
    shifted = warp_people(a_sample(hands), affine(x=-10), (SIZE, SIZE))
    assert shifted["visible"].tolist() == [[True, False, True]]
    moved = augment(shifted, none_drawn)
    assert moved["visible"].tolist() == [[True, True, False]]
    assert moved["parts"][0, 1].tolist() == [20, 20, 30, 30]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (SLOTS, [[34, 2, 44, 12], [24, 20, 34, 30], [52, 20, 62, 30]]),
        (
            ("head", "left_hand", "right_hand"),
            [[34, 2, 44, 12], [24, 20, 34, 30], [52, 20, 62, 30]],
        ),
        (("head", "face", "left_foot"), [[34, 2, 44, 12], [52, 20, 62, 30], [24, 20, 34, 30]]),
    ],
)
def test_a_flip_exchanges_sides_and_twice_is_none(names, expected):
    sample = a_sample(
        people([[0, 0, 60, 60]], [[[20, 2, 30, 12], [2, 20, 12, 30], [30, 20, 40, 30]]])
    )
    flip = PeopleFlip(p=1)
    flip.use_slots(names)
    once = flip(sample, none_drawn)
    assert once["bodies"].tolist() == [[4, 0, 64, 60]]
    assert once["parts"][0].tolist() == expected
    assert torch.equal(once["image"], sample["image"].flip(2))
    twice = flip(once, none_drawn)
    assert all(torch.equal(twice[name], sample[name]) for name in sample)


def test_a_single_hand_changes_its_side():
    absent = [0, 0, 0, 0]
    sample = a_sample(people([[0, 0, 60, 60]], [[absent, [2, 20, 12, 30], absent]]))
    for names, place in ((SLOTS, 1), (("head", "left_hand", "right_hand"), 2)):
        flip = PeopleFlip(p=1)
        flip.use_slots(names)
        once = flip(sample, none_drawn)
        assert once["visible"][0].nonzero().tolist() == [[place]]
        assert once["parts"][0, place].tolist() == [52, 20, 62, 30]
        assert once["parts"][0].count_nonzero() == 4
    assert PeopleFlip(p=0)(sample, none_drawn).keys() == sample.keys()


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    torch.manual_seed(3)
    rows = [{"image": torch.rand(3, SIZE, SIZE), **a_sample().copy()} for _ in range(5)]
    rows = [{name: row[name] for name in ("image", *NAMES)} for row in rows]

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, row):
            return rows[row]

    transforms = [MosaicAffine(), RandomHSV(), PeopleFlip()]
    augment = ObjectAugmentation(transforms, Rows())
    data = IndexedDataset(Rows(), augment=augment, seed=1, collate=pad_people)
    whole = data.__getitems__([(2, row) for row in range(5)])
    torch.manual_seed(9)
    for row in (3, 0):
        one = data[(2, row)]
        assert torch.equal(one["image"], whole["image"][row])
        assert torch.equal(one["bodies"], whole["bodies"][row, : whole["num_people"][row]])
    assert not torch.equal(data[(3, 0)]["image"], whole["image"][0])
    assert whole["image"].min() >= 0
    assert whole["image"].max() <= 1


def test_hue_saturation_and_value():
    torch.manual_seed(0)
    image = torch.rand(3, 8, 8)
    image[:, 0, 0] = 0.5
    image[:, 0, 1] = 0
    assert torch.allclose(scale_hsv(image, torch.ones(3)), image, atol=1e-6)
    factors = torch.tensor([1.4, 0.5, 1.3])
    found = scale_hsv(image, factors)
    for row in range(8):
        for column in range(8):
            h, s, v = colorsys.rgb_to_hsv(*image[:, row, column].double().tolist())
            expected = colorsys.hsv_to_rgb(h * 1.4 % 1, min(s * 0.5, 1), min(v * 1.3, 1))
            assert found[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MosaicAffine(mosaic=2), r"mosaic must lie in \[0, 1\], got 2"),
        (lambda: MosaicAffine(scale=1), r"scale must lie in \[0, 1\), got 1"),
        (lambda: MosaicAffine(translate=-1), "translate must be at least 0, got -1"),
        (lambda: PeopleFlip(2), r"p must lie in \[0, 1\]"),
        (lambda: RandomHSV(hue=2), r"hue must lie in \[0, 1\]"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_of_two_sizes_do_not_mix():
    other = {**a_sample(), "image": torch.zeros(3, 32, 32)}
    with pytest.raises(ValueError, match="needs square images of one size"):
        MosaicAffine()(a_sample(), lambda: other)
