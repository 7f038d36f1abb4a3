"""Two views are functions of seed, epoch, index and number, and evaluation sees plain images."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torchvision.transforms import v2

from datamodules import (
    Bags,
    ClassIncremental,
    Digits,
    LabelNoise,
    RenderedFaces,
    Retrieval,
    Tabular,
    TwoViews,
    WholeSet,
)
from datamodules.image_datasets import ImageSet
from datamodules.view_transforms import view_transforms
from framework.data.facts import facts_of
from framework.utilities.randomness import seeded
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def few_digits(**options):
    """Return 97 training rows of 197, 100 validation rows and the others for the test."""
    return Digits(test_size=1600, val_size=100, **options)


class Noise(nn.Module):
    """A quick random transform: no two views are equal."""

    def forward(self, image):
        return image.lerp(torch.rand_like(image), 0.1)


def ready(data=None, **options):
    usual = {"batch_size": 20, "augment": [Noise()]}
    views = TwoViews(few_digits() if data is None else data, **{**usual, **options})
    views.setup("fit")
    return views


def epoch(data, number=0, rank=0, world_size=1, batches=2):
    """Return the first batches of one rank in an epoch."""
    sampler = data.train_sampler()
    sampler.rank, sampler.world_size, sampler.start = rank, world_size, lambda: (number, 0)
    loader = data._loader(data.train_set, sampler, data.augment)
    return [batch for batch, _ in zip(loader, range(batches), strict=False)]


def by_index(batches):
    return {
        int(index): (batch["image"][row], batch["image2"][row])
        for batch in batches
        for row, index in enumerate(batch["index"])
    }


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_has_two_views_of_the_same_rows():
    data = ready(augment=None)
    batch = epoch(data)[0]
    assert sorted(batch) == ["image", "image2", "index", "label"]
    assert batch["image"].shape == batch["image2"].shape == (20, 1, 8, 8)
    plain = few_digits()
    plain.setup("fit")
    for row, index in enumerate(batch["index"].tolist()):
        assert batch["label"][row] == plain.train_set.dataset[index]["label"]
        assert not torch.equal(batch["image"][row], batch["image2"][row])


def test_views_do_not_depend_on_batches_ranks_or_workers():
    one = by_index(epoch(ready(), batches=2))
    halves = [by_index(epoch(ready(), rank=rank, world_size=2, batches=2)) for rank in (0, 1)]
    assert all(halves)
    others = (
        {**halves[0], **halves[1]},
        by_index(epoch(ready(batch_size=40), batches=1)),
        by_index(epoch(ready(num_workers=2), batches=2)),
    )
    for other in others:
        assert one.keys() == other.keys()
        assert all(same(one[index], other[index]) for index in one)


def test_views_change_with_epoch_and_seed():
    data, other = ready(), ready()
    other.seed = 1
    first = by_index(epoch(data, 0, batches=9))
    for changed in (epoch(data, 1, batches=9), epoch(other, 0, batches=9)):
        found = by_index(changed)
        assert len(found) == 97
        equal = sum(same(first[index], found[index]) for index in found)
        assert equal == 0
    assert all(
        same(first[index], views) for index, views in by_index(epoch(data, 0, batches=9)).items()
    )


def test_evaluation_and_ordered_training_images_are_plain():
    data = ready(few_digits(mean=[0.5], std=[0.25]))
    plain = few_digits(mean=[0.5], std=[0.25])
    plain.setup("fit")
    pairs = (
        (data.val_dataloader(), plain.val_dataloader()),
        (data.test_dataloader(), plain.test_dataloader()),
        (data.ordered_train_dataloader(), plain.ordered_train_dataloader()),
    )
    for found, wanted in pairs:
        found, wanted = (
            {name: torch.cat([batch[name] for batch in part]) for name in ("image", "index")}
            for part in (list(found), list(wanted))
        )
        assert torch.equal(found["image"], wanted["image"])
        assert torch.equal(found["index"], wanted["index"])
    assert facts_of(data) == facts_of(plain)
    assert data.num_samples == plain.num_samples == 197


def test_views_are_made_of_images_in_the_unit_range_and_normalized_last():
    class Check(nn.Module):
        def forward(self, image):
            assert image.min() >= 0
            assert image.max() == 1
            return image

    data = ready(Digits(mean=[0.5], std=[0.5]), augment=[Check()])
    batch = epoch(data, batches=1)[0]
    assert torch.equal(batch["image"], batch["image2"])
    assert (batch["image"].min(), batch["image"].max()) == (-1, 1)
    # the wrapped data are still normalized themselves
    assert data.data.train_set[0]["image"].min() == -1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_goes_on_with_the_views_that_it_would_have_had(tmp_path):
    class Module(TinyModule):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            self.seen = []

        def training_step(self, batch, batch_idx):
            self.seen.append((batch["index"], batch["image"], batch["image2"]))
            return super().training_step(batch, batch_idx)

    def run(saved, **more):
        module = Module()
        keep = ModelCheckpoint(
            tmp_path / f"{saved}", "{step}", save_top_k=-1, every_n_train_steps=saved
        )
        data = ready(batch_size=40)
        tiny_trainer(tmp_path, [keep], False, limit_val_batches=0).fit(module, data, **more)
        return module.seen

    whole = run(1)
    assert len(whole) == 6
    for stop in (1, 4):
        rest = run(99, ckpt_path=tmp_path / "1" / f"step={stop}.ckpt", weights_only=True)
        assert len(rest) == 6 - stop
        assert all(same(one, other) for one, other in zip(rest, whole[stop:], strict=True))


def test_held_out_rows_are_not_trained():
    data = ready()
    data.hold_out(0.25)
    held = {int(i) for i in next(iter(data.guide_dataloader(2000, lambda: (0, 0))))["index"]}
    kept = by_index(epoch(data, batches=99)).keys()
    assert len(held) == 24
    assert not held & kept
    assert len(held | kept) == 97


def test_a_whole_set_has_views():
    data = ready(WholeSet(Digits(test_size=1700), parts=["train"]))
    assert data.num_samples == len(data.val_set) == 97
    assert len(by_index(epoch(data, batches=9))) == 97


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((1, 8, 8), ["RandomRotation", "RandomResizedCrop", "RandomApply"]),
        ((1, 28, 28), ["RandomRotation", "RandomResizedCrop", "RandomApply", "RandomApply"]),
        (
            (3, 32, 24),
            [
                "RandomResizedCrop",
                "RandomHorizontalFlip",
                "RandomApply",
                "RandomGrayscale",
                "RandomApply",
            ],
        ),
    ],
)
def test_usual_transforms_keep_shape_and_range(shape, names):
    steps = view_transforms(shape)
    assert [type(step).__name__ for step in steps] == names
    image = torch.rand(shape)
    with seeded(0):
        views = torch.stack([nn.Sequential(*steps)(image) for _ in range(20)])
    assert views.shape[1:] == shape
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6


def test_usual_blur_spans_a_tenth_of_the_image():
    assert [view_transforms((3, s, s))[-1].transforms[0].kernel_size[0] for s in (32, 96, 224)] == [
        3,
        9,
        23,
    ]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda: Digits(mixup=0.2), {}, "Digits makes samples of several images.*mixup off"),
        (lambda: Digits(augment=[v2.RandomRotation(5)]), {}, "Digits has transforms of its own"),
        (lambda: Digits(shards=2), {}, "give it Digits's shards"),
        (lambda: Digits(drop_last=True), {}, "give it Digits's drop_last"),
        (lambda: Digits(balance_classes=True), {}, "drop Digits's balance_classes"),
        (lambda: ClassIncremental(Digits()), {}, "wrap what ClassIncremental is made of"),
        (lambda: Bags(Digits(), bag_size=4), {}, "Bags makes samples of several images"),
        (Digits, {"augment": [v2.Resize(4)]}, r"shape \[1, 4, 4\], and evaluation has \[1, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        ready(data(), **options)


def test_data_without_images_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "\n".join(f"{i},{i % 2}" for i in range(40)))
    with pytest.raises(TypeError, match="Tabular serves no images"):
        ready(Tabular(str(path), target="b"))


class Given(TinyData):
    """Images that were given as they are."""

    def __init__(self, image):
        super().__init__()
        self.train_set = self.val_set = ImageSet(image=image, label=torch.arange(len(image)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(6, 2, 4, 4), "1 or 3 channels, not of 2: set augment"),
        (torch.rand(6, 1, 4, 4) - 1, r"one of Given lies in \[-.*: set augment"),
        (torch.full((6, 3, 4, 4), 255.0), r"one of Given lies in \[255, 255\]: set augment"),
    ],
)
def test_images_without_usual_transforms_ask_for_some(image, message):
    with pytest.raises(ValueError, match=message):
        ready(Given(image), augment=None)
    data = ready(Given(image), augment=[v2.RandomCrop(4, padding=1)])
    assert epoch(data)[0]["image2"].shape == image.shape


def test_color_images_have_usual_views_too():
    data = ready(RenderedFaces(num_identities=4, images_per_identity=5, augment=[]), augment=None)
    batch = epoch(data, batches=1)[0]
    assert batch["image"].shape == batch["image2"].shape == (20, 3, 32, 32)
    # as the faces are scaled
    assert batch["image"].min() < -0.5
    assert batch["image"].max() <= 1 + 1e-5


def test_noisy_labels_stay_beside_the_views():
    data = ready(Digits(label_noise=LabelNoise("pair", rate=0.5)))
    assert {"label", "clean_label", "image2"} <= epoch(data, batches=1)[0].keys()


def test_pairs_and_lists_are_not_images_of_one_row():
    with pytest.raises(ValueError, match="Retrieval"):
        ready(Retrieval(Digits()))
