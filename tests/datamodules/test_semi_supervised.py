"""Few rows keep their labels: which ones, what unlabeled rows look like, and resuming."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torchvision.transforms.v2 import (
    CenterCrop,
    GaussianNoise,
    RandomHorizontalFlip,
    RandomRotation,
)

from datamodules import (
    BaseAndNovel,
    BreastCancer,
    Digits,
    LongTailed,
    RotatedDigits,
    SemiSupervised,
    TwoViews,
)
from framework.data.datasets import root_and_rows
from framework.data.facts import facts_of
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

SMALL = {"test_size": 1500, "val_size": 97}  # 200 rows are left to train


def digits(data=None, **arguments):
    wrapped = Digits(**SMALL) if data is None else data
    options = {"batch_size": 12, "labeled_per_batch": 4, "labeled": 40, **arguments}
    found = SemiSupervised(wrapped, **options)
    found.setup("fit")
    return found


def rows(data):
    """Return the labels that are trained and their rows, and the rows without a label."""
    root, own = root_and_rows(data.train_set, list(range(len(data.train_set))))
    own = torch.tensor(own)
    label = root.fields["label"][own]
    known = label != -100
    return label[known], own[known], own[~known]


def test_labels_are_kept_in_the_shares_of_the_classes():
    data, plain = digits(), Digits(**SMALL)
    plain.setup("fit")
    label, known, hidden = rows(data)
    truth = plain.train_set.dataset.fields["label"]
    assert torch.equal(label, truth[known])
    assert len(known) == data.num_labeled == 40
    assert len(hidden) == 160
    assert sorted([*known.tolist(), *hidden.tolist()]) == sorted(plain.train_set.indices)
    share = truth[torch.tensor(plain.train_set.indices)].bincount() / 5
    assert (label.bincount() - share).abs().max() <= 1
    fewer = rows(digits(labeled=20))[1]
    assert set(fewer.tolist()) < set(known.tolist())  # more labels keep those of fewer
    assert not torch.equal(rows(digits(split_seed=1))[1], known)
    assert torch.equal(rows(digits(split_seed=0))[1], known)


def test_so_many_of_each_class():
    assert rows(digits(labeled=3, per_class=True))[0].bincount().tolist() == [3] * 10
    tailed = digits(LongTailed(Digits(), 10.0), labeled=5, per_class=True)
    assert rows(tailed)[0].bincount().tolist() == [5] * 10
    with pytest.raises(ValueError, match="more than the 14 training rows of the smallest class"):
        digits(LongTailed(Digits(), 10.0), labeled=15, per_class=True)


def test_batches_pair_both_kinds_and_keep_the_index():
    data, plain = digits(), Digits(**SMALL)
    plain.setup("fit")
    found = list(data.train_dataloader())
    assert len(found) == 20
    for batch in found:
        assert sorted(batch) == ["image", "index", "label"]
        assert (batch["label"] != -100).sum() == 4
        assert len(batch["label"]) == 12
    images = plain.train_set.dataset.fields["image"]
    assert torch.equal(batch["image"], images[batch["index"]])
    assert facts_of(data) == facts_of(plain)
    assert torch.equal(data.test_set.fields["label"], plain.test_set.fields["label"])
    assert data.num_samples == 297
    assert [len(part) for part in (data.val_set, data.test_set)] == [97, 1500]


def test_a_transform_shifts_unlabeled_rows_once_and_before_the_normalization():
    class Brighter(nn.Module):
        def forward(self, image):
            return image + 1

    mean, std = [0.25], [0.5]
    plain, moved = (
        digits(Digits(mean=mean, std=std)),
        digits(Digits(mean=mean, std=std), transform=[Brighter()]),
    )
    one, other = (next(iter(data.train_dataloader())) for data in (plain, moved))
    known = one["label"] != -100
    assert torch.equal(one["index"], other["index"])
    assert torch.equal(one["image"][known], other["image"][known])
    torch.testing.assert_close(other["image"][~known], one["image"][~known] + 2)

    noisy = digits(transform=[GaussianNoise(sigma=0.2), RandomRotation(30)])
    read = noisy.train_set.dataset.batch
    first = read(noisy.train_set.indices[-5:])
    torch.manual_seed(5)
    assert torch.equal(read(noisy.train_set.indices[-5:])["image"], first["image"])
    assert not torch.equal(first["image"][0], first["image"][1])
    clean = digits().train_set.dataset.batch(noisy.train_set.indices[-5:])["image"]
    assert (first["image"] - clean).abs().mean() > 0.02
    assert read([])["image"].shape == (0, 1, 8, 8)


def test_unlabeled_rows_of_another_domain():
    data = digits(RotatedDigits("first"), unlabeled=RotatedDigits("second", 25), num_unlabeled=50)
    other = RotatedDigits("second", 25)
    other.setup("fit")
    _, known, hidden = rows(data)
    assert known.max() < 900 <= hidden.min()
    assert (len(known), len(hidden), data.num_samples) == (40, 50, 900 + 897)
    batch = data.train_set.dataset.batch(torch.stack([hidden[3], known[0], hidden[9]]))
    images = other.train_set.dataset.fields["image"]
    assert torch.equal(batch["image"][[0, 2]], images[hidden[[3, 9]] - 900])
    assert batch["label"].tolist()[::2] == [-100, -100]


def test_augmentation_of_the_wrapped_data_and_its_normalization_stay():
    flip = [RandomHorizontalFlip(p=1.0)]
    data = digits(Digits(mean=[0.5], std=[0.5], augment=flip))
    plain = digits(Digits(mean=[0.5], std=[0.5]))
    one, other = (next(iter(d.train_dataloader())) for d in (data, plain))
    torch.testing.assert_close(one["image"].flip(-1), other["image"])
    ordered, clean = (next(iter(d.ordered_train_dataloader())) for d in (data, plain))
    assert torch.equal(ordered["image"], clean["image"])


@pytest.mark.parametrize("augment", [None, [RandomHorizontalFlip(p=1.0)]])
def test_the_normalization_of_data_that_are_wrapped_twice_stays(augment):
    inner = Digits(mean=[0.25], std=[0.5], augment=augment, **SMALL)
    data = digits(LongTailed(inner, 2.0), labeled=20)
    for loader in (data.ordered_train_dataloader(), data.train_dataloader()):
        image = next(iter(loader))["image"]
        assert float(image.min()) == pytest.approx(-0.5)
        assert float(image.max()) == pytest.approx(1.5)


def test_unlabeled_rows_are_prepared_as_the_labeled_ones():
    data = digits(BreastCancer(), labeled=10, unlabeled=BreastCancer(val_size=150))
    assert torch.equal(data.unlabeled.input_mean, data.data.input_mean)
    some = digits(
        Digits(mean=[0.5], std=[0.5], **SMALL),
        unlabeled=BaseAndNovel(Digits(), val_classes=2, test_classes=2, ways=2),
    )
    root, (_, known, hidden) = some.train_set.dataset, rows(some)
    assert len(hidden) == len(some.unlabeled.train_set)
    novel = some.unlabeled.train_set.batch(hidden[:9] - len(root.sources[0]))["image"]
    torch.testing.assert_close(root.batch(hidden[:9])["image"], 2 * novel - 1)
    first = root.sources[0].read(known[:9])["image"]
    torch.testing.assert_close(root.batch(known[:9])["image"], 2 * first - 1)


def test_rows_of_a_table():
    data = digits(BreastCancer(), labeled=10, batch_size=8, labeled_per_batch=2)
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch) == ["index", "input", "label"]
    assert batch["input"].shape == (8, 30)
    assert (batch["label"] != -100).sum() == 2


def test_holding_out_takes_of_both_kinds():
    data = digits()
    data.hold_out(0.25)
    label, _, hidden = rows(data)
    assert (len(label), len(hidden)) == (30, 120)
    held = {data.guide_set[k]["label"].item() for k in range(len(data.guide_set))}
    assert len(data.guide_set) == 50
    assert -100 in held
    assert max(held) >= 0
    assert all((batch["label"] != -100).sum() == 4 for batch in data.train_dataloader())


def test_a_batch_is_never_of_one_row():
    """161 rows in batches of 32 would end in one row, which batch norm refuses."""
    data = digits(num_unlabeled=121, batch_size=32)
    assert len(data.train_set) % 32 == 1
    assert min(len(batch["label"]) for batch in data.train_dataloader()) >= 2
    assert data.never_one_row


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumes_inside_an_epoch(tmp_path):
    class Module(TinyModule):
        def training_step(self, batch, batch_idx):
            self.seen.append(batch["index"].tolist())
            return super().training_step(batch, batch_idx)

    def run(saved, **more):
        torch.manual_seed(0)
        module = Module()
        module.seen = []
        data = SemiSupervised(TinyData(), labeled=6, labeled_per_batch=1, batch_size=4)
        keep = ModelCheckpoint(
            tmp_path / f"{saved}", "{step}", save_top_k=-1, every_n_train_steps=saved
        )
        tiny_trainer(tmp_path, [keep], False).fit(module, data, **more)
        return module

    whole = run(1)
    assert len({tuple(rows) for rows in whole.seen}) == len(whole.seen)
    for stop in (2, 7):
        path = tmp_path / "1" / f"step={stop}.ckpt"
        second = run(100 + stop, ckpt_path=path, weights_only=True)
        assert second.seen == whole.seen[stop:]
        for name, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[name])


def test_a_checkpoint_of_other_labels_is_refused():
    with pytest.raises(RuntimeError, match=r"'labeled': 40.*cannot go on with.*'labeled': 30"):
        digits(labeled=30).load_state_dict(digits().state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labeled": 0}, "labeled must be at least 1"),
        ({"labeled": 201}, "labeled=201 are more than the 200 labeled training rows of Digits"),
        ({"labeled": 200}, "There are 0 rows without a label beside the 200 labeled ones"),
        ({"num_unlabeled": 161}, "There are 160 rows without a label"),
        ({"labeled_per_batch": 12}, r"labeled_per_batch must lie in \[1, 11\]"),
        ({"batch_size": 4, "labeled_per_batch": 2, "shards": 2}, "drop shards"),
        ({"transform": [CenterCrop(4)]}, r"transform makes inputs of shape \[1, 4, 4\]"),
        ({"data": Digits(mixup=0.2)}, "switch its mixup off"),
        ({"data": Digits(balance_classes=True)}, "drop Digits's balance_classes"),
        ({"unlabeled": BreastCancer()}, r"\[1, 8, 8\] and unlabeled ones \[30\]"),
        ({"unlabeled": TwoViews(Digits())}, "TwoViews has transforms of its own"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)
