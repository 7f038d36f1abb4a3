import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.label_noise import LabelNoise
from datamodules.labels import read_labels
from framework.utilities.tensor_archive import load_archive
from tests.helpers.data import shared_data

CLEAN = torch.arange(10).repeat(2000)
SWAP = {0: 1, 1: 0, 7: 3}


def rate(noisy, clean=CLEAN):
    return float((noisy != clean).double().mean())


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (LabelNoise(rate=0.0), 0.0),
        (LabelNoise(rate=0.6), 0.54),  # ρ (K - 1) / K: the true class may be drawn again
        (LabelNoise(rate=0.6, redraw_true=False), 0.6),
        (LabelNoise("pair", rate=0.3), 0.3),
        (LabelNoise("class_dependent", rate=0.5, flips=SWAP), 0.15),
        (LabelNoise("pair", rate=1.0), 1.0),
    ],
)
def test_rate_and_transition(noise, expected):
    noisy = noise.apply(CLEAN, 10)
    assert noisy.dtype == torch.int64
    # five standard deviations of a share of 20,000 draws; exact where nothing is random
    assert rate(noisy) == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 2e4) ** 0.5)
    matrix = noise.transition_matrix(10)
    counts = torch.zeros(10, 10).index_put_((CLEAN, noisy), torch.ones(1), accumulate=True)
    torch.testing.assert_close(counts / 2000, matrix.float(), atol=0.056, rtol=0)
    assert not counts[matrix == 0].any()
    torch.testing.assert_close(matrix.sum(1), torch.ones(10, dtype=torch.float64))


def test_matrices_of_the_papers():
    symmetric = LabelNoise(rate=0.4).transition_matrix(4)
    assert symmetric[0].tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])
    exact = LabelNoise(rate=0.3, redraw_true=False).transition_matrix(4)
    assert exact[2].tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1])
    pair = LabelNoise("pair", rate=0.45).transition_matrix(3)
    assert pair.tolist() == [
        pytest.approx([0.55, 0.45, 0]),
        pytest.approx([0, 0.55, 0.45]),
        pytest.approx([0.45, 0, 0.55]),
    ]


def test_given_matrix_is_followed():
    rows = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]]
    noise = LabelNoise("class_dependent", transition=rows)
    clean = torch.arange(3).repeat(4000)
    noisy = noise.apply(clean, 3)
    assert rate(noisy[clean == 0], 0) == pytest.approx(0.5, abs=0.04)
    assert set(noisy[clean == 0].tolist()) == {0, 1}
    assert set(noisy[clean == 1].tolist()) == {1}
    assert rate(noisy[clean == 2], 2) == pytest.approx(0.2, abs=0.04)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(2, 7), st.integers(0, 9), st.floats(0, 1))
def test_pure_and_a_function_of_seed_and_position(count, classes, seed, probability):
    clean = torch.arange(count) % classes
    before = clean.clone(), torch.get_rng_state()
    noise = LabelNoise(rate=probability, seed=seed)
    noisy = noise.apply(clean, classes)
    assert torch.equal(clean, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(noisy, noise.apply(clean, classes))
    assert noisy.min() >= 0
    assert noisy.max() < classes
    # a label's fate does not hang on the labels of others
    other = clean.clone()
    other[: count // 2] = 0
    assert torch.equal(noise.apply(other, classes)[count // 2 :], noisy[count // 2 :])


def test_seeds_differ():
    first, second = (LabelNoise(rate=0.5, seed=seed).apply(CLEAN, 10) for seed in (0, 1))
    assert rate(first, second) > 0.3


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".csv", ".pt"])
def test_label_files(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    labels = [2, 0, 1]
    if suffix == ".npy":
        np.save(path, np.array(labels, dtype=np.uint8))
    elif suffix == ".pt":
        torch.save({"worse_label": np.array(labels), "clean_label": np.arange(3)}, path)
    else:
        path.write_text("".join(f"{label}\n" for label in labels))
    noise = LabelNoise("file", path=str(path), key="worse_label" if suffix == ".pt" else None)
    assert noise.apply(torch.arange(3), 3).tolist() == labels


@pytest.mark.parametrize(
    ("name", "write", "key", "message"),
    [
        ("a.npy", lambda p: np.save(p, np.array([0, 1])), None, "has 2 labels .* set of 3"),
        (
            "a.npy",
            lambda p: np.save(p, np.array([0, 1, 3])),
            None,
            "item 2 has the label 3, .*0..2",
        ),
        ("a.npy", lambda p: np.save(p, np.array([0, -1, 3])), None, "item 1 has the label -1"),
        ("a.npy", lambda p: np.save(p, np.ones(3)), None, "not float64 of shape"),
        ("a.npy", lambda p: np.save(p, np.array([None] * 3)), None, "no complete file of numbers"),
        ("a.npy", lambda p: p.write_bytes(b"\x93NUMPY"), None, "no complete file of numbers"),
        ("a.txt", lambda p: p.write_text("0\n1\ncat\n"), None, "line 3: 'cat' is not a class"),
        ("a.txt", lambda p: p.write_text("0\n\n1\n"), None, "line 2: '' is not a class number"),
        ("a.txt", lambda p: p.write_text("0\n1\n2\n"), "worse", "single column"),
        ("a.pt", lambda p: torch.save({"x": [0]}, p), "worse", "no column 'worse'; it has 'x'"),
        ("a.pt", lambda p: torch.save([0, 1, 2], p), "worse", "holds a list instead of a dict"),
        ("a.pt", lambda p: p.write_bytes(b"PK"), "worse", "is damaged"),
        ("a.json", lambda p: p.write_text("[]"), None, "are .npy, .txt, .csv or .pt"),
        (
            "a.pt",
            lambda p: torch.save({"worse": np.arange(3), "clean_label": np.arange(3)[::-1]}, p),
            "worse",
            "clean label of item 0 is 2, .* set's is 0; .* another data set",
        ),
    ],
)
def test_bad_label_files(tmp_path, name, write, key, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as error:
        LabelNoise("file", path=path, key=key).apply(torch.arange(3), 3)
    assert "\n" not in str(error.value)


def test_label_files_as_other_tools_write_them(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf2\r\n0 \r\n1\r\n\r\n")
    assert read_labels(tmp_path / "a.csv")["label"].tolist() == [2, 0, 1]


def test_missing_label_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: there is no such label file"):
        LabelNoise("file", path=tmp_path / "gone.npy").apply(torch.arange(3), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "random"}, "kind must be one of symmetric, pair"),
        ({"rate": 1.2}, r"rate must lie in \[0, 1\]"),
        ({"rate": float("nan")}, r"rate must lie in \[0, 1\]"),
        ({"flips": {0: 1}}, "flips has no meaning .* 'symmetric'"),
        ({"kind": "pair", "path": "x"}, "path has no meaning .* 'pair'"),
        ({"kind": "class_dependent"}, "either flips or transition"),
        ({"kind": "file"}, "needs a path"),
        ({"kind": "file", "path": "x", "rate": 0.2}, "rate has no meaning"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelNoise(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flips": {0: 3}}, "flips 0: 3 is outside the 3 classes"),
        ({"transition": [[1.0]]}, "3 x 3 matrix"),
        ({"transition": [[1, 0, 0], [0, 0.5, 0.4], [0, 0, 1]]}, "Row 1 of transition"),
        ({"transition": [[2, -1, 0], [0, 1, 0], [0, 0, 1]]}, "Row 0 of transition"),
    ],
)
def test_arguments_that_do_not_fit_the_classes(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelNoise("class_dependent", **arguments).apply(torch.arange(3), 3)


def test_file_has_no_matrix():
    with pytest.raises(ValueError, match="no transition matrix"):
        LabelNoise("file", path="x.npy").transition_matrix(3)


@pytest.mark.parametrize(
    ("key", "percent"),
    [
        ("aggre_label", 9.01),
        ("worse_label", 40.21),
        ("random_label1", 17.23),
        ("random_label2", 18.12),
        ("random_label3", 17.64),
    ],
)
def test_rates_of_cifar_10n(key, percent):
    path = shared_data("cifar10n", "CIFAR-10_human.pt")
    clean = torch.as_tensor(load_archive(path)["clean_label"])
    noisy = LabelNoise("file", path=path, key=key).apply(clean, 10)
    assert 100 * rate(noisy, clean) == pytest.approx(percent, abs=0.005)


def test_rate_of_cifar_100n():
    path = shared_data("cifar10n", "CIFAR-100_human.pt")
    clean = torch.as_tensor(load_archive(path)["clean_label"])
    noisy = LabelNoise("file", path=path, key="noisy_label").apply(clean, 100)
    assert 100 * rate(noisy, clean) == pytest.approx(40.20, abs=0.005)
