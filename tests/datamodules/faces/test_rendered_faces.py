"""Drawn faces: parts of different persons, pictures that depend on their seeds alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from datamodules.face_rendering import render_face
from datamodules.rendered_faces import RenderedFaces

SIZES = {"num_identities": 3, "images_per_identity": 4, "val_identities": 2, "num_folds": 2}


def ready(stage="fit", **arguments):
    data = RenderedFaces(**{**SIZES, "test_identities": 2, "batch_size": 4, **arguments})
    data.setup(stage)
    return data


def test_a_picture_depends_on_its_seeds_alone():
    one, same, other_look, other_person = (
        torch.from_numpy(render_face(*seeds, 24)) for seeds in ((1, 2), (1, 2), (1, 3), (4, 2))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other_look)
    assert not torch.equal(one, other_person)


def test_more_persons_leave_the_first_ones_as_they_are():
    few, many = (RenderedFaces(**{**SIZES, "num_identities": n}).draw("train") for n in (2, 3))
    assert torch.equal(few.fields["image"], many.fields["image"][: len(few)])


def test_parts_share_no_picture():
    data = RenderedFaces(**SIZES)
    pictures = [data.draw(part).fields["image"].flatten(1) for part in ("train", "val", "test")]
    assert len({tuple(row.tolist()) for part in pictures for row in part}) == sum(
        map(len, pictures)
    )


def test_evaluated_images_come_once_with_pairs_of_their_positions():
    data = ready()
    batches = list(data.val_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(8))
    label = torch.cat([batch["label"] for batch in batches])
    pairs = data.pairs("val")["held_out"]
    assert torch.equal(label[pairs.first] == label[pairs.second], pairs.same)
    assert pairs.same.double().mean() == 0.5
    assert data.pairs("test") == {}
    data.setup("test")
    assert not torch.equal(data.pairs("test")["held_out"].first, pairs.first)


def test_images_are_scaled_to_one_around_zero_and_training_is_flipped():
    data = ready(batch_size=12)
    plain = next(iter(data.ordered_train_dataloader()))
    assert -1 <= plain["image"].min() < -0.5 < 0.5 < plain["image"].max() <= 1
    flipped = next(iter(data.train_dataloader()))
    same = torch.tensor(
        [
            torch.equal(image, plain["image"][index])
            for image, index in zip(flipped["image"], flipped["index"], strict=True)
        ]
    )
    mirrored = torch.tensor(
        [
            torch.equal(image.flip(-1), plain["image"][index])
            for image, index in zip(flipped["image"], flipped["index"], strict=True)
        ]
    )
    assert (same | mirrored).all()
    assert 0 < same.sum() < 12


def test_a_preset_has_the_values_of_imagenet():
    data = ready(normalization="imagenet", augment=[])
    assert data.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    raw = data.train_set.fields["image"][:1].float() / 255
    assert torch.equal(data.train_set.batch([0])["image"], data.normalize(raw))


def test_evaluation_takes_the_scale_of_training():
    data = RenderedFaces(**SIZES)
    data.use_facts({"normalize": {"mean": [0.1], "std": [2.0]}, "num_classes": 9})
    data.setup("validate")
    assert data.val_set.normalize.std.item() == 2
    assert data.num_classes == 9


def test_pixels_alone_hardly_tell_persons():
    """``configs/face.yaml`` learns to tell 91 % of the pairs of the default data."""
    data = ready("validate", val_identities=12, images_per_identity=8)
    images = F.normalize(data.val_set.batch(range(96))["image"].flatten(1))
    pairs = data.pairs("val")["held_out"]
    score = (images[pairs.first] * images[pairs.second]).sum(1)
    order = pairs.same[score.argsort(descending=True)].double()
    best = (order.cumsum(0) + (1 - order).sum() - (1 - order).cumsum(0)).max() / pairs.count
    assert 0.5 < best < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_identities": 1}, "val_identities must be at least 2, got 1"),
        ({"num_pairs": 3}, "num_pairs must be at least 4, got 3"),
        ({"normalization": "imagenet", "mean": [0.5], "std": [0.5]}, "or mean and std, not both"),
        ({"normalization": "z"}, "normalization must be one of symmetric, imagenet"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RenderedFaces(**{**SIZES, **arguments})
