import struct

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from datamodules import MatFeatures
from framework.data.facts import facts_of
from tests.helpers.data import shared_data

FEATURES = np.arange(60, dtype=np.float64).reshape(10, 6) / 4 - 3
LABELS = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3, 1])


def write(folder, compressed=False, **variables):
    path = folder / "domain.mat"
    content = {"fts": FEATURES, "labels": LABELS[:, None], **variables}
    kept = {name: value for name, value in content.items() if value is not None}
    savemat(path, kept, do_compression=compressed)
    return path


def read(path, **arguments):
    data = MatFeatures(str(path), **{"val_size": 0, **arguments})
    data.setup("fit")
    return data, data.train_set.dataset.fields


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_samples(tmp_path, compressed):
    data, fields = read(write(tmp_path, compressed))
    assert (data.num_classes, data.input_shape, data.num_samples) == (3, (6, 1, 1), 10)
    assert fields["image"].shape == (10, 6, 1, 1)
    assert fields["image"].dtype == torch.float32
    assert torch.equal(fields["image"].flatten(1), torch.tensor(FEATURES, dtype=torch.float32))
    assert fields["label"].dtype == torch.int64
    assert fields["label"].tolist() == [0, 1, 2] * 3 + [0]
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["image"], fields["image"][batch["index"]])
    assert data.test_set is None


def test_columns_may_be_samples_and_samples_images(tmp_path):
    path = write(tmp_path, X_src=FEATURES.T, Y_src=LABELS)
    names = {"features": "X_src", "labels": "Y_src", "columns": True}
    data, fields = read(path, shape=[1, 2, 3], **names)
    assert data.input_shape == (1, 2, 3)
    assert torch.equal(fields["image"], read(path)[1]["image"].view(10, 1, 2, 3)), "row by row"
    assert torch.equal(fields["label"], read(path)[1]["label"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, ">f8", bool])
def test_any_real_numbers(tmp_path, dtype):
    values = (FEATURES > 0).astype(dtype)
    labels = (LABELS > 1).astype(dtype)
    data, fields = read(write(tmp_path, fts=values, labels=labels))
    # bytes are numbers here, and no shares of 255
    assert torch.equal(fields["image"].flatten(1), torch.tensor(FEATURES > 0).float())
    assert torch.equal(fields["label"], torch.tensor(LABELS > 1).long())
    assert data.num_classes == 2, "from 0"


def test_standardized_features(tmp_path):
    values = FEATURES.copy()
    values[:, 2] = 7.5
    image = read(write(tmp_path, fts=values), standardize=True)[1]["image"].flatten(1)
    expected = torch.tensor(values)
    expected = (expected - expected.mean(0)) / expected.std(0, correction=0)
    expected[:, 2] = 0
    torch.testing.assert_close(image, expected.float())
    transposed = read(write(tmp_path, fts=values.T), standardize=True, columns=True)[1]["image"]
    assert torch.equal(transposed.flatten(1), image), "over samples, wherever they are"


def objects(*values):
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


def spoiled(value):
    values = FEATURES.copy()
    values[4, 2] = value
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fts": None}, "has no variable 'fts'; it has labels"),
        ({"labels": None, "y": LABELS}, "has no variable 'labels'; it has fts, y"),
        ({"fts": objects("a", 1.0)}, "fts must be an array of real numbers, not cell"),
        ({"fts": objects(FEATURES)}, "fts must be an array of real numbers, not cell"),
        ({"labels": objects(*LABELS)}, "labels must be an array of real numbers, not cell"),
        ({"fts": {"a": 1.0}}, "fts must be an array of real numbers, not struct"),
        ({"fts": "text"}, "fts must be an array of real numbers, not char"),
        ({"fts": FEATURES + 1j}, "fts must be an array of real numbers, not complex"),
        ({"fts": csc_matrix(FEATURES)}, "fts must be an array of real numbers, not sparse"),
        ({"fts": FEATURES.reshape(10, 2, 3)}, r"must be a matrix, not of shape \(10, 2, 3\)"),
        ({"fts": np.zeros((0, 6))}, r"must be a matrix, not of shape \(0, 6\)"),
        ({"fts": spoiled(np.nan)}, r": fts\(5,3\) is no finite number"),
        ({"fts": spoiled(1e300)}, r": fts\(5,3\) is no finite number"),
        ({"labels": LABELS[:9]}, r"10 numbers, one for each row of fts, not of shape \(1, 9\)"),
        ({"labels": LABELS.reshape(2, 5)}, r"10 numbers, .* not of shape \(2, 5\)"),
        ({"labels": LABELS + 0.5}, "labels: item 1 is 1.5, no class number"),
        ({"labels": LABELS - 2}, "labels: item 1 is -1, no class number"),
        ({"labels": LABELS * 5}, "labels: item 3 is 15, no class number"),
        ({"labels": np.where(LABELS == 2, np.nan, 1)}, "labels: item 2 is nan, no class number"),
        ({"labels": LABELS + 1}, "class numbers start at 0 or 1, not at 2"),
    ],
)
def test_damaged_content(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"domain.mat.*{message}") as error:
        read(write(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_columns_that_are_rows_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must be 6 numbers, one for each column of fts"):
        read(write(tmp_path), columns=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_files(tmp_path, compressed):
    path = write(tmp_path, compressed)
    whole = path.read_bytes()
    for kept in range(0, len(whole), 7):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"domain\.mat (is no|has no)") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_other_files(tmp_path):
    path = tmp_path / "domain.mat"
    path.write_bytes(b"%PDF" * 100)
    with pytest.raises(ValueError, match=r"domain\.mat is no complete MATLAB file: .+"):
        read(path)
    path.write_bytes(b"MATLAB 7.3".ljust(124) + struct.pack("<H", 0x0200) + b"IM" + bytes(400))
    with pytest.raises(ValueError, match=r"domain\.mat is of MATLAB's version 7\.3: save it with"):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"gone: there is no such file"):
        read(tmp_path / "gone")  # and not gone.mat, which scipy would try
    with pytest.raises(FileNotFoundError, match=r"domain: there is no such file"):
        read(tmp_path / "domain")


@pytest.mark.parametrize("shape", [[6], [1, 2, 3, 1], [0, 2, 3]])
def test_bad_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match=r"shape must be \[channels, height, width\], got"):
        MatFeatures("x.mat", shape=shape)


def test_a_shape_of_other_size(tmp_path):
    with pytest.raises(ValueError, match=r"fts: 6 features are no image of shape \[1, 2, 2\]"):
        read(write(tmp_path), shape=[1, 2, 2])


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("amazon_SURF_L10", [92, 82, 94, 99, 100, 100, 99, 100, 94, 98]),
        ("Caltech10_SURF_L10", [151, 110, 100, 138, 85, 128, 133, 94, 87, 97]),
        ("dslr_SURF_L10", [12, 21, 12, 13, 10, 24, 22, 12, 8, 23]),
        ("webcam_SURF_L10", [29, 21, 31, 27, 27, 30, 43, 30, 27, 30]),
    ],
)
def test_real_office_caltech_surf(file, counts):
    path = shared_data("office_caltech10_surf", f"{file}.mat")
    data, fields = read(path)
    assert fields["label"].bincount().tolist() == counts
    assert (data.num_classes, data.input_shape) == (10, (800, 1, 1))
    stored = loadmat(path)["fts"]
    assert torch.equal(fields["image"].flatten(1), torch.from_numpy(stored).float())
    standard = read(path, standardize=True)[1]["image"].flatten(1)
    torch.testing.assert_close(standard.mean(0), torch.zeros(800), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("domain", "rows", "mean"), [("webcam", 295, 1.4131), ("dslr", 157, 1.5289)]
)
def test_real_office_caltech_decaf(domain, rows, mean):
    path = shared_data("office_caltech10_decaf6", f"{domain}.mat")
    data, fields = read(path, features="feas")
    assert fields["image"].shape == (rows, 4096, 1, 1)
    assert data.num_classes == 10
    assert float(fields["image"].double().mean()) == pytest.approx(mean, abs=1e-4)
    surf = read(shared_data("office_caltech10_surf", f"{domain}_SURF_L10.mat"))[1]["label"]
    assert torch.equal(fields["label"].bincount(), surf.bincount()), "the same photographs"


@pytest.mark.parametrize(("side", "rows", "mean"), [("src", 2000, 0.135), ("tar", 1800, 0.253)])
def test_real_mnist_and_usps(side, rows, mean):
    path = shared_data("mnist_usps_mat", "MNIST_vs_USPS.mat")
    _, fields = read(
        path, features=f"X_{side}", labels=f"Y_{side}", columns=True, shape=[1, 16, 16]
    )
    assert fields["image"].shape == (rows, 1, 16, 16)
    assert float(fields["image"].mean()) == pytest.approx(mean, abs=6e-4)
    assert 0 <= fields["image"].min() < fields["image"].max() < 1
    # label 1 is the digit 0, which is inked around an empty middle; a 1 is the reverse
    means = [fields["image"][fields["label"] == digit][:, 0].mean(0) for digit in (0, 1)]
    assert means[0][7:9, 7:9].mean() < 0.2 * means[0].max()
    assert means[1][7:9, 7:9].mean() > 0.6 * means[1].max()
    # the 7 is upright: its bar is above its foot
    seven = fields["image"][fields["label"] == 7][:, 0].mean(0)
    assert seven[3:7].sum() > 1.5 * seven[9:13].sum()


def test_another_file_is_standardized_as_the_training_was(tmp_path):
    data, fields = read(write(tmp_path), standardize=True)
    known = fields["image"]
    (tmp_path / "new").mkdir()
    path = write(tmp_path / "new", fts=FEATURES[:4], labels=np.array([1, 2, 3, 1])[:, None])
    later = MatFeatures(str(path), val_size=0, standardize=True)
    later.use_facts(facts_of(data))
    later.setup("test")
    assert torch.equal(later.train_set.dataset.fields["image"], known[:4])
    assert torch.equal(later.as_batch(FEATURES[:4])["image"], known[:4])
    assert torch.equal(later.as_batch(FEATURES[:4].reshape(4, 6, 1, 1))["image"], known[:4])
