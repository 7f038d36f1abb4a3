import pickle

import numpy as np
import pytest
import torch

from datamodules import CIFAR, LabelNoise

ROWS = 4


def dump(path, content, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))


def batch(first, field, classes, rows=ROWS):
    """Image i is constant i in red, i + 1 in green, i + 2 in blue, but for its first pixel."""
    numbers = np.arange(first, first + rows)
    planes = np.stack([numbers, numbers + 1, numbers + 2], 1).astype(np.uint8)
    data = np.repeat(planes, 1024, axis=1)
    data[:, 1] = 255  # row 0, column 1 of the red plane
    return {"data": data, field: (numbers % classes).tolist(), "batch_label": "part"}


def write_cifar10(folder):
    for part in range(5):
        dump(folder / f"data_batch_{part + 1}", batch(ROWS * part, "labels", 10))
    dump(folder / "test_batch", batch(100, "labels", 10))
    dump(folder / "batches.meta", {"label_names": list("abcdefghij"), "num_vis": 3072})


def write_cifar100(folder):
    dump(folder / "train", batch(0, "fine_labels", 100, rows=20))
    dump(folder / "test", batch(100, "fine_labels", 100))
    dump(folder / "meta", {"fine_label_names": [f"fine {i}" for i in range(100)]})


def ready(root, name="cifar10", **arguments):
    data = CIFAR(str(root), name, **{"val_size": 4, **arguments})
    data.setup("fit")
    return data


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("nested", [True, False])
def test_reads_both_layouts(tmp_path, name, nested):
    inner = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    write = {"cifar10": write_cifar10, "cifar100": write_cifar100}[name]
    write(tmp_path / inner if nested else tmp_path)
    data = ready(tmp_path, name)
    train = next(iter(data.train_dataloader()))
    assert train["image"].shape == (16, 3, 32, 32)
    raw = train["image"].mul(255).round().long()
    assert torch.equal(raw[:, 0, 5, 5], train["index"])
    assert torch.equal(raw[:, 1, 5, 5], train["index"] + 1)
    assert torch.equal(raw[:, 2, 5, 5], train["index"] + 2)
    assert (raw[:, 0, 0, 1] == 255).all()
    assert torch.equal(train["label"], train["index"] % data.num_classes)
    assert data.num_samples == 20
    assert len(data.class_names) == data.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    test = next(iter(data.test_dataloader()))
    assert torch.equal(test["label"], (test["index"] + 100) % data.num_classes)


def test_python_2_bytes_and_protocol_5_arrays(tmp_path):
    write_cifar10(tmp_path)
    dump(tmp_path / "data_batch_2", batch(ROWS, "labels", 10), protocol=5)
    assert ready(tmp_path).num_samples == 20


def test_fields_of_bytes(tmp_path):
    write_cifar10(tmp_path)
    first = batch(0, "labels", 10)
    dump(tmp_path / "data_batch_1", {key.encode(): value for key, value in first.items()}, 4)
    names = [name.encode() for name in "abcdefghij"]
    dump(tmp_path / "batches.meta", {b"label_names": names})
    data = ready(tmp_path)
    assert (data.num_samples, data.class_names) == (20, list("abcdefghij"))


def test_noise_labels_of_the_full_training_set(tmp_path):
    write_cifar10(tmp_path)
    torch.save(
        {"worse_label": (np.arange(20) + 3) % 10, "clean_label": np.arange(20) % 10},
        tmp_path / "human.pt",
    )
    noise = LabelNoise("file", path=tmp_path / "human.pt", key="worse_label")
    train = next(iter(ready(tmp_path, label_noise=noise).train_dataloader()))
    assert torch.equal(train["label"], (train["index"] + 3) % 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((4, 3071), np.uint8)}, r"data must be uint8 .* shape \(4, 3071\)"),
        ({"data": np.zeros((4, 3072))}, "data must be uint8 .* not float64"),
        ({"labels": [0, 1, 2]}, r"labels must be 4 integers, not int64 of shape \(3,\)"),
        ({"labels": list("abcd")}, "labels must be a list of integers, not a list of others"),
        ({"labels": [0, 1, 10, 2]}, r"item 2 has the label 10, .* 10 classes 0\.\.9"),
        ({"labels": [0, -1, 0, 2]}, "item 1 has the label -1"),
    ],
)
def test_bad_batch(tmp_path, change, message):
    write_cifar10(tmp_path)
    dump(tmp_path / "data_batch_3", {**batch(8, "labels", 10), **change})
    with pytest.raises(ValueError, match=f"data_batch_3: {message}"):
        ready(tmp_path)


def test_missing_field(tmp_path):
    write_cifar10(tmp_path)
    dump(tmp_path / "data_batch_1", {"data": np.zeros((4, 3072), np.uint8)})
    with pytest.raises(ValueError, match="data_batch_1 has no field 'labels'"):
        ready(tmp_path)
    dump(tmp_path / "data_batch_1", [1, 2])
    with pytest.raises(ValueError, match="data_batch_1 has no field 'data'"):
        ready(tmp_path)


def test_missing_truncated_and_malicious_files(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="data_batch_5 is damaged or incomplete near byte 500"):
        ready(tmp_path)
    path.write_bytes(b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"data_batch_5 holds more .*\(it names os\.system\)"):
        ready(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_5: there is no such file"):
        ready(tmp_path)


def test_wrong_number_of_names(tmp_path):
    write_cifar10(tmp_path)
    dump(tmp_path / "batches.meta", {"label_names": ["a"]})
    with pytest.raises(ValueError, match=r"batches\.meta: 1 names for 10 classes"):
        ready(tmp_path)


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="one of cifar10, cifar100, got 'cifar'"):
        CIFAR(str(tmp_path), "cifar")
