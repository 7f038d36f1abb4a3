"""Training classes are thinned by an exact profile, and nothing else changes."""

import pytest
import torch

from datamodules import ClassIncremental, Digits, LabelNoise, LongTailed, TwoViews
from datamodules.long_tailed import exponential_counts
from framework.data.datasets import root_and_rows
from framework.data.facts import facts_of
from modules import Classifier
from tests.helpers.tiny import tiny_trainer


def ready(data=None, **options):
    tail = LongTailed(Digits() if data is None else data, **options)
    tail.setup("fit")
    return tail


def indices(data):
    return root_and_rows(data.train_set, list(range(len(data.train_set))))[1]


def test_counts_of_the_digits_decay_by_ten():
    data = ready(imbalance=10.0)
    assert data.class_counts == [143, 111, 86, 66, 51, 40, 31, 24, 18, 14]
    labels = torch.tensor([int(sample["label"]) for sample in data.train_set])
    assert labels.bincount().tolist() == data.class_counts
    assert ready().class_counts == data.class_counts, "the default"


@pytest.mark.parametrize(
    ("there", "imbalance", "counts"),
    [
        ([100, 100, 100], 1.0, [100, 100, 100]),
        ([100, 100, 100], 100.0, [100, 10, 1]),
        ([80, 90, 70], 1.0, [70, 70, 70]),
        ([100, 50, 20], 4.0, [80, 40, 20]),
        ([500], 7.0, [500]),
    ],
)
def test_profile(there, imbalance, counts):
    assert exponential_counts(torch.tensor(there), imbalance) == counts


@pytest.mark.parametrize("imbalance", [1.0, 3.0, 10.0, 50.0, 128.0])
def test_no_class_is_asked_for_more_than_there_is_and_one_is_whole(imbalance):
    there = torch.tensor([130, 145, 129, 160, 133, 128, 150, 141, 137, 155])
    counts = torch.tensor(exponential_counts(there, imbalance))
    assert (counts <= there).all()
    assert (counts == there).any()
    assert (counts.diff() <= 0).all()


def test_counts_may_be_given():
    data = ready(counts=[3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    assert data.class_counts == [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    assert len(data.train_set) == 39


def test_rows_depend_on_the_seed_alone_and_keep_their_index():
    data, again, other = ready(), ready(batch_size=7), ready(seed=1)
    assert indices(data) == indices(again)
    assert indices(data) != indices(other)
    assert other.class_counts == data.class_counts
    assert indices(data) == sorted(set(indices(data)))
    plain = Digits()
    plain.setup("fit")
    assert set(indices(data)) <= set(plain.train_set.indices)
    for place in (0, 5, 500):
        assert torch.equal(
            data.train_set[place]["image"], plain.train_set.dataset[indices(data)[place]]["image"]
        )
    assert data.num_samples == plain.num_samples
    assert facts_of(data) == facts_of(plain)


def test_fewer_rows_are_some_of_the_more():
    some, more = ready(imbalance=50.0), ready(imbalance=10.0)
    labels = torch.tensor([int(sample["label"]) for sample in more.train_set])
    for k, (few, many) in enumerate(zip(some.class_counts, more.class_counts, strict=True)):
        if few <= many:
            members = {i for i, label in zip(indices(more), labels, strict=True) if label == k}
            kept = [i for i in indices(some) if some.train_set.dataset.dataset[i]["label"] == k]
            assert set(kept) <= members


def test_evaluation_stays_as_it_was():
    data, plain = ready(), Digits()
    plain.setup("fit")
    for part in ("val_set", "test_set", "predict_set"):
        found, wanted = getattr(data, part), getattr(plain, part)
        assert len(found) == len(wanted) == 180
        assert torch.equal(found[3]["image"], wanted[3]["image"])


def test_views_of_a_long_tail():
    data = TwoViews(LongTailed(Digits()), batch_size=100)
    data.setup("fit")
    assert indices(data) == indices(ready())
    batch = next(iter(data.train_dataloader()))
    assert set(batch["index"].tolist()) <= set(indices(data))
    assert not torch.equal(batch["image"], batch["image2"])
    ordered = [int(i) for part in data.ordered_train_dataloader() for i in part["index"]]
    assert ordered == indices(data)


def test_augmented_data_stay_augmented_and_ordered_ones_plain():
    class Invert(torch.nn.Module):
        def forward(self, image):
            return 1 - image

    data = ready(Digits(augment=[Invert()]))
    plain = {
        int(index): image
        for batch in data.ordered_train_dataloader()
        for index, image in zip(batch["index"], batch["image"], strict=True)
    }
    batch = next(iter(data.train_dataloader()))
    for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
        assert torch.equal(image, 1 - plain[index])


def test_a_classifier_trains_on_it(tmp_path):
    data = LongTailed(Digits(), counts=[30, 2, 2, 2, 2, 2, 2, 2, 2, 2], batch_size=12)
    module = Classifier.for_data(data, backbone="mlp")
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=1, limit_val_batches=1)
    trainer.fit(module, data)
    assert trainer.global_step == 4
    assert module.num_classes == 10


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Digits, {"imbalance": 0.5}, "imbalance must be at least 1, got 0.5"),
        (Digits, {"imbalance": 2.0, "counts": [1] * 10}, "Either imbalance or counts"),
        (Digits, {"counts": []}, "at least 1 for each class"),
        (Digits, {"counts": [1, 0]}, "at least 1 for each class"),
        (Digits, {"counts": [5, 5]}, "counts are of 2 classes, and Digits has 10"),
        (Digits, {"counts": [5] * 9 + [999]}, "999 training rows of class 9, of which Digits has"),
        (Digits, {"imbalance": 1e6}, "none left for the rarest class at an imbalance of 1e"),
        (lambda: Digits(mixup=0.1), {}, "switch its mixup off"),
        (lambda: Digits(balance_classes=True), {}, "LongTailed makes the batches: drop Digits's"),
        (lambda: Digits(shards=4), {}, "give it Digits's shards"),
        (lambda: ClassIncremental(Digits()), {}, "ClassIncremental has batches of its own"),
        (lambda: Digits(label_noise=LabelNoise("pair", rate=0.2)), {}, "drop Digits's label_noise"),
    ],
)
def test_what_does_not_fit_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        ready(data(), **options)
