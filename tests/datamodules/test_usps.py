import bz2
import sys

import h5py
import numpy as np
import pytest
import torch

from datamodules import USPS, WholeSet
from tests.helpers.data import shared_data


def columns(rows):
    data = np.arange(rows * 256, dtype=np.float32).reshape(rows, 256) / (rows * 256)
    return {"data": data, "target": np.arange(rows, dtype=np.int32) % 10}


def write(folder, **changes):
    """Write a data set of 12 + 5 images; ``train_data=...`` and so on replace what it holds."""
    with h5py.File(folder / "usps.h5", "w") as file:
        for part, rows in (("train", 12), ("test", 5)):
            for name, value in columns(rows).items():
                value = changes.get(f"{part}_{name}", value)
                if value is not None:
                    file[f"{part}/{name}"] = value
    return folder


def ready(folder, **arguments):
    data = USPS(str(folder), **{"val_size": 2, **arguments})
    data.setup("fit")
    return data


def test_reads_both_groups(tmp_path):
    data = ready(write(tmp_path))
    assert (data.num_classes, data.input_shape) == (10, (1, 16, 16))
    assert data.class_names == tuple("0123456789")
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [10, 2, 5]
    for loader, rows in ((data.train_dataloader(), 12), (data.test_dataloader(), 5)):
        (batch,) = loader
        expected = torch.from_numpy(columns(rows)["data"]).view(-1, 1, 16, 16)
        assert batch["image"].dtype == torch.float32
        assert torch.equal(batch["image"], expected[batch["index"]])
        assert batch["label"].dtype == torch.int64
        assert torch.equal(batch["label"], batch["index"] % 10)


def test_other_types_of_numbers(tmp_path):
    plain = columns(12)
    changes = {"train_data": plain["data"].astype(">f8"), "train_target": np.uint8(plain["target"])}
    data = ready(write(tmp_path, **changes), val_size=0)
    images = data.train_set.dataset.fields
    assert torch.equal(images["image"].flatten(1), torch.from_numpy(plain["data"]))
    assert torch.equal(images["label"], torch.arange(12) % 10)


def spoiled(row, value):
    data = columns(12)["data"]
    data[row, 7] = value
    return data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_data": None}, "has no data set test/data"),
        ({"train_target": None}, "has no data set train/target"),
        ({"train_data": h5py.Empty("f")}, "has no data set train/data"),
        (
            {"train_data": np.zeros((3, 16, 16))},
            r"train/data must be floats of shape \(N, 256\), not float64 of shape \(3, 16, 16\)",
        ),
        ({"train_data": np.zeros((3, 256), np.uint8)}, "train/data must be floats .* not uint8"),
        ({"test_data": np.zeros((0, 256))}, r"test/data must be .* not float64 of shape \(0, 256"),
        ({"train_target": np.zeros(12)}, r"train/target must be integers of shape \(N\), not fl"),
        ({"train_target": 3}, r"train/target must be integers .* of shape \(\)"),
        ({"test_target": np.zeros((5, 1), int)}, r"test/target must be .* of shape \(5, 1\)"),
        ({"test_target": np.arange(4)}, "test/target has 4 labels for 5 images"),
        ({"test_target": np.arange(7, 12)}, "test/target: item 3 has the label 10, .* 10 classes"),
        ({"train_data": spoiled(4, 1.5)}, r"train/data: row 4 has a value outside 0\.\.1"),
        ({"train_data": spoiled(2, -0.1)}, "train/data: row 2 has a value outside"),
        ({"train_data": spoiled(11, np.nan)}, "train/data: row 11 has a value outside"),
    ],
)
def test_damaged_content(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"usps.h5.* ?{message}") as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_damaged_file(tmp_path, kept):
    path = write(tmp_path) / "usps.h5"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"usps\.h5 is no complete HDF5 file: .+") as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither .*usps\.h5 nor .*usps\.bz2"):
        ready(tmp_path)


def write_libsvm(folder, **parts):
    """Write images (N, 256) in [0, 1] and labels as LIBSVM has them."""
    for name, (image, label) in parts.items():
        lines = (
            f"{number + 1} {' '.join(f'{k}:{2 * x - 1:.7g}' for k, x in enumerate(row, 1))}\n"
            for row, number in zip(image.tolist(), label.tolist(), strict=True)
        )
        path = folder / f"{name.replace('_', '.')}.bz2"
        path.write_bytes(bz2.compress("".join(lines).encode()))


def test_the_files_of_libsvm(tmp_path):
    with h5py.File(shared_data("usps") / "usps.h5") as file:
        parts = {
            name: (file[f"{part}/data"][:60], file[f"{part}/target"][:60])
            for name, part in (("usps", "train"), ("usps_t", "test"))
        }
    write_libsvm(tmp_path, **parts)
    data = ready(tmp_path, val_size=0)
    for name, images in (("usps", data.train_set.dataset), ("usps_t", data.test_set)):
        image, label = map(torch.as_tensor, parts[name])
        assert torch.equal(images.fields["label"], label.long())
        torch.testing.assert_close(
            images.fields["image"].flatten(1), image.float(), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no bz2", "is no complete bz2 file"),
        (bz2.compress(b"1 1:0.5 2:")[:-4], "is no complete bz2 file"),
        (bz2.compress(b"1 1:0.5 2:x\n"), "is no complete bz2 file"),
        (bz2.compress(b"1 300:0.5\n"), "is no complete bz2 file"),
        (bz2.compress(b"1 1:0.5\n11 1:0.5\n"), "item 1 has the label 10"),
        (bz2.compress(b"1 1:0.5\n2 1:1.5\n"), "row 1 has a value outside"),
    ],
)
def test_damaged_files_of_libsvm(tmp_path, content, message):
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"usps\.bz2.* ?{message}") as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)


def test_without_h5py_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'trimtab\[hdf5\]'"):
        ready(tmp_path)


def test_real_usps():
    data = ready(shared_data("usps"), val_size=291)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (7000, 291, 2007)
    full, test = data.train_set.dataset.fields, data.test_set.fields
    counts = [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    assert full["label"].bincount().tolist() == counts
    means = [float(part["image"].double().mean()) for part in (full, test)]
    assert means == pytest.approx([0.2545, 0.2676], abs=5e-5)
    # the first is a 6: its left side is inked and its upper right corner is not
    assert full["label"][0] == 6
    assert full["image"][0, 0, 9, 3] > 0.5
    assert full["image"][0, 0, 3, 14] == 0


def test_real_usps_as_a_whole_set():
    data = WholeSet(USPS(str(shared_data("usps")), mean=[0.5], std=[0.5]), batch_size=9298)
    data.setup("fit")
    assert data.num_samples == 7291 + 2007
    image = next(iter(data.val_dataloader()))["image"]
    assert image.shape == (9298, 1, 16, 16)
    assert (image.min(), image.max()) == (-1, 1)
