import collections
import decimal
import os
import pickle

import numpy as np
import pytest
import torch

from framework.data.restricted_pickle import load_pickle
from framework.utilities.tensor_archive import load_archive
from tests.helpers.data import shared_data
from tests.helpers.memory import raised_within


class Runs:
    """Pickles to a call of ``os.mkdir``."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_survive_every_protocol(tmp_path, protocol):
    path = tmp_path / "data"
    data = {
        "array": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "fortran": np.asfortranarray(np.eye(2)),
        "scalar": np.int64(7),
        "objects": np.array(["a", None], dtype=object),
        "plain": [1, (2.5, b"\xff"), {"x"}, None, True],
        "graph": collections.defaultdict(list, {0: [1]}),
        "ordered": collections.OrderedDict(a=1),
    }
    path.write_bytes(pickle.dumps(data, protocol))
    read = load_pickle(path)
    for name in ("array", "fortran", "objects"):
        np.testing.assert_array_equal(read[name], data[name])
        assert read[name].dtype == data[name].dtype
    assert {k: read[k] for k in ("scalar", "plain", "graph", "ordered")} == {
        k: data[k] for k in ("scalar", "plain", "graph", "ordered")
    }


def test_python_2_byte_strings(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"\x80\x02}U\x04dataU\x02\xff\x41s.")
    assert load_pickle(path) == {"data": "\xffA"}
    assert load_pickle(path, encoding="bytes") == {b"data": b"\xffA"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_runs_nothing(tmp_path, protocol):
    path, made = tmp_path / "evil", tmp_path / "made"
    path.write_bytes(pickle.dumps([np.arange(3), Runs(made)], protocol))
    with pytest.raises(
        ValueError, match=r"evil holds more than arrays .*\(it names posix\.mkdir\)"
    ):
        load_pickle(path)
    assert not made.exists()


@pytest.mark.parametrize("call", ["builtins.eval", "builtins.getattr", "numpy.load", "os.system"])
def test_pickle_refuses_by_name(tmp_path, call):
    path = tmp_path / "evil"
    module, name = call.split(".")
    path.write_bytes(f"c{module}\n{name}\n.".encode())
    with pytest.raises(ValueError, match=f"it names {call}"):
        load_pickle(path)


def test_codecs_encode_makes_bytes_only(tmp_path):
    path = tmp_path / "evil"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ValueError, match="in the encoding 'rot13'"):
        load_pickle(path)


def test_allowed_adds_a_class(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(pickle.dumps([decimal.Decimal("1.5")]))
    with pytest.raises(ValueError, match=r"it names decimal\.Decimal"):
        load_pickle(path)
    allowed = {"decimal.Decimal": decimal.Decimal}
    assert load_pickle(path, allowed=allowed) == [decimal.Decimal("1.5")]


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_truncated_pickle(tmp_path, cut):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": np.zeros((4, 12), np.uint8)})[:cut])
    with pytest.raises(
        ValueError, match=r"data_batch_1 is damaged or incomplete near byte \d+: .+"
    ):
        load_pickle(path)


class Calls:
    def __init__(self, *call):
        self.call = call[0], call[1:]

    def __reduce__(self):
        return self.call


def shared(depth):
    part = ["a"]
    for _ in range(depth):
        part = [part] * 10
    return part


def endless():
    part = []
    part.append(part)
    return part


BOMBS = {
    "bytearray": pickle.dumps(Calls(bytearray, 8 * 10**9)),
    "data type": pickle.dumps(Calls(np.dtype, "V8000000000")),
    "shape": pickle.dumps(Calls(np.empty(1).__reduce_ex__(5)[0], b"1", "u1", (10**10,), "C")),
    "claimed": b"\x80\x04\x8e" + (8 * 10**9).to_bytes(8, "little") + b".",
    "shared": pickle.dumps(shared(12)),
    "endless": pickle.dumps(endless()),
    "deep": b"(" * 10_000 + b"t" * 10_000 + b".",
    "deep key": b"}" + b"(" * 10_000 + b"t" * 10_000 + b"Ns.",
    "state of an array": pickle.dumps(np.zeros(4), 2).replace(b"K\x04\x85", b"K\xff\x85"),
    "objects behind numbers": pickle.dumps(np.zeros(3, dtype=[("a", "i8")])),
}


def test_bombs_are_refused_within_little_memory(tmp_path):
    for name, content in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    answers = raised_within([lambda name=name: load_pickle(tmp_path / name) for name in BOMBS])
    for name, (kind, said) in zip(BOMBS, answers, strict=True):
        assert kind in ("ValueError", "FileTooLargeError"), (name, said)
        assert said.startswith(str(tmp_path / name)), said
        assert "\n" not in said


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing: there is no such file"):
        load_pickle(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing: there is no such file"):
        load_archive(tmp_path / "nothing")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "bool", "U3"])
def test_torch_file_with_arrays(tmp_path, zipped, dtype):
    path = tmp_path / "labels.pt"
    data = {"worse_label": np.arange(4).astype(dtype), "t": torch.ones(2), "n": np.int64(3)}
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    read = load_archive(path)
    np.testing.assert_array_equal(read["worse_label"], data["worse_label"])
    assert torch.equal(read["t"], data["t"])
    assert read["n"] == 3


def test_torch_file_runs_nothing(tmp_path):
    path, made = tmp_path / "evil.pt", tmp_path / "made"
    torch.save({"labels": Runs(made)}, path)
    with pytest.raises(ValueError, match=r"evil\.pt holds more than .*\(it names posix\.mkdir\)"):
        load_archive(path)
    assert not made.exists()


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_truncated_torch_file(tmp_path, keep):
    path = tmp_path / "labels.pt"
    torch.save({"worse_label": np.arange(400)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"labels\.pt is damaged or incomplete") as error:
        load_archive(path)
    assert "\n" not in str(error.value)


def test_damaged_torch_file_does_not_advise_unsafe_reading(tmp_path):
    path = tmp_path / "labels.pt"
    path.write_bytes(b"label\n1\n2\n")
    with pytest.raises(ValueError, match=r"labels\.pt is damaged .* not what torch.save writes"):
        load_archive(path)


def test_leaves_torch_safe_globals_alone(tmp_path):
    path = tmp_path / "labels.pt"
    torch.save({"label": np.arange(4)}, path)
    before = torch.serialization.get_safe_globals()
    load_archive(path)
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_real_planetoid():
    sparse = pytest.importorskip("scipy.sparse")
    raw = shared_data("planetoid", "Cora", "raw")
    matrix = {"scipy.sparse.csr.csr_matrix": sparse.csr_matrix}
    assert load_pickle(raw / "ind.cora.allx", allowed=matrix).shape == (1708, 1433)
    assert load_pickle(raw / "ind.cora.ally").sum() == 1708
    assert len(load_pickle(raw / "ind.cora.graph")) == 2708
    with pytest.raises(ValueError, match=r"it names scipy\.sparse\.csr\.csr_matrix"):
        load_pickle(raw / "ind.cora.allx")


def test_real_cifar_10n():
    labels = load_archive(shared_data("cifar10n", "CIFAR-10_human.pt"))
    assert {len(column) for column in labels.values()} == {50_000}
