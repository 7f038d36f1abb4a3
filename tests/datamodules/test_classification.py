import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from datamodules import Bags, ClassificationData, Digits, DomainPair, LabelNoise, WholeSet
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet


class Tiny(ClassificationData):
    """Image i is constant i / 255 and has the label i mod 4."""

    num_classes = 4
    input_shape = (2, 3, 3)

    def read(self):
        def images(rows):
            values = torch.arange(rows, dtype=torch.uint8).view(-1, 1, 1, 1)
            return ImageSet(image=values.expand(-1, 2, 3, 3), label=torch.arange(rows) % 4)

        return Splits(images(40), None, images(10))


def ready(**arguments):
    data = Tiny(**arguments)
    data.setup("fit")
    return data


def train_rows(data):
    """Return the training stream of one epoch, rows in the order of ``index``."""
    batches = list(data.train_dataloader())
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = whole["index"].argsort()
    return {name: value[order] for name, value in whole.items()}


def test_splits_are_disjoint_and_complete():
    data = ready(batch_size=8, val_size=10)
    train, val = train_rows(data), next(iter(data.val_dataloader()))
    assert len(train["index"]) == 30
    assert data.num_samples == 40
    rows = torch.cat([train["index"], *(batch["index"] for batch in data.val_dataloader())])
    assert sorted(rows.tolist()) == list(range(40))
    assert val["index"].tolist() != list(range(8)), "the permutation holds out scattered rows"
    torch.testing.assert_close(train["image"][:, 0, 0, 0], train["index"] / 255)
    assert torch.equal(train["label"], train["index"] % 4)
    assert data.in_channels == 2


def test_split_is_fixed_by_its_own_seed():
    def held_out(**arguments):
        return next(iter(ready(batch_size=40, val_size=10, **arguments).val_dataloader()))["index"]

    assert torch.equal(held_out(), held_out())
    assert not torch.equal(held_out(), held_out(split_seed=1))


@pytest.mark.parametrize(("val_size", "rows"), [(0, 0), (0.0, 0), (0.25, 10), (7, 7)])
def test_val_size(val_size, rows):
    data = ready(val_size=val_size)
    assert sum(len(batch["index"]) for batch in data.val_dataloader()) == rows
    assert len(data.train_set) == 40 - rows


@pytest.mark.parametrize("val_size", [40, 1.0, -1])
def test_bad_val_size(val_size):
    with pytest.raises(ValueError, match=r"does not fit a training set of 40 samples"):
        ready(val_size=val_size)


def test_given_validation_set_is_used():
    class Given(Tiny):
        def read(self):
            train, _, test = super().read()
            return Splits(train, test, None)

    data = Given()
    data.setup("fit")
    assert len(data.train_set) == 40
    assert len(data.val_set) == 10
    assert data.test_dataloader() == []
    assert data.predict_set is data.val_set


def test_noise_touches_training_labels_only():
    data = ready(val_size=8, label_noise=LabelNoise("pair", rate=1.0))
    train = train_rows(data)
    assert torch.equal(train["clean_label"], train["index"] % 4)
    assert torch.equal(train["label"], (train["index"] + 1) % 4)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batch = next(iter(loader))
        assert torch.equal(batch["label"], batch["index"] % 4)
        assert "clean_label" not in batch


def test_noise_of_a_sample_does_not_depend_on_the_split():
    noise = LabelNoise(rate=0.5)
    whole = train_rows(ready(val_size=0, label_noise=noise))["label"]
    part = train_rows(ready(val_size=12, label_noise=noise))
    assert torch.equal(part["label"], whole[part["index"]])


@pytest.mark.parametrize("augment", [None, [torch.nn.Identity()]])
def test_normalization_is_the_same_with_and_without_augmentation(augment):
    data = ready(val_size=4, mean=[0.5, 0.25], std=[0.5, 2.0], augment=augment)
    for batch in (train_rows(data), next(iter(data.val_dataloader()))):
        raw = (batch["index"] / 255).view(-1, 1, 1)
        torch.testing.assert_close(batch["image"][:, 0], ((raw - 0.5) / 0.5).expand(-1, 3, 3))
        torch.testing.assert_close(batch["image"][:, 1], ((raw - 0.25) / 2).expand(-1, 3, 3))


def test_transforms_see_images_in_0_1_and_evaluation_sees_none():
    data = ready(mean=[0.5], std=[0.5], augment=[v2.RandomInvert(p=1.0)])
    train, test = train_rows(data), next(iter(data.test_dataloader()))
    raw = train["index"] / 255
    torch.testing.assert_close(train["image"][:, 0, 0, 0], ((1 - raw) - 0.5) / 0.5)
    torch.testing.assert_close(test["image"][:, 0, 0, 0], (test["index"] / 255 - 0.5) / 0.5)


def test_an_augmentation_in_place_does_not_change_the_data():
    data = ready(augment=[v2.Normalize([5.0, 5.0], [1.0, 1.0], inplace=True)])
    first, second = train_rows(data), train_rows(data)
    assert torch.equal(first["image"], second["image"])


@pytest.mark.parametrize("val_size", [4, 0])
@pytest.mark.parametrize(
    "arguments", [{}, {"augment": [v2.RandomInvert(p=1.0)]}, {"mixup": 1.0, "batch_size": 7}]
)
def test_the_ordered_training_set_is_normalized_and_nothing_else(val_size, arguments):
    noise = LabelNoise("pair", rate=1.0)
    data = ready(mean=[0.5], std=[0.5], val_size=val_size, label_noise=noise, **arguments)
    batches = list(data.ordered_train_dataloader())
    index, image, label = (torch.cat([b[n] for b in batches]) for n in ("index", "image", "label"))
    assert index.tolist() == sorted(train_rows(data)["index"].tolist())
    assert len(index) == 40 - val_size
    torch.testing.assert_close(image[:, 0, 0, 0], (index / 255 - 0.5) / 0.5)
    assert torch.equal(label, (index + 1) % 4), "the labels of training"


def test_the_ordered_training_set_beside_a_given_validation_set():
    class Given(Tiny):
        def read(self):
            train, _, test = super().read()
            return Splits(train, test, None)

    data = Given(mean=[0.5], std=[0.5], augment=[v2.RandomInvert(p=1.0)])
    data.setup("fit")
    (batch,) = data.ordered_train_dataloader()
    torch.testing.assert_close(batch["image"][:, 0, 0, 0], (torch.arange(40) / 255 - 0.5) / 0.5)
    (batch,) = data.train_dataloader()
    torch.testing.assert_close(batch["image"][:, 0, 0, 0], (0.5 - batch["index"] / 255) / 0.5)


def test_mixup_is_a_convex_combination_with_training_samples():
    data = ready(val_size=10, mixup=1.0)
    assert data.mixes_samples
    train = train_rows(data)
    assert train["label"].shape == (30, 4)
    torch.testing.assert_close(train["label"].sum(1), torch.ones(30))
    trained = set(train["index"].tolist())
    solved = 0
    for index, value, label in zip(
        train["index"].tolist(), train["image"][:, 0, 0, 0] * 255, train["label"], strict=True
    ):
        # value = λ index + (1 - λ) partner; λ is read from the label where the classes differ
        share = float(label[index % 4])
        if 0.01 < share < 0.99:
            partner = (float(value) - share * index) / (1 - share)
            assert partner == pytest.approx(round(partner), abs=0.05)
            assert round(partner) in trained
            assert float(label[round(partner) % 4]) == pytest.approx(1 - share, abs=1e-5)
            solved += 1
    assert solved >= 10


def test_mixup_share_follows_beta():
    data = Digits(batch_size=1437, mixup=0.4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    hard = torch.as_tensor(data.train_set.dataset.fields["label"])[batch["index"]]
    share = batch["label"].gather(1, hard[:, None])
    # E[y of the own class] = 1/2 + 1/2 P(partner of the same class)
    assert float(share.mean()) == pytest.approx(0.55, abs=0.05)
    # Beta(0.4, 0.4) has the variance 1 / (4 (2 α + 1)) = 0.139, a uniform share 0.083
    mixed = share[share < 1]
    assert float(mixed.var()) == pytest.approx(0.139, abs=0.015)


@pytest.mark.parametrize("arguments", [{"mixup": 0.5}, {"augment": [v2.RandomCrop(3, padding=1)]}])
def test_augmented_samples_do_not_depend_on_batches_or_global_generators(arguments):
    first = train_rows(ready(batch_size=40, val_size=0, **arguments))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = train_rows(ready(batch_size=7, val_size=0, **arguments))
    assert torch.equal(torch.get_rng_state(), before)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_mixup_mixes_the_noisy_label_and_keeps_the_clean_one():
    data = ready(val_size=0, mixup=1e-4, label_noise=LabelNoise("pair", rate=1.0))
    train = train_rows(data)
    assert train["clean_label"].dtype == torch.int64
    # α near 0: λ is 0 or 1, so the label is the own one or another's
    noisy = F.one_hot((train["index"] + 1) % 4, 4).float()
    own = (train["label"] - noisy).abs().sum(1) < 1e-6
    assert 0.3 < own.double().mean() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixup": -1.0}, "mixup must be at least 0"),
        ({"mean": [0.5]}, "mean and std must be given together"),
        ({"mean": [0.5], "std": [0.0]}, "positive std"),
        ({"mean": [0.5], "std": [1.0, 1.0]}, "as many values each"),
        ({"mean": [0.5] * 3, "std": [1.0] * 3}, "3 values for images of 2 channels"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ready(**arguments)


def test_setup_reads_once():
    data = ready()
    images = data.train_set
    data.setup("test")
    assert data.train_set is images


def test_a_batch_without_augmentation_is_one_indexing_operation(monkeypatch):
    data = ready(label_noise=LabelNoise(rate=0.2), mean=[0.5], std=[0.5])
    monkeypatch.setattr(ImageSet, "__getitem__", lambda *_: pytest.fail("read row by row"))
    assert len(train_rows(data)["index"]) == 36


@pytest.mark.parametrize("transform", [v2.Resize(6), v2.RandomCrop(2), v2.Grayscale(3)])
def test_an_augmentation_that_changes_the_shape_is_refused_at_start(transform):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"augment makes images of shape .*evaluation has \[1, 8"):
        Digits(augment=[transform]).setup("fit")
    assert torch.equal(torch.get_rng_state(), before)


class Uneven(Tiny):
    """40 images: 28 of class 0, 8 of class 1, 4 of class 2, none of class 3."""

    def read(self):
        train, _, test = super().read()
        train.fields["label"] = torch.tensor([0] * 28 + [1] * 8 + [2] * 4)[torch.randperm(40)]
        return Splits(train, None, test)


@pytest.mark.parametrize(("val_size", "counts"), [(10, [7, 2, 1]), (0.5, [14, 4, 2]), (0, [0] * 3)])
def test_a_stratified_split_has_the_share_of_every_class(val_size, counts):
    data = Uneven(val_size=val_size, stratify=True)
    data.setup("fit")
    label = data.train_set.dataset.fields["label"]
    held_out = [] if data.val_set is None else list(data.val_set.indices)
    assert label[held_out].bincount(minlength=3).tolist() == counts
    assert sorted(held_out + list(data.train_set.indices)) == list(range(40))


def test_a_stratified_split_takes_other_rows_by_its_seed():
    held_out = [
        ready(val_size=8, stratify=True, split_seed=seed).val_set.indices for seed in (0, 1)
    ]
    assert held_out[0] != held_out[1]


def test_balanced_classes_are_drawn_equally_often():
    data = Uneven(batch_size=8, val_size=0, balance_classes=True)
    data.setup("fit")
    count = torch.zeros(3)
    for _ in range(50):
        for batch in data.train_dataloader():
            assert torch.equal(
                batch["label"], data.train_set.dataset.fields["label"][batch["index"]]
            )
            count += batch["label"].bincount(minlength=3)
        data.seed += 1
    assert count.sum() == 50 * 40
    assert (count / count.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)
    with pytest.raises(ValueError, match="balance_classes draws from all rows: drop shards"):
        Uneven(balance_classes=True, shards=2)


@pytest.mark.parametrize(
    "wrap", [lambda data: Bags(data, 2), WholeSet, lambda data: DomainPair(data, Digits())]
)
def test_data_that_make_the_batches_refuse_balanced_classes(wrap):
    with pytest.raises(ValueError, match="makes the batches: drop Digits's balance_classes"):
        wrap(Digits(balance_classes=True))
