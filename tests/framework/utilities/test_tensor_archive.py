"""Archives of tensors: what was saved comes back, and damage or anything but data is refused."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.utilities.tensor_archive import load_archive
from tests.helpers.memory import raised_within

TIED = torch.arange(6.0).reshape(2, 3)
EVERYTHING: dict[str, Any] = {
    "state_dict": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
    "leaf": torch.ones(2, requires_grad=True),
    "views": [TIED, TIED.T, TIED[1], TIED[:, ::2], torch.ones(1).expand(5)],
    "empty": [torch.empty(0), torch.empty(3, 0), torch.tensor(3)],
    "types": [
        torch.ones(2).to(dtype)
        for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.bool, torch.cfloat)
    ],
    "torch": [torch.Size([1, 2]), torch.float32, torch.device("cpu")],
    "sets": [{1, "a"}, frozenset({(1, 2)})],
    "texts": ["naïve\n", b"ab\xff", bytearray(b"xy")],
    "numbers": [1j, 2**100, -5, 1e300, None, True],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "dicts": [Counter("aab"), defaultdict(list, {1: [2]}), OrderedDict(a=1), {0: {"b": None}}],
    "numpy": [np.arange(3), np.eye(2, order="F")[1:], np.float32(3), np.array(["a", "bc"])],
}


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        facts = ("dtype", "shape", "requires_grad")
        return (
            all(getattr(one, fact) == getattr(other, fact) for fact in facts)
            and one.stride() == other.stride()
            and one.storage_offset() == other.storage_offset()
            and bytes(one.untyped_storage()) == bytes(other.untyped_storage())
        )
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes("A") == other.tobytes("A")
    if isinstance(one, dict):
        attributes = same(getattr(one, "_metadata", None), getattr(other, "_metadata", None))
        return attributes and [*one] == [*other] and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_tensors_come_back(tmp_path):
    path = tmp_path / "a.pt"
    dense = torch.eye(4)
    forms = [dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc()]
    forms += [dense.to_sparse_bsr(2), dense.to_sparse_bsc(2)]
    torch.save(forms, path)
    for found, form in zip(load_archive(path), forms, strict=True):
        assert found.layout is form.layout
        assert torch.equal(found.to_dense(), dense)
    assert load_archive(path)[0].is_coalesced()
    # what is stored counts, as it does for the adjacency of a large graph
    torch.save(torch.sparse_coo_tensor([[1], [2]], [1.0], (10**6, 10**6)), path)
    assert load_archive(path).shape == (10**6, 10**6)
    outside = torch.sparse_coo_tensor([[9], [9]], [1.0], (2, 2), check_invariants=False)
    torch.save(outside, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"it names torch\._utils\._rebuild_sparse_tensor"):
        load_archive(path)
    torch.save(outside, path)
    with pytest.raises(ValueError, match=r"a\.pt is damaged or incomplete .* size is inconsistent"):
        load_archive(path)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_was_saved_comes_back(tmp_path, protocol, legacy, mmap):
    path = tmp_path / "a.pt"
    torch.save(
        EVERYTHING, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
    )
    found = load_archive(path, mmap=mmap)
    for name, value in EVERYTHING.items():
        assert same(value, found[name]), name
    first, *others = found["views"][:4]
    assert all(o.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for o in others)
    first.add_(1)
    assert torch.equal(others[0], first.T)
    assert torch.equal(load_archive(path)["views"][0], TIED)


# ---- damage --------------------------------------------------------------------------------------

SMALL = {
    "state_dict": OrderedDict(weight=torch.arange(8.0), bias=torch.ones(3)),
    "epoch": 3,
    "numpy": np.arange(3),
}


def refusal(path: Path) -> str:
    """Return why a file is refused; nothing if it holds what it did."""
    try:
        assert same(SMALL, load_archive(path))
    except ValueError as error:
        return str(error)
    return ""


def check_flips(path: Path, positions) -> int:
    torch.save(SMALL, path)
    content = path.read_bytes()
    refused = 0
    for position in positions(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        said = refusal(path)
        refused += said != ""
        assert said.startswith(str(path)) or said == "", position
        assert "\n" not in said, position
    return refused


def test_300_single_flipped_bits(tmp_path):
    draw = random.Random(0)
    # of each bit that is used; most others align the entries
    assert check_flips(tmp_path / "a.pt", lambda bits: draw.sample(range(bits), 300)) > 100


@pytest.mark.slow
def test_every_single_flipped_bit(tmp_path):
    assert check_flips(tmp_path / "a.pt", range) > 10_000


@pytest.mark.parametrize("mmap", [False, True])
def test_a_flipped_bit_names_its_entry(tmp_path, mmap):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(3), "b": torch.full((1000,), 2.0)}, path)
    content = path.read_bytes()
    place = content.index(struct.pack("<1000f", *[2.0] * 1000)) + 2003
    path.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"weights\.pt is damaged .* its entry weights/data/1 "):
        load_archive(path, mmap=mmap)
    # of one entry of the dict, only what it lies in is read
    assert torch.equal(load_archive(path, mmap=True, key="a"), torch.zeros(3))
    with pytest.raises(ValueError, match="its entry weights/data/1"):
        load_archive(path, mmap=True, key="b")
    assert load_archive(path, mmap=True, key="c") is None


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99, 0.9999])
def test_a_truncated_file(tmp_path, share, legacy):
    path = tmp_path / "a.pt"
    torch.save(EVERYTHING, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.pt is damaged or incomplete and was not loaded: "):
        load_archive(path)


def test_a_file_that_was_written_without_checksums(tmp_path):
    path = tmp_path / "a.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(SMALL, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(load_archive(path), SMALL)


# ---- archives that others made -------------------------------------------------------------------


def archive(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in entries:
            target.writestr(name, content)
    return file.getvalue()


WHOLE = [("a/data.pkl", pickle.dumps({"w": [1, 2, 3]}, 2)), ("a/version", b"3\n")]


def test_an_archive_of_another_writer(tmp_path):
    (tmp_path / "a.pt").write_bytes(archive(WHOLE))
    assert load_archive(tmp_path / "a.pt") == {"w": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (archive(WHOLE, zipfile.ZIP_DEFLATED), "its entry a/data.pkl is compressed"),
        (
            archive([*WHOLE, ("a/data.pkm", b"")]).replace(b"pkm", b"pkl"),
            "its entry a/data.pkl is there twice",
        ),
        (archive([*WHOLE, ("a/../b", b"")]), r"its entry a/\.\./b has no name below"),
        (archive([*WHOLE, ("/b", b"")]), "its entry /b has no name below"),
        (archive([*WHOLE, ("b/data/0", b"")]), "its entry b/data/0 has no name below"),
        (archive([*WHOLE, ("a/\x1b[2J", b"")]), r"its entry 'a/\\x1b\[2J'|no name|damaged"),
        (archive(WHOLE[1:]), "not what torch.save writes"),
        (archive([*WHOLE, ("a/constants.pkl", b"")]), "not what torch.save writes"),
        (archive([*WHOLE, ("a/byteorder", b"big")]), "big-endian"),
        (archive(WHOLE).replace(b"a/version", b"a/verzion", 1), "its entry a/version is another"),
        (archive(WHOLE).replace(b"PK\x01\x02", b"PK\x01\x03"), "central directory"),
        (b"PK\x03\x04" * 10, "no table of contents"),
        (b"PK\x03\x04", "no table of contents"),
        (b"hello", "not what torch.save writes"),
        (b"", "not what torch.save writes"),
    ],
)
def test_archives_that_are_refused(tmp_path, content, match):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    if match.startswith("its entry 'a"):
        # zip allows such a name, and a message shows it in ASCII
        assert load_archive(path) == {"w": [1, 2, 3]}
        return
    with pytest.raises(ValueError, match=rf"a\.pt is damaged or incomplete .*: .*{match}") as error:
        load_archive(path)
    assert "\n" not in str(error.value)


def test_an_entry_that_is_missing(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(archive([("a/data.pkl", tensor("10", "1"))]))
    with pytest.raises(ValueError, match=r"a\.pt is damaged .*: its entry data/0 is missing\."):
        load_archive(path)


def test_entries_that_overlap_or_leave_the_file(tmp_path):
    path = tmp_path / "a.pt"
    content = bytearray(archive(WHOLE))
    place = content.index(b"PK\x01\x02")
    for size in (len(WHOLE[0][1]) + 60, 2**31):
        content[place + 20 : place + 28] = struct.pack("<2I", size, size)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt is damaged or incomplete"):
            load_archive(path)


# ---- more than data, and bombs -------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Marked(torch.Tensor):
    pass


def marked() -> torch.Tensor:
    tensor = torch.ones(2)
    tensor.note = "attribute"
    return tensor


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(eval, "1"), "eval"),
        (Calls(torch.load, "a.pt"), r"torch\.serialization\.load"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        (torch.ones(2, device="meta"), r"torch\._utils\._rebuild_meta_tensor_no_storage"),
        (torch.ones(2).as_subclass(Marked), r"torch\._tensor\._rebuild_from_type_v2"),
        (marked(), r"torch\._tensor\._rebuild_from_type_v2"),
        (Path("a"), r"pathlib\..*"),
    ],
)
def test_more_than_data_is_refused_by_name(tmp_path, value, named, legacy):
    path = tmp_path / "evil.pt"
    torch.save({"a": [value]}, path, _use_new_zipfile_serialization=not legacy)
    match = rf"evil\.pt holds more than tensors and plain containers \(it names [\w.]*{named}\) and"
    with pytest.raises(ValueError, match=match) as error:
        load_archive(path)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        Calls(bytearray, 10**10),
        Calls(complex, "1" * 1000),
        Calls(set, "abc"),
        Calls(OrderedDict, "ab"),
        Calls(Counter, "ab"),
        Calls(np.dtype, "V8000000000"),
        Calls(np.dtype, "O8,O8"),
        Calls(np.empty(0).__reduce__()[0], np.ndarray, (10**10,), b"b"),
        Calls(np.float64(0).__reduce__()[0], np.dtype("f8"), b"1"),
        Calls(np.empty(1).__reduce_ex__(5)[0], b"1234", np.dtype("f8"), (10**9,), "C"),
        Calls(torch.Size, [1]),
        Calls(torch.device, "cuda:99999999999"),
        2**1000,
    ],
)
def test_calls_with_other_arguments_are_refused(tmp_path, value):
    path = tmp_path / "evil.pt"
    torch.save([value], path)
    if "ndarray" in str(getattr(value, "call", "")):
        # its shape and type come of the state, and there is none
        assert load_archive(path)[0].shape == (0,)
        return
    with pytest.raises(ValueError, match=r"evil\.pt is damaged or incomplete"):
        load_archive(path)


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"


def tensor(size: str, stride: str, offset: int = 0, numel: int = 10) -> bytes:
    """Return a pickle of a view of 10 numbers."""
    return (
        b"\x80\x02" + REBUILD + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        b"I%d\ntQI%d\n"
        % (numel, offset)
        + b"".join(
            b"(" + b"".join(b"L%dL\n" % int(n) for n in ns.split()) + b"t" for ns in (size, stride)
        )
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )


def state(target: bytes, given: bytes) -> bytes:
    return b"\x80\x02" + target + given + b"b."


DEEP = b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b"."
NESTED = b"\x80\x02]q\x00" + b"".join(
    b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(30)
)
SELF = b"\x80\x02]q\x00h\x00a."
BOMBS = {
    "stride 0": tensor("4000000000 4", "0 0"),
    "stride 0, 64 bits": tensor("4611686018427387904 4", "0 0"),
    "beyond the storage": tensor("11", "1"),
    "offset": tensor("5", "1", offset=6),
    "long storage": tensor("11", "1", numel=11),
    "longest storage": tensor("11", "1", numel=2**40),
    "negative": tensor("-1", "1"),
    "negative stride": tensor("2", "-1", offset=1),
    "deep": DEEP,
    "deep key in a call": b"\x80\x02ccollections\nOrderedDict\n](](" + DEEP[2:-1] + b"Neee\x85R.",
    "keys of one hash": b"\x80\x02}\x8a\x08" + (2**62).to_bytes(8, "little") + b"Ns.",
    "keys of numbers of one hash": b"\x80\x02}J\x00\x00\x00\x7fL4294967296L\n\x86Ns.",
    "complex keys of one hash": b"\x80\x02}cbuiltins\ncomplex\nK\x01K\x02\x86RNs.",
    "long key": b"\x80\x02}(" + b"K\x01" * 9 + b"tNs.",
    "deep key": b"\x80\x02}" + DEEP[2:-1] + b"Ns.",
    "shared": NESTED + b".",
    "itself": SELF,
    "claimed text": b"\x80\x02X\xff\xff\xff\xff.",
    "claimed bytes": b"\x80\x04\x8e" + struct.pack("<Q", 8 * 10**9) + b".",
    "claimed bytearray": b"\x80\x05\x96" + struct.pack("<Q", 8 * 10**9) + b".",
    "claimed integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "long integer": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
    "list of opcodes": b"\x80\x02](" + b"]" * 140_000 + b"e.",
    "state of a tensor": state(tensor("10", "1")[2:-1], b"(NL0L\n(L8000000000L\nt(I1\ntt"),
    "state of a list": state(b"]", b"}"),
    "attribute": state(b"ccollections\nOrderedDict\n)R", b"}X\x05\x00\x00\x00itemsNs"),
    "state of a name": state(b"cbuiltins\nset\n", b"}X\x05\x00\x00\x00buildNs"),
    "a name": b"\x80\x02cbuiltins\nset\n.",
    "call of a value": b"\x80\x02])R.",
    "set in a tensor": b"\x80\x02" + tensor("10", "1")[2:-1] + b"K\x00K\x01s.",
    "mark": b"\x80\x02t.",
    "pop": b"\x80\x02a.",
    "get": b"\x80\x02h\x05.",
    "two values": b"\x80\x02NN.",
    "extension": b"\x80\x02\x82\x01.",
    "shared tensor": b"\x80\x02]("
    + tensor("1000000", "0")[2:-1]
    + b"q\x02"
    + b"h\x02" * 99
    + b"e.",
    "shared text": b"\x80\x02](X\x00\x00\x01\x00"
    + b"a" * 2**16
    + b"q\x02"
    + b"h\x02" * 300
    + b"e.",
    "copied by calls": b"\x80\x02X\x00\x00\x01\x00"
    + b"a" * 2**16
    + b"\x85q\x01c_codecs\nencode\nq\x02("
    + b"h\x02h\x01R" * 300
    + b"l\x86.",
    "containers copied by calls": b"\x80\x02]("
    + b"".join(b"J" + struct.pack("<i", n) for n in range(1000))
    + b"e\x85q\x01cbuiltins\nset\nq\x02("
    + b"h\x02h\x01R" * 100
    + b"l\x86.",
    "array with an object's pointer": pickle.dumps(np.zeros(3, dtype=[("a", "i8")]), 2),
}


def test_bombs_are_refused_within_little_memory(tmp_path):
    numbers = np.arange(10, dtype=np.float32).tobytes()
    paths = [tmp_path / f"{number}.pt" for number in range(len(BOMBS))]
    for path, content in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(archive([("a/data.pkl", content), ("a/data/0", numbers)]))
    readers = [lambda path=path: load_archive(path) for path in paths]
    answers = raised_within(readers, limit_gib=1 / 64)
    for path, name, (kind, said) in zip(paths, BOMBS, answers, strict=True):
        assert kind in ("ValueError", "FileTooLargeError"), (name, said)
        assert said.startswith(str(path)), (name, said)
        assert "\n" not in said, (name, said)


def test_a_limit_that_is_raised_lets_more_in(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    torch.save(torch.ones(1).expand(2**20), path)
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.001")
    with pytest.raises(ValueError, match=r"a\.pt: its content.* above the limit"):
        load_archive(path)
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.01")
    assert load_archive(path).shape == (2**20,)


def test_a_legacy_file_that_claims_more_than_it_stores(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.ones(300), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    claimed = content.replace(struct.pack("<H", 300), struct.pack("<H", 60_000))
    for changed in (claimed, content[:-1], content.replace(b"]q\x00", b"]q\x00."[:3], 1)[:-100]):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"a\.pt is damaged or incomplete"):
            load_archive(path)
