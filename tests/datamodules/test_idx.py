import gzip
import struct

import pytest
import torch

from datamodules import IDXImages, LabelNoise
from datamodules.idx import read_idx
from tests.helpers.data import shared_data

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(tensor):
    header = struct.pack(f">BBBB{tensor.ndim}I", 0, 0, 8, tensor.ndim, *tensor.shape)
    return header + bytes(tensor.flatten().tolist())


def write_set(folder, rows=6, zipped=False):
    """Write a data set whose image i is constant i."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", rows), ("t10k", 3)):
        image = torch.arange(count).view(-1, 1, 1).expand(-1, 4, 5)
        for name, content in (
            (f"{part}-images-idx3-ubyte", idx(image)),
            (f"{part}-labels-idx1-ubyte", idx(torch.arange(count) % 3)),
        ):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


def ready(root, **arguments):
    data = IDXImages(str(root), num_classes=3, **{"val_size": 2, **arguments})
    data.setup("fit")
    return data


@pytest.mark.parametrize("inside", [".", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_finds_the_files(tmp_path, inside, zipped):
    write_set(tmp_path / inside, zipped=zipped)
    data = ready(tmp_path)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 1, 4, 5)
    assert data.input_shape == (1, 4, 5)
    torch.testing.assert_close(batch["image"][:, 0, 3, 4], batch["index"] / 255)
    assert torch.equal(batch["label"], batch["index"] % 3)
    assert len(next(iter(data.test_dataloader()))["index"]) == 3


@pytest.mark.parametrize("layout", ["{0}.{1}", "{0}-{1}/{0}-{1}"])
def test_finds_the_files_of_kaggle(tmp_path, layout):
    write_set(tmp_path / "plain")
    for path in (tmp_path / "plain").iterdir():
        *words, kind, byte = path.name.split("-")
        place = tmp_path / "kaggle" / layout.format("-".join(words), f"{kind}-{byte}")
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    data = ready(tmp_path / "kaggle")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [4, 2, 3]


def test_two_data_sets_in_one_folder_are_refused(tmp_path):
    for name in ("MNIST", "FashionMNIST"):
        write_set(tmp_path / name / "raw")
    with pytest.raises(ValueError, match=r"holds .*MNIST/raw and .*FashionMNIST/raw: set root"):
        ready(tmp_path)


def test_missing_file_is_named(tmp_path):
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte or .*\.gz is in none of"):
        ready(tmp_path)


GOOD = idx(torch.zeros(3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bytes 0..3 are  instead of the magic number 00 00 08 03"),
        (b"\x1f\x8b" + GOOD[2:], "bytes 0..3 are 1f 8b 08 03 instead of"),
        (GOOD[:3] + b"\x01" + GOOD[4:], "bytes 0..3 are 00 00 08 01"),
        (GOOD[:9], "ends at byte 9, inside its header"),
        (GOOD[:-1], r"ends at byte 27 of 28, in item 2 of 3"),
        (GOOD[:16], r"ends at byte 16 of 28, in item 0 of 3"),
        (GOOD + b"\x00\x00", r"more bytes follow byte 28, where the 3 items"),
        (GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:], r"impossible shape \[-1, 2, 2\]"),
        (GOOD[:8] + b"\x00\x00\x00\x00" + GOOD[12:], r"impossible shape \[3, 0, 2\]"),
    ],
)
@pytest.mark.parametrize("name", [IMAGES, f"{IMAGES}.gz"])
def test_damaged_file(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=f"{name}: .*{message}") as error:
        read_idx(path, ndim=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [4, 20, -9])
def test_truncated_gzip(tmp_path, cut):
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(GOOD)[:cut])
    with pytest.raises(ValueError, match=r"gz: the gzip stream breaks after \d+ unpacked bytes"):
        read_idx(path, ndim=3)


def test_not_gzip(tmp_path):
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"gz: the gzip stream breaks after 0 unpacked bytes"):
        read_idx(path, ndim=3)


def test_label_outside_the_classes(tmp_path):
    write_set(tmp_path)
    (tmp_path / LABELS).write_bytes(idx(torch.tensor([0, 1, 2, 0, 3, 9])))
    with pytest.raises(ValueError, match=rf"{LABELS}: item 4 has the label 3, .* 3 classes 0\.\.2"):
        ready(tmp_path)


def test_numbers_of_images_and_labels_differ(tmp_path):
    write_set(tmp_path)
    (tmp_path / LABELS).write_bytes(idx(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=rf"{LABELS} has 2 labels for the 6 images of .*{IMAGES}"):
        ready(tmp_path)


def test_train_and_test_sizes_differ(tmp_path):
    write_set(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(torch.zeros(3, 2, 2, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"training images are \(4, 5\), test images \(2, 2\)"):
        ready(tmp_path)


def test_class_names(tmp_path):
    assert IDXImages(str(tmp_path)).class_names == list("0123456789")
    with pytest.raises(ValueError, match="2 class_names for 10 classes"):
        IDXImages(str(tmp_path), class_names=["a", "b"])


def test_real_mnist():
    data = IDXImages(str(shared_data("mnist")), label_noise=LabelNoise(rate=0.4))
    data.setup("fit")
    full, test = data.train_set.dataset.fields, data.test_set.fields
    assert full["image"].shape == (60_000, 1, 28, 28)
    assert test["image"].shape == (10_000, 1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(full["clean_label"]).tolist() == counts
    means = [
        part["image"].sum(dtype=torch.int64) / part["image"].numel() / 255 for part in (full, test)
    ]
    assert [float(mean) for mean in means] == pytest.approx([0.13066, 0.13251], abs=5e-6)
    assert len(data.train_set) == 55_000
    noise = (full["label"] != full["clean_label"]).double().mean()
    assert float(noise) == pytest.approx(0.36, abs=0.01)
    batch = next(iter(data.train_dataloader()))
    row = int(batch["index"][5])
    torch.testing.assert_close(batch["image"][5], full["image"][row] / 255)
