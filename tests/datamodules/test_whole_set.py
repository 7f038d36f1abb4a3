import pytest
import torch
from PIL import Image

from datamodules import (
    Bags,
    ClassificationData,
    Digits,
    IDXImages,
    ImageFolder,
    ImageList,
    LabelNoise,
    RenderedFaces,
    Tabular,
    WholeSet,
)
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from framework.data.facts import facts_of
from tests.helpers.data import shared_data
from tests.helpers.tiny import TinyModule, tiny_trainer


class Tiny(ClassificationData):
    """Image i of the parts in turn is constant i / 255 and has the label i mod 5."""

    num_classes = 5
    input_shape = (1, 2, 2)
    sizes = (7, 4, 3)

    def read(self):
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        parts = [torch.arange(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]
        images = [
            ImageSet(image=part.byte().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), label=part % 5)
            for part in parts
        ]
        self.class_names = list("abcde")
        return Splits(*images)


def ready(data=None, **arguments):
    whole = WholeSet(Tiny() if data is None else data, **{"batch_size": 4, **arguments})
    whole.setup("fit")
    return whole


def joined(loader):
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_all_parts_are_one_set_for_all_purposes():
    data = ready(eval_batch_size=5)
    assert data.train_set is data.val_set is data.test_set is data.predict_set
    assert data.num_samples == 14
    train = joined(data.train_dataloader())
    assert train["index"].tolist() != list(range(14)), "shuffled"
    for loader in (
        data.val_dataloader(),
        data.test_dataloader(),
        data.predict_dataloader(),
        data.ordered_train_dataloader(),
    ):
        assert [len(batch["index"]) for batch in loader] == [5, 5, 4]
        assert joined(loader)["index"].tolist() == list(range(14))
    for found in (train, joined(data.val_dataloader())):
        assert sorted(found) == ["image", "index", "label"]
        torch.testing.assert_close(found["image"][:, 0, 1, 1], found["index"] / 255)
        assert torch.equal(found["label"], found["index"] % 5)


@pytest.mark.parametrize(
    ("parts", "first", "size"),
    [(["train"], 0, 7), (["val"], 7, 4), (["test"], 11, 3), (["test", "val"], 7, 7)],
)
def test_parts_come_in_the_order_train_val_test(parts, first, size):
    found = joined(ready(parts=parts).val_dataloader())
    assert found["index"].tolist() == list(range(size))
    torch.testing.assert_close(found["image"][:, 0, 0, 0], (first + torch.arange(size)) / 255)
    assert torch.equal(found["label"], (first + torch.arange(size)) % 5)


def test_nothing_is_split_off_the_training_set():
    plain = Digits(val_size=0)
    plain.setup()
    parts = [joined(loader) for loader in (plain.train_dataloader(), plain.test_dataloader())]
    order = parts[0]["index"].argsort()
    found = joined(ready(Digits(val_size=1600, split_seed=0)).val_dataloader())
    assert found["index"].tolist() == list(range(1797))
    for name in ("image", "label"):
        assert torch.equal(found[name], torch.cat([parts[0][name][order], parts[1][name]])), name


def test_source_tells_what_its_images_are():
    data = WholeSet(Tiny(), batch_size=3)
    assert (data.num_classes, data.input_shape, data.class_names) == (5, (1, 2, 2), None)
    assert data.normalize is None
    data.setup("fit")
    assert data.class_names == list("abcde"), "read from the files"
    assert (data.num_classes, data.input_shape) == (5, (1, 2, 2))
    digits = WholeSet(Digits(batch_size=7, eval_batch_size=8), batch_size=3)
    assert digits.class_names == tuple("0123456789")
    assert (digits.num_classes, digits.input_shape) == (10, (1, 8, 8))
    assert (digits.batch_size, digits.eval_batch_size) == (3, 3)


def test_images_are_scaled_as_the_source_says():
    data = ready(Digits(mean=[0.5], std=[0.5]), batch_size=1797)
    plain = joined(ready(Digits(), batch_size=1797).val_dataloader())["image"]
    for loader in (data.train_dataloader(), data.val_dataloader(), data.ordered_train_dataloader()):
        image = joined(loader)["image"]
        assert (image.min(), image.max()) == (-1, 1)
    assert torch.equal(image, 2 * plain - 1)
    with pytest.raises(ValueError, match="mean has 3 values for images of 1 channels"):
        ready(Digits(mean=[0.5] * 3, std=[0.5] * 3))


def test_workers_change_nothing():
    alone, data = ready(), ready(num_workers=2)
    for loader in ("train_dataloader", "val_dataloader"):
        pairs = zip(getattr(alone, loader)(), getattr(data, loader)(), strict=True)
        for expected, found in pairs:
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_batches_are_those_of_the_base_class():
    assert [len(b["index"]) for b in ready(drop_last=True).train_dataloader()] == [4, 4, 4]
    for batch in ready(shards=2, batch_size=2).train_dataloader():
        assert sorted((batch["index"] % 2).tolist()) == [0, 1]
    data = ready()
    images = data.train_set
    data.setup("test")
    assert data.train_set is images, "reads once"


def fit_tiny(folder, **settings):
    torch.manual_seed(0)
    module = TinyModule()
    module.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    data = WholeSet(Threes(mean=[0.03], std=[0.03]), batch_size=5)
    tiny_trainer(folder, [], False, **settings).fit(module, datamodule=data)
    return [p.detach().clone() for p in module.parameters()]


class Threes(Tiny):
    num_classes = 3

    def read(self):
        parts = super().read()
        for part in parts:
            part.fields["label"] = part.fields["label"] % 3
        return parts


def test_two_ranks_take_the_steps_of_one_process(two_ranks, tmp_path):
    alone = fit_tiny(tmp_path)
    for rank in two_ranks(fit_tiny, tmp_path, devices=2, strategy="ddp"):
        torch.testing.assert_close(rank, alone, atol=1e-6, rtol=1e-5)


def test_files_are_joined_too(tmp_path):
    for part, names in (("train", "ab"), ("test", "b")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                gray = 100 * (part == "test") + 20 * number + ord(name) - ord("a")
                path = tmp_path / part / name / f"{number}.png"
                Image.new("L", (3, 3), gray).save(path)
    data = ready(ImageFolder(str(tmp_path), image_size=2, channels=1))
    found = joined(data.val_dataloader())
    gray = found["image"][:, 0, 0, 0].mul(255).round().int()
    assert gray.tolist() == [0, 20, 1, 21, 101, 121]
    assert found["label"].tolist() == [0, 0, 1, 1, 1, 1]
    assert data.class_names == ["a", "b"]


class Without(Tiny):
    def read(self):
        return Splits(super().read().train, None, None)


class Empty(Tiny):
    sizes = (0, 0, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WholeSet(Digits(label_noise=LabelNoise())), ValueError, "drop Digits's label_no"),
        (lambda: WholeSet(Digits(mixup=0.1)), ValueError, "in training too: drop Digits's mixup"),
        (lambda: WholeSet(Digits(augment=[torch.nn.ReLU()])), ValueError, "drop Digits's augment"),
        (lambda: WholeSet(Digits(shards=2)), ValueError, "give it Digits's shards"),
        (lambda: WholeSet(Digits(drop_last=True)), ValueError, "give it Digits's drop_last"),
        (lambda: WholeSet(Tabular()), TypeError, "wraps datamodules of images, and Tabular is"),
        (lambda: WholeSet(Bags(Digits(), 5)), TypeError, "and Bags is none"),
        (lambda: WholeSet(Tiny(), parts=[]), ValueError, r"each once, got \[\]"),
        (lambda: WholeSet(Tiny(), parts=["val", "val"]), ValueError, "each once, got"),
        (lambda: WholeSet(Tiny(), parts=["predict"]), ValueError, "some of train, val and test"),
        (lambda: ready(Without(), parts=["test"]), ValueError, "no part 'test' of its own, only t"),
        (lambda: ready(Digits(), parts=["val"]), ValueError, "'val' of its own, only train and te"),
        (lambda: ready(Empty(), parts=["train", "val"]), ValueError, "no image in train and val"),
        (lambda: ready(RenderedFaces()), TypeError, "RenderedFaces serves more than images"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_empty_part_is_no_harm():
    assert len(ready(Empty()).train_set) == 3


def test_real_mnist():
    mnist = IDXImages(str(shared_data("mnist")), mean=[0.5], std=[0.5])
    whole, test = ready(mnist), ready(mnist, parts=["test"], batch_size=10_000)
    assert (whole.num_samples, test.num_samples) == (70_000, 10_000)
    (batch,) = test.ordered_train_dataloader()
    assert (batch["image"].min(), batch["image"].max()) == (-1, 1)
    assert float(batch["image"].mean()) == pytest.approx(2 * 0.13251 - 1, abs=2e-5)
    (part,) = whole.ordered_train_dataloader([59_999, 60_000, 69_999])
    assert part["index"].tolist() == [59_999, 60_000, 69_999]
    assert torch.equal(part["image"][1:], batch["image"][[0, -1]])
    labels = whole.train_set.fields["label"]
    assert labels[:60_000].bincount().tolist()[:3] == [5923, 6742, 5958]
    assert torch.equal(labels[60_000:], batch["label"])


def test_a_folder_that_has_changed_is_named(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    facts = facts_of(ready(ImageList(str(tmp_path))))
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    data = WholeSet(ImageList(str(tmp_path)))
    with pytest.warns(UserWarning, match="has changed since the training") as said:
        data.use_facts(facts)
    assert all(f"in {tmp_path.resolve()} has" in str(warning.message) for warning in said)
