"""Two files are two modes of the same rows, whatever kind of files they are."""

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules import FeaturePairs
from datamodules.feature_files import read_numbers
from framework.data.facts import facts_of

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(2, 3, (40, 3)), RNG.normal(size=(40, 5))
LABELS = np.arange(40) % 4


def write(folder, kind="npy", first=FIRST, second=SECOND, labels=LABELS):
    """Write the files, and return the arguments that name them."""
    arrays = {"image": first, "text": second, "label": labels}
    paths = {name: folder / f"{name}.{kind}" for name in arrays}
    if kind == "npy":
        for name, array in arrays.items():
            np.save(paths[name], array)
    elif kind in ("csv", "txt"):
        for name, array in arrays.items():
            np.savetxt(paths[name], array, delimiter="," if kind == "csv" else " ")
    else:
        path = folder / f"all.{kind}"
        if kind == "npz":
            np.savez(path, **arrays)
        elif kind == "mat":
            savemat(path, arrays)
        else:
            with h5py.File(path, "w") as file:
                for name, array in arrays.items():
                    file[f"group/{name}"] = array
        names = [f"group/{name}" if kind == "h5" else name for name in arrays]
        keys = dict(zip(("key", "key2", "label_key"), names, strict=True))
        return {"path": str(path), "path2": str(path), "labels": str(path), **keys}
    values = [str(path) for path in paths.values()]
    return dict(zip(("path", "path2", "labels"), values, strict=True))


def ready(folder, stage="fit", facts=None, kind="npy", arrays=None, **options):
    data = FeaturePairs(**{**write(folder, kind, **(arrays or {})), **options})
    if facts is not None:
        data.use_facts(facts)
    data.setup(stage)
    return data


def joined(loader):
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("kind", ["npy", "npz", "mat", "h5", "csv", "txt"])
def test_rows_of_both_files_belong_together(tmp_path, kind):
    data = ready(tmp_path, kind=kind, standardize=False, batch_size=7)
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [32, 4, 4]
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    parts = [joined(loader) for loader in loaders]
    for part in parts:
        rows = part["index"]
        assert sorted(part) == ["index", "input", "input2", "label"]
        np.testing.assert_allclose(part["input"], FIRST[rows], rtol=1e-6)
        np.testing.assert_allclose(part["input2"], SECOND[rows], rtol=1e-6)
        np.testing.assert_array_equal(part["label"], LABELS[rows])
    seen = sorted(int(i) for part in parts for i in part["index"])
    assert seen == list(range(40))
    assert (data.input_shape, data.second_shape, data.num_classes) == ((3,), (5,), 4)
    assert data.num_samples == 40
    assert data.class_names == ["0", "1", "2", "3"]


def test_the_split_follows_its_own_seed(tmp_path):
    one, other, same = (ready(tmp_path, split_seed=seed) for seed in (0, 1, 0))
    assert one.train_set.indices == same.train_set.indices
    assert one.train_set.indices != other.train_set.indices
    counted = ready(tmp_path, val_size=5, test_size=0)
    assert (len(counted.val_set), counted.test_set) == (5, None)
    assert counted.predict_set is counted.val_set


def test_features_are_standardized_over_training_rows(tmp_path):
    constant = FIRST.copy()
    constant[:, 1] = 7.25
    data = ready(tmp_path, arrays={"first": constant})
    rows = joined(data.ordered_train_dataloader())
    expected = constant[rows["index"]]
    spread = expected.std(0)
    spread[1] = np.inf
    np.testing.assert_allclose(rows["input"], (expected - expected.mean(0)) / spread, atol=1e-5)
    assert not rows["input"][:, 1].any()
    np.testing.assert_allclose(rows["input2"].mean(0), np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(rows["input2"].std(0, correction=0), np.ones(5), atol=1e-5)
    batch = data.as_batch(constant[rows["index"]])
    torch.testing.assert_close(batch["input"], rows["input"])


def test_labels_may_be_missing_or_begin_at_one(tmp_path):
    data = ready(tmp_path, labels=None)
    assert sorted(next(iter(data.train_dataloader()))) == ["index", "input", "input2"]
    assert data.num_classes is None
    data = ready(tmp_path, arrays={"labels": (LABELS + 1.0)[:, None]})
    assert data.num_classes == 4
    assert joined(data.val_dataloader())["label"].min() == 0


def test_other_files_are_measured_and_predicted_whole_as_trained(tmp_path):
    trained = ready(tmp_path)
    facts = facts_of(trained)
    assert {"input_shape", "second_shape", "input_mean", "num_classes"} <= facts.keys()
    folder = tmp_path / "new"
    folder.mkdir()
    arrays = {"first": FIRST[:6] + 1, "second": SECOND[:6], "labels": LABELS[:6] % 2}
    for stage in ("predict", "test"):
        data = ready(folder, stage, facts, arrays=arrays)
        part = joined(data.predict_dataloader() if stage == "predict" else data.test_dataloader())
        assert part["index"].tolist() == list(range(6))
        expected = (FIRST[:6] + 1 - facts["input_mean"][:3].numpy()) / facts["input_std"][
            :3
        ].numpy()
        np.testing.assert_allclose(part["input"], expected, rtol=1e-5, atol=1e-6)
        assert data.num_classes == 4
    again = ready(tmp_path, "test", facts)
    assert joined(again.test_dataloader())["index"].tolist() == trained.test_set.indices


def test_other_widths_than_trained_are_refused(tmp_path):
    facts = facts_of(ready(tmp_path))
    with pytest.raises(ValueError, match=r"text\.npy has rows of 4 numbers, .* rows of 5"):
        ready(tmp_path, "test", facts, arrays={"second": SECOND[:, :4]})


def test_workers_change_nothing(tmp_path):
    one = joined(ready(tmp_path, batch_size=8).train_dataloader())
    other = joined(ready(tmp_path, batch_size=8, num_workers=2).train_dataloader())
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"second": SECOND[:9]}, {}, r"text\.npy has 9 rows for the 40 of .*image\.npy"),
        (
            {"labels": LABELS[:9]},
            {},
            r"label\.npy must be 40 numbers, one for each row of features",
        ),
        ({"labels": LABELS + 2}, {}, r"class numbers start at 0 or 1, not at 2"),
        ({"labels": LABELS - 1}, {}, r"item 1 is -1, no class number"),
        ({"labels": LABELS + 0.5}, {}, r"item 1 is 0\.5, no class number"),
        ({"labels": LABELS * 1000}, {}, r"item 2 is 1000, no class number"),
        ({"first": FIRST[:, 0]}, {}, r"features are rows \(N, D\), not of shape \(40,\)"),
        ({"first": FIRST * 1e300}, {}, r"image\.npy: row 1 of 40 is not finite"),
        ({"first": FIRST + 1j}, {}, r"real numbers, not complex128"),
        ({"first": FIRST[:0]}, {}, r"real numbers, not float64 of shape \(0, 3\)"),
        ({}, {"val_size": 20, "test_size": 0.5}, r"leave none of the 40 rows"),
        ({}, {"val_size": -1}, "val_size must be at least 0"),
        ({}, {"key": "a"}, r"holds one array without a name: drop the key 'a'"),
        ({}, {"path": "a.pkl"}, r"a\.pkl: features end in \.npy"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        ready(tmp_path, arrays=arrays, **options)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: there is no such file of features"):
        ready(tmp_path, path2=str(tmp_path / "gone.npy"))


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("npz", None, "has the arrays image, text, label: name the one to read"),
        ("npz", "txt", "has no array 'txt'"),
        ("mat", None, "name the one to read by its key"),
        ("mat", "txt", "has no variable 'txt'; it has image"),
        ("h5", None, "name the one to read by its key"),
        ("h5", "group/txt", "has no data set 'group/txt'"),
        ("h5", "group", "has no data set 'group'"),
    ],
)
def test_arrays_are_found_by_name(tmp_path, kind, key, message):
    path = write(tmp_path, kind)["path"]
    with pytest.raises(ValueError, match=message):
        FeaturePairs(path, path, key=key, key2=key).setup("fit")


def test_damaged_and_pickled_files_are_refused(tmp_path):
    for name in ("a.npy", "a.npz", "a.mat", "a.h5"):
        path = tmp_path / name
        path.write_bytes(b"no file of numbers")
        with pytest.raises(ValueError, match=str(path)):
            read_numbers(path, None if name == "a.npy" else "x")
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy"):
        read_numbers(path)
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["x"] = ["a", "b"]
    with pytest.raises(ValueError, match="must hold real numbers, not object"):
        read_numbers(tmp_path / "text.h5", "x")
