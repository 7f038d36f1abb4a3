"""Images in NumPy's files: every usual layout gives the same images, and others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules import ImageArrays


def content(part, rows):
    """Return images of which number i is constant i, and labels i mod 3."""
    image = np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None], (rows, 5, 4))
    return {f"{part}_images": image, f"{part}_labels": np.arange(rows, dtype=np.uint8) % 3}


def kmnist(folder):
    for part, rows in (("train", 12), ("test", 6)):
        image, label = content(part, rows).values()
        np.savez_compressed(folder / f"kmnist-{part}-imgs.npz", image)
        np.savez_compressed(folder / f"kmnist-{part}-labels.npz", label)
    (folder / "kmnist_classmap.csv").touch()
    (folder / "._kmnist-train-imgs.npz").touch()
    return folder


def medmnist(folder):
    arrays = content("train", 12) | content("val", 3) | content("test", 6)
    arrays = {k: v[:, None] if "labels" in k else v[..., None] for k, v in arrays.items()}
    np.savez(folder / "medmnist.npz", **arrays)
    return folder / "medmnist.npz"


def keras(folder):
    arrays = content("train", 12) | content("test", 6)
    names = ["x_train", "y_train", "x_test", "y_test"]
    np.savez(folder / "mnist.npz", **dict(zip(names, arrays.values(), strict=True)))
    return folder / "mnist.npz"


def npy(folder):
    arrays = content("train", 12) | content("test", 6)
    for name, array in arrays.items():
        np.save(folder / f"{name.replace('train', 'Training')}.npy", array)
    return folder


@pytest.mark.parametrize(("write", "val"), [(kmnist, 2), (medmnist, 3), (keras, 2), (npy, 2)])
def test_every_layout_gives_the_same_images(tmp_path, write, val):
    data = ImageArrays(str(write(tmp_path)), val_size=2)
    data.setup("fit")
    assert (data.num_classes, data.class_names) == (3, ["0", "1", "2"])
    assert data.input_shape == (1, 5, 4)
    assert [len(part) for part in (data.val_set, data.test_set)] == [val, 6]
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        (batch,) = loader
        expected = (batch["index"] / 255).view(-1, 1, 1, 1).expand(-1, 1, 5, 4)
        torch.testing.assert_close(batch["image"], expected)
        assert torch.equal(batch["label"], batch["index"] % 3)


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [
        (np.full((6, 4, 5, 3), 51, np.uint8), (3, 4, 5)),
        (np.full((6, 3, 4, 5), 51, np.uint8), (3, 4, 5)),
        (np.full((6, 4, 5), 13107, np.uint16), (1, 4, 5)),
        (np.full((6, 4, 5), 13107, ">u2"), (1, 4, 5)),
        (np.full((6, 4, 5), 0.2), (1, 4, 5)),
    ],
)
def test_shapes_and_types(tmp_path, pixels, shape):
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=np.arange(6))
    data = ImageArrays(str(tmp_path / "a.npz"), val_size=0)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert tuple(batch["image"].shape[1:]) == shape
    torch.testing.assert_close(batch["image"], torch.full_like(batch["image"], 0.2))


LABELS = np.arange(6)


def test_what_lies_beside_the_arrays_is_not_read(tmp_path):
    options = np.array({"seed": 1}, dtype=object)
    np.savez(tmp_path / "a.npz", x_train=np.zeros((6, 4, 4)), y_train=LABELS, options=options)
    data = ImageArrays(str(tmp_path / "a.npz"), val_size=0)
    data.setup("fit")
    assert data.num_samples == 6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((6, 4)), "y_train": LABELS}, r"x_train must be of shape \(N, H, W\)"),
        ({"x_train": np.zeros((6, 4, 4, 2)), "y_train": LABELS}, r"x_train must be of shape"),
        ({"x_train": np.zeros((6, 4, 4), int), "y_train": LABELS}, "must be uint8, uint16 or floa"),
        ({"x_train": np.full((6, 4, 4), 2.0), "y_train": LABELS}, r"lie in \[0, 1\], and lie in"),
        ({"x_train": np.zeros((6, 4, 4)), "y_train": LABELS[1:]}, "y_train must be 6 integers"),
        ({"x_train": np.zeros((6, 4, 4)), "y_train": LABELS - 1}, "item 0 has the label -1"),
        ({"x_train": np.zeros((6, 4, 4)), "train_imgs": LABELS}, "are the same part of the data"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"a.npz.*{message}"):
        ImageArrays(str(tmp_path / "a.npz")).setup("fit")


def test_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is neither a file nor a folder"):
        ImageArrays(str(tmp_path / "gone")).setup("fit")
    with pytest.raises(FileNotFoundError, match="has no arrays of training images and labels"):
        ImageArrays(str(tmp_path)).setup("fit")
    path = keras(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"mnist\.npz is no complete file of numbers"):
        ImageArrays(str(path)).setup("fit")
    np.save(tmp_path / "train_images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train_images\.npy is no complete file of numbers"):
        ImageArrays(str(tmp_path)).setup("fit")


def test_class_names(tmp_path):
    data = ImageArrays(str(keras(tmp_path)), class_names=["o", "ki", "su", "tsu"], val_size=0)
    data.setup("fit")
    assert (data.num_classes, data.class_names) == (4, ["o", "ki", "su", "tsu"])
    with pytest.raises(ValueError, match="item 2 has the label 2, which is outside the 2 classes"):
        ImageArrays(str(keras(tmp_path)), class_names=["o", "ki"]).setup("fit")
