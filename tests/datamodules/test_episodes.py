from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2 as transforms

from datamodules import Digits, Episodes, LabelNoise, Omniglot, Retrieval
from datamodules.class_parts import ClassSubset
from tests.helpers.omniglot import write_omniglot

SMALL = {"ways": 2, "shots": 1, "queries": 3, "train_episodes": 6, "val_episodes": 4}


def ready(data=None, kind=Episodes, **options):
    small = {**SMALL, "test_episodes": 5} if kind is Episodes else {}
    made = kind(data or Digits(), **{**small, **options})
    made.setup("fit")
    return made


def as_subset(part):
    """Return the images that a part is or draws its episodes from."""
    return part if isinstance(part, ClassSubset) else part.source


def classes(part):
    return set(as_subset(part).label.tolist())


@pytest.mark.parametrize("kind", [Episodes, Retrieval])
def test_classes_are_parted_once(kind):
    data = ready(kind=kind, val_classes=3, test_classes=[1, 4])
    assert [classes(part) for part in (data.train_set, data.val_set, data.test_set)] == [
        {0, 1, 2, 3, 4},
        {5, 6, 7},
        {8, 9},
    ]
    rows = [set(as_subset(part).rows.tolist()) for part in (data.train_set, data.test_set)]
    assert not rows[0] & rows[1]
    source = as_subset(data.train_set).source
    assert set(source.fields["label"][list(rows[1])].tolist()) == {1, 4}
    assert set(source.fields["label"][list(rows[0])].tolist()) == {0, 2, 3, 5, 6}


def test_shares_of_classes_are_the_last_ones():
    data = ready(val_classes=0.4, test_classes=0.5)
    label = as_subset(data.test_set).source.fields["label"][as_subset(data.test_set).rows]
    assert set(label.tolist()) == {5, 6, 7, 8, 9}
    assert classes(data.train_set) == {0, 1, 2}, "two fifths of five are two"


def test_parts_of_other_classes_are_taken_as_they_are(tmp_path):
    write_omniglot(tmp_path)
    data = ready(Omniglot(str(tmp_path), image_size=16))
    found = [classes(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert found == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]
    assert data.input_shape == (1, 16, 16)
    data = ready(Omniglot(str(tmp_path), image_size=16, test_alphabets=0))
    assert data.test_set is None, "no class of the training is taken away"


def epoch(data, **options):
    batches = list(data.train_dataloader())
    order = torch.cat([batch["index"] for batch in batches]).argsort()
    return torch.cat([batch["image"] for batch in batches])[order]


def test_episodes_do_not_depend_on_batches_or_workers():
    one = epoch(ready(val_classes=3, test_classes=3))
    assert one.shape == (6, 8, 1, 8, 8)
    assert torch.equal(one, epoch(ready(val_classes=3, test_classes=3, batch_size=4)))
    assert torch.equal(one, epoch(ready(val_classes=3, test_classes=3, num_workers=1)))


def test_evaluation_has_a_shape_and_a_seed_of_its_own():
    options = {"val_classes": 3, "test_classes": 3}
    data = ready(**options, eval_ways=3, eval_queries=2, eval_batch_size=5)
    (batch,) = data.test_dataloader()
    assert batch["image"].shape == (5, 9, 1, 8, 8)
    data.seed = 5
    assert torch.equal(batch["image"], next(iter(data.test_dataloader()))["image"])
    other = ready(**options, eval_ways=3, eval_queries=2, episode_seed=1)
    assert other.test_set.digest != data.test_set.digest


def test_the_digest_of_the_test_is_said(monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.episodes.rank_zero_info", said.append)
    data = ready(val_classes=3, test_classes=3)
    data.test_dataloader()
    (line,) = said
    assert line == (
        "5 test episodes (ways 2, shots 1, queries 3) of episode_seed 0; their digest is "
        f"{data.test_set.digest}."
    )


def test_training_images_alone_are_augmented():
    options = {"val_classes": 3, "test_classes": 3}
    augment = [transforms.RandomAffine(30, translate=(0.2, 0.2))]
    plain, data = ready(**options), ready(**options, augment=augment)
    one = epoch(data)
    assert not torch.equal(one, epoch(plain))
    assert torch.equal(one, epoch(ready(**options, augment=augment, batch_size=3, num_workers=1)))
    assert torch.equal(plain.val_set.batch([2])["image"], data.val_set.batch([2])["image"])
    with pytest.raises(ValueError, match="let augment keep it"):
        ready(**options, augment=[transforms.Resize(4)])


def test_images_are_normalized_as_the_data_say():
    data = ready(Digits(mean=[0.5], std=[0.25]), val_classes=3, test_classes=3)
    image = next(iter(data.train_dataloader()))["image"]
    assert image.min() == -2
    assert data.normalize is not None


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda: Digits(mixup=0.2), {}, "Digits makes samples of several"),
        (lambda: Digits(augment=[torch.nn.Identity()]), {}, "give augment to it, not to Digits"),
        (lambda: Digits(label_noise=LabelNoise(rate=0.2)), {}, "drop Digits's label_noise"),
        (Digits, {"test_classes": [12]}, "test_classes has the class 12, and those left are 0"),
        (Digits, {"test_classes": 9, "val_classes": 1}, "leave none to train on"),
        (Digits, {"test_classes": 10}, "0 for validation and 10 for the test leave none"),
        (Digits, {"test_classes": 1.5}, "test_classes must lie in"),
        (Digits, {"ways": 6}, "6 ways needs as many training classes, and there are 4"),
    ],
)
def test_what_does_not_fit_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        ready(data(), **options)


def test_a_class_named_twice_counts_once():
    data = ready(kind=Retrieval, test_classes=[9, 8, 9], val_classes=[7, 7], batch_size=4)
    assert data.val_set.label.unique().tolist() == [7]
    assert data.test_set.label.unique().tolist() == [8, 9]


def test_batches_of_retrieval_are_balanced():
    data = ready(kind=Retrieval, images_per_class=4, batch_size=16, test_classes=5, val_classes=1)
    assert data.num_classes == 4
    for batch in data.train_dataloader():
        assert batch["label"].bincount().tolist() == [4] * 4
    evaluated = torch.cat([batch["index"] for batch in data.test_dataloader()])
    assert evaluated.tolist() == [*range(len(data.test_set))]


def test_retrieval_augments_training_images_alone():
    augment = [torch.nn.Threshold(2.0, 0.5)]
    plain = ready(Digits(mean=[0.5], std=[0.5]), Retrieval, batch_size=8)
    data = ready(Digits(mean=[0.5], std=[0.5], augment=augment), Retrieval, batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert (batch["image"] == 0).all(), "0.5 after the transform, 0 after the normalization"
    for part in ("val_set", "test_set", "plain_train_set"):
        expected = getattr(plain, part) or plain.train_set
        assert torch.equal(getattr(data, part)[3]["image"], expected[3]["image"])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Episodes, {"shots": 2}, r"episodes of \[2, 1, 3\] ways, shots and queries"),
        (Retrieval, {"images_per_class": 2}, "images_per_class=4, and cannot continue with 2"),
    ],
)
def test_other_batches_cannot_go_on_inside_an_epoch(kind, options, message):
    state = ready(kind=kind, test_classes=5, val_classes=2, batch_size=4).state_dict()
    other = ready(kind=kind, test_classes=5, val_classes=2, batch_size=4, **options)
    other.load_state_dict(state)
    with pytest.raises(RuntimeError, match=message):
        other.load_state_dict({**state, "position": 1})


def test_rows_of_retrieval_may_be_held_out():
    data = ready(kind=Retrieval, images_per_class=2, batch_size=4)
    whole = len(data.train_set)
    data.hold_out(0.25)
    rows = torch.cat([batch["index"] for batch in data.train_dataloader()])
    assert not set(rows.tolist()) & set(data.guide_set.indices)
    assert len(data.train_set) + len(data.guide_set) == whole


def test_batches_of_another_size_are_refused():
    with pytest.raises(ValueError, match="batch_size=10 must be a multiple of images_per_class=4"):
        Retrieval(Digits(), batch_size=10)
    with pytest.raises(ValueError, match="at most 16, as there are 4 classes"):
        ready(kind=Retrieval, batch_size=20).train_dataloader()
