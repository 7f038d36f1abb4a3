"""A file of one tensor: read strictly, split at the end, shuffled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from datamodules.activations import ActivationFile
from datamodules.activations.file import read_activations
from framework.data.facts import facts_of

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def save(values: torch.Tensor, path) -> None:
    if path.suffix == ".npy":
        np.save(path, values.numpy())
    elif path.suffix == ".pt":
        torch.save(values, path)
    else:
        save_file({"acts": values}, path)


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_format_gives_the_same_rows(tmp_path, suffix, dtype) -> None:
    path = tmp_path / f"a{suffix}"
    save(X.to(dtype), path)
    assert torch.equal(read_activations(path), X.to(dtype))
    data = ActivationFile(str(path), batch_size=8, normalization="none", val_size=5, test_size=0.1)
    data.setup()
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    batches = [batch for loader in loaders for batch in loader]
    index = torch.cat([batch["index"] for batch in batches])
    assert index[:31].sort().values.tolist() == list(range(31))
    assert index[:31].tolist() != list(range(31))
    assert index[31:].tolist() == list(range(31, 40))
    found = torch.cat([batch["activation"] for batch in batches])
    assert found.dtype == torch.float32
    assert torch.equal(found, X.to(dtype).float()[index])
    assert (data.input_size, data.target_size, data.num_samples) == (3, None, 40)


def test_a_map_is_not_a_copy_and_the_file_is_never_changed(tmp_path) -> None:
    path = tmp_path / "a.npy"
    save(X, path)
    before = path.read_bytes()
    values = read_activations(path)
    values[0] = 7
    assert path.read_bytes() == before


def test_one_of_several_tensors_is_named(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": X, "y": 2 * X}, path)
    assert torch.equal(read_activations(path, "y"), 2 * X)
    with pytest.raises(ValueError, match=r"one tensor, or name it with key; .* 'x', 'y'"):
        read_activations(path)
    with pytest.raises(ValueError, match=r"a tensor 'z'; its tensors are: 'x', 'y'"):
        read_activations(path, "z")
    save(X, tmp_path / "a.npy")
    with pytest.raises(ValueError, match="one tensor without a name; drop key='x'"):
        read_activations(tmp_path / "a.npy", "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (X.numpy().astype(">f4"), r"a\.npy holds >f4, not floating-point numbers of this machine"),
        (X.to_sparse(), r"a\.pt holds a sparse tensor: save it by tensor\.to_dense\(\)"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path, values, message) -> None:
    path = tmp_path / ("a.pt" if isinstance(values, torch.Tensor) else "a.npy")
    if path.suffix == ".pt":
        torch.save(values, path)
    else:
        np.save(path, values)
    with pytest.raises(ValueError, match=message):
        read_activations(path)


def test_targets_lie_beside_the_activations(tmp_path) -> None:
    save(X, tmp_path / "x.npy")
    save(10 * X[:, :2], tmp_path / "y.npy")
    data = ActivationFile(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), batch_size=36)
    data.setup()
    (batch,) = data.train_dataloader()
    unit, target_unit = data.normalizations["activation"], data.normalizations["target"]
    torch.testing.assert_close(batch["target"], target_unit(10 * X[batch["index"], :2]))
    torch.testing.assert_close(batch["activation"], unit(X[batch["index"]]))
    assert (data.input_size, data.target_size) == (3, 2)
    train = X[:36]
    assert unit.scale == pytest.approx(3**0.5 / float(train.norm(dim=1).mean()))
    assert target_unit.scale == pytest.approx(2**0.5 / float(10 * train[:, :2].norm(dim=1).mean()))
    save(X[:4], tmp_path / "y.npy")
    data = ActivationFile(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    with pytest.raises(ValueError, match=r"y\.npy has 4 rows for the 40 of .*x\.npy"):
        data.setup()


def test_a_sample_is_spread_over_the_training_part(tmp_path) -> None:
    save(X, tmp_path / "x.npy")
    data = ActivationFile(str(tmp_path / "x.npy"), val_size=10, normalization="none", test_size=0)
    data.setup()
    assert data.test_set is None
    found = data.sample(4)
    assert found["index"].tolist() == [0, 7, 15, 22]
    assert torch.equal(found["activation"], X[found["index"]])
    assert len(data.sample(1000)["index"]) == 30


def test_the_last_rows_are_held_out_for_a_guide(tmp_path) -> None:
    save(torch.randn(40, 3), tmp_path / "rows.npy")
    data = ActivationFile(str(tmp_path / "rows.npy"), val_size=4, test_size=4, batch_size=8)
    data.setup()
    data.hold_out(0.25)
    guided = torch.cat([b["index"] for b in data.guide_dataloader(5, lambda: (0, 0))])
    assert sorted(guided.tolist()) == list(range(24, 32))
    trained = torch.cat([b["index"] for b in data.train_dataloader()])
    assert sorted(trained.tolist()) == list(range(24))
    assert data.sample(100)["index"].tolist() == list(range(24))


def test_the_common_size_is_in_the_state(tmp_path) -> None:
    save(X, tmp_path / "x.npy")
    save(2 * X, tmp_path / "z.npy")
    first, second = (ActivationFile(str(tmp_path / f"{name}.npy")) for name in "xz")
    for data in (first, second):
        data.setup()
    second.load_state_dict(first.state_dict())
    assert second.normalizations == first.normalizations
    batch = next(iter(second.val_dataloader()))
    scale = first.normalizations["activation"].scale
    torch.testing.assert_close(batch["activation"], 2 * scale * X[batch["index"]])
    third = ActivationFile(str(tmp_path / "x.npy"), normalization="none")
    third.setup()
    with pytest.raises(RuntimeError, match=r"normalization='constant', and cannot .* 'none'"):
        third.load_state_dict(first.state_dict())


def test_what_is_no_table_of_finite_numbers_is_refused(tmp_path) -> None:
    path = tmp_path / "a.npy"
    for values, match in [
        (X[0], r"a\.npy holds \(3,\), not activations \(N, d\)"),
        (X[:0], r"holds \(0, 3\), not activations"),
        (X.int(), "holds torch.int32, not floating-point"),
    ]:
        save(values, path)
        with pytest.raises(ValueError, match=match):
            read_activations(path)
    broken = X.clone()
    broken[17, 1] = torch.nan
    save(broken, path)
    with pytest.raises(ValueError, match=r"a\.npy: row 17 of 40 is not finite"):
        read_activations(path)


def test_damaged_and_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npy: there is no such file"):
        read_activations(tmp_path / "none.npy")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"must end in \.npy, \.safetensors, \.pt"):
        read_activations(tmp_path / "a.csv")
    for suffix in (".npy", ".pt", ".safetensors"):
        path = tmp_path / f"a{suffix}"
        save(X, path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(
            ValueError, match=rf"a\{suffix} is (damaged or incomplete|no complete file)"
        ):
            read_activations(path)


def test_pickles_are_not_run(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"x": X, "y": Evil()}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.array([Evil()]), allow_pickle=True)
    for name in ("a.pt", "a.npy"):
        with pytest.raises(ValueError, match=r"is no complete file|holds more than tensors"):
            read_activations(tmp_path / name)


def test_a_split_must_leave_rows_for_training(tmp_path) -> None:
    save(X, tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"leave none of the 40 rows of .*a\.npy for training"):
        ActivationFile(str(tmp_path / "a.npy"), val_size=0.5, test_size=20).setup()
    with pytest.raises(ValueError, match="val_size must be at least 0, got -1"):
        ActivationFile(str(tmp_path / "a.npy"), val_size=-1).setup()


def test_other_activations_get_the_size_of_the_training(tmp_path):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", 3 * rows)
    data, later = (
        ActivationFile(str(tmp_path / f"{name}.npy"), normalization="constant") for name in "xy"
    )
    data.setup("fit")
    later.use_facts(facts_of(data))
    later.setup("test")
    assert later.normalizations == data.normalizations
    alone = ActivationFile(str(tmp_path / "y.npy"), normalization="constant")
    alone.setup("test")
    assert alone.normalizations != data.normalizations
