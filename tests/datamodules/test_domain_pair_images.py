"""What becomes of the images of two domains, small and real."""

import pytest
import torch
from torchvision.transforms import v2

from datamodules import (
    USPS,
    DomainPair,
    IDXImages,
    ImageFolder,
    ImageList,
    MatFeatures,
    RotatedDigits,
)
from framework.data import raw_inputs
from framework.data.image_files import open_image
from tests.datamodules.domains import Tiny, guide, joined, pair, write_domain
from tests.helpers.data import shared_data


def test_domains_of_other_channels_and_sizes_are_brought_together():
    target = Tiny(30, first=20, channels=3, size=6, mean=[0.0, 0.1, 0.2], std=[0.5] * 3)
    data = pair(Tiny(mean=[0.5], std=[0.25]), target, image_size=5, crop=2)
    assert data.input_shape == (3, 2, 2)
    for batch in (
        joined(data.train_dataloader()),
        joined(data.val_dataloader()),
        joined(data.ordered_train_dataloader()),
        guide(data),
    ):
        value = (batch["index"] / 255)[:, None]
        normalized = torch.where(
            batch["domain"][:, None] == 0,
            ((value - 0.5) / 0.25).expand(-1, 3),
            (value - torch.tensor([[0.0, 0.1, 0.2]])) / 0.5,
        )
        expected = normalized[:, :, None, None].expand(-1, 3, 2, 2)
        torch.testing.assert_close(batch["image"], expected)


def test_augmentation_sees_images_in_0_1_of_the_full_size_in_training_alone():
    shapes = set()

    class Inverted(torch.nn.Module):
        def forward(self, image):
            shapes.add(tuple(image.shape))
            return 1 - image[:, :3, :3]

    target = Tiny(30, first=20, mean=[0.25], std=[2.0])
    data = pair(Tiny(mean=[0.5], std=[0.5]), target, crop=3, augment=[Inverted()])
    train = joined(data.train_dataloader())
    assert shapes == {(1, 4, 4)}

    def normalized(value, batch):
        return torch.where(batch["domain"] == 0, (value - 0.5) / 0.5, (value - 0.25) / 2)

    raw = train["index"] / 255
    torch.testing.assert_close(train["image"][:, 0, 2, 2], normalized(1 - raw, train))
    assert train["image"].shape[1:] == data.input_shape == (1, 3, 3)
    assert train["label"][1::2].eq(-1).all()
    for batch in (
        joined(data.val_dataloader()),
        joined(data.ordered_train_dataloader()),
        guide(data),
    ):
        assert batch["image"].shape[1:] == (1, 3, 3)
        torch.testing.assert_close(
            batch["image"][:, 0, 0, 0], normalized(batch["index"] / 255, batch)
        )
    assert sorted(joined(data.ordered_train_dataloader())["index"].tolist()) == sorted(
        train["index"].unique().tolist()
    )


def test_augmentation_where_nothing_is_held_out():
    scaled = {"mean": [0.0], "std": [0.5]}
    domains = Tiny(**scaled), Tiny(30, first=20, **scaled)
    data = pair(*domains, held_out=0, augment=[v2.RandomInvert(p=1.0)])
    train, plain = joined(data.train_dataloader()), joined(data.ordered_train_dataloader())
    torch.testing.assert_close(train["image"][:, 0, 0, 0], 2 * (1 - train["index"] / 255))
    torch.testing.assert_close(plain["image"][:, 0, 0, 0], 2 * torch.arange(50) / 255)


def rows_of(data, epoch=0):
    """Return the image of every index of an epoch, of which the last is kept."""
    data._start = lambda: (epoch, 0)
    train = joined(data.train_dataloader())
    return {int(index): image for index, image in zip(train["index"], train["image"], strict=True)}


def test_augmentation_is_a_function_of_seed_epoch_and_index(monkeypatch):
    arguments = {"augment": [v2.RandomAffine(0, translate=(0.5, 0.5))], "held_out": 0.1}
    first = rows_of(pair(**arguments))
    torch.manual_seed(99)
    other = rows_of(pair(batch_size=6, num_workers=2, **arguments))
    assert first.keys() == other.keys()
    assert all(torch.equal(first[index], other[index]) for index in first)
    changed = rows_of(pair(**arguments), epoch=1)
    assert sum(not torch.equal(first[index], changed[index]) for index in first) > 20


def test_augmentation_that_makes_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"images of shape \[1, 3, 3\], .* set crop to"):
        pair(augment=[v2.RandomCrop(3)])
    data = pair(augment=[v2.RandomCrop(3)], crop=3)
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 1, 3, 3)


def test_any_two_folders_of_classes_are_domains_decoded_when_read(tmp_path, monkeypatch):
    amazon = write_domain(tmp_path / "amazon", 0, "png", "RGB")
    webcam = write_domain(tmp_path / "webcam", 100, "bmp", "L", count=5)
    decoded = []
    monkeypatch.setattr(
        raw_inputs, "open_image", lambda path: decoded.append(path) or open_image(path)
    )
    data = pair(
        ImageFolder(amazon, image_size=4, resize=5),
        ImageFolder(webcam, image_size=4, channels=1),
        crop=2,
        batch_size=4,
    )
    assert (data.class_names, data.input_shape, data.num_samples) == (
        ["bike", "mug"],
        (3, 2, 2),
        22,
    )
    assert not decoded
    next(iter(data.train_dataloader()))
    assert len(decoded) == 4
    val = joined(data.val_dataloader())
    gray = val["image"].mul(255).round().int()
    assert gray.flatten(1).unique(dim=1).shape[1] == 1, "of one color"
    expected = [*range(6), *range(10, 16), *range(100, 105), *range(110, 115)]
    assert gray[:, 0, 0, 0].tolist() == expected
    assert val["label"].tolist() == [0] * 6 + [1] * 6 + [0] * 5 + [1] * 5


def test_a_target_without_labels(tmp_path):
    write_domain(tmp_path / "source", 0, "png", "RGB")
    write_domain(tmp_path / "target", 100, "png", "RGB")
    data = pair(
        ImageFolder(str(tmp_path / "source"), image_size=4),
        ImageList(str(tmp_path / "target"), image_size=4),
    )
    val = joined(data.val_dataloader())
    assert val["label"].tolist() == [0] * 6 + [1] * 6 + [-1] * 12
    assert joined(data.test_dataloader())["label"].eq(-1).all()
    assert data.num_classes == 2


# ---- real data ----------------------------------------------------------------------------------


def test_digits_turned():
    data = DomainPair(RotatedDigits("first"), RotatedDigits("second", 25))
    data.setup("fit")
    assert (data.num_samples, len(data.train_set), len(data.guide_set)) == (1797, 1707, 90)
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [64] * 28 + [8]
    val = joined(data.val_dataloader())
    assert len(val["index"]) == 1797
    assert int(val["held_out"].sum()) == 90
    assert val["label"][val["domain"] == 1].bincount().min() > 75


@pytest.mark.parametrize("image_size", [28, 16])
def test_real_mnist_and_usps(image_size):
    mnist = IDXImages(str(shared_data("mnist")), mean=[0.1307], std=[0.3081])
    usps = USPS(str(shared_data("usps")), mean=[0.2545], std=[0.3687])
    data = DomainPair(mnist, usps, image_size=image_size, eval_batch_size=2048)
    data.setup("fit")
    assert data.num_samples == 60_000 + 7_291
    assert (len(data.guide_set), len(data.test_set)) == (729, 2_007)
    assert data.input_shape == (1, image_size, image_size)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (64, 1, image_size, image_size)
    assert batch["label"][::2].min() >= 0
    val = joined(data.val_dataloader())
    assert len(val["index"]) == 1000 + 7_291
    counts = [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    assert val["label"][1000:].bincount().tolist() == counts
    for domain in (0, 1):  # resizing keeps the mean
        assert float(val["image"][val["domain"] == domain].mean()) == pytest.approx(0, abs=0.03)


def test_real_office_caltech_features():
    folder = shared_data("office_caltech10_surf")
    amazon, webcam = (
        MatFeatures(str(folder / f"{name}_SURF_L10.mat"), standardize=True)
        for name in ("amazon", "webcam")
    )
    data = DomainPair(amazon, webcam, batch_size=32)
    data.setup("fit")
    assert (data.num_classes, data.input_shape, data.num_samples) == (10, (800, 1, 1), 958 + 295)
    assert len(list(data.train_dataloader())) == 60, "958 pairs, 16 at a time"
    deep = MatFeatures(str(shared_data("office_caltech10_decaf6", "dslr.mat")), features="feas")
    with pytest.raises(ValueError, match="of 800 channels and the target of 4096"):
        DomainPair(amazon, deep).setup("fit")


def test_real_shallow_mnist_and_usps():
    path = str(shared_data("mnist_usps_mat", "MNIST_vs_USPS.mat"))
    source, target = (
        MatFeatures(path, f"X_{side}", f"Y_{side}", columns=True, shape=[1, 16, 16])
        for side in ("src", "tar")
    )
    data = DomainPair(source, target)
    data.setup("fit")
    assert (data.num_samples, len(data.guide_set), data.num_classes) == (3800, 180, 10)
    assert next(iter(data.train_dataloader()))["image"].shape == (64, 1, 16, 16)
