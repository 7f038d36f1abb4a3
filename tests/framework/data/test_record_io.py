"""RecordIO files: bytes of the format, pieces, indices, and what is refused."""

from __future__ import annotations

import pickle
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.data.record_io import MAX_LABEL, Record, RecordFile, whole_label
from framework.data.record_writer import packed, write_records
from tests.helpers import record_io
from tests.helpers.record_io import MAGIC

IMAGE = bytes.fromhex("ffd84142ffd9")
RECORDS = [
    (
        Record((7.0,), 5, IMAGE),
        "0a23d7ce 1e000000 00000000 0000e040 0500000000000000 0000000000000000 ffd84142ffd9 0000",
    ),
    (
        Record((101.0, 151.0), 0, b""),
        "0a23d7ce 20000000 02000000 00000000 0000000000000000 0000000000000000 0000ca42 00001743",
    ),
]
CONTENTS = [
    b"",
    b"a",
    b"abcd",
    MAGIC,
    MAGIC * 3,
    b"abcd" + MAGIC,
    MAGIC + b"abcde",
    b"ab" + MAGIC + b"cd" + MAGIC,
    MAGIC[:3] + MAGIC + b"12345" + MAGIC * 2,
]


@pytest.mark.parametrize(("record", "text"), RECORDS)
def test_bytes_are_those_of_the_format(tmp_path, record, text):
    content = bytes.fromhex(text)
    assert len(content) == 40
    assert packed(record) == content
    (tmp_path / "a.rec").write_bytes(content)
    records = RecordFile(tmp_path / "a.rec")
    assert records.keys.tolist() == [record.number]
    assert records.read(record.number) == record
    assert records.labels(record.number) == record.labels


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("labels", [(3.0,), (3.0, 4.0), (3.0, 4.0, 5.0)])
def test_another_writer_writes_the_same_bytes(tmp_path, content, labels):
    record = Record(labels, 9, content)
    given = labels if len(labels) > 1 else labels[0]
    expected = record_io.record(given, 9, content)
    assert packed(record) == expected
    record_io.write(tmp_path / "a.rec", {9: expected, 2: record_io.record(1.0, 2, b"xyz")})
    records = RecordFile(tmp_path / "a.rec")
    assert records.keys.tolist() == [2, 9]
    assert records.read(9) == record
    assert records.labels(9) == labels
    assert records.read(2) == Record((1.0,), 2, b"xyz")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([MAGIC, MAGIC[:1], MAGIC[1:], b"abcd", b"\0"]), max_size=9))
def test_any_content_is_cut_as_by_another_writer(parts):
    content = b"".join(parts)
    stored = packed(Record((1.0,), 1, content))
    assert stored == record_io.record(1.0, 1, content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.rec")
        path.write_bytes(stored * 2)
        assert [RecordFile(path).read(key).content for key in (0, 1)] == [content] * 2


def test_a_magic_between_pieces_is_put_back(tmp_path):
    content = b"abcd" + MAGIC + b"efgh" + MAGIC
    stored = record_io.record(1.0, 0, content)
    assert [struct.unpack_from("<I", stored, at)[0] >> 29 for at in (4, 40, 52)] == [1, 2, 3]
    (tmp_path / "a.rec").write_bytes(stored)
    assert RecordFile(tmp_path / "a.rec").read(0).content == content


def test_an_id_that_is_the_magic_is_read(tmp_path):
    number = int.from_bytes(MAGIC, "little")
    path = record_io.write(tmp_path / "a.rec", {number: record_io.record(2.0, number, b"x")}, False)
    records = RecordFile(path)
    assert records.keys.tolist() == [number]
    assert records.labels(number) == (2.0,)


def test_the_file_written_is_read(tmp_path):
    records = [(k, Record((float(k),), k, content)) for k, content in enumerate(CONTENTS)]
    write_records(tmp_path / "a.rec", records)
    for indexed in (True, False):
        found = RecordFile(tmp_path / "a.rec")
        assert [found.read(key) for key in found.keys.tolist()] == [one for _, one in records]
        if indexed:
            (tmp_path / "a.idx").unlink()


def test_keys_are_positions_where_ids_repeat(tmp_path):
    content = record_io.record(1.0, 0, b"a") + record_io.record(2.0, 0, b"b")
    (tmp_path / "a.rec").write_bytes(content)
    assert [RecordFile(tmp_path / "a.rec").read(key).content for key in (0, 1)] == [b"a", b"b"]


def test_a_copy_for_another_process_opens_the_file_anew(tmp_path):
    records = RecordFile(record_io.write(tmp_path / "a.rec", {1: record_io.record(1.0, 1, b"abc")}))
    assert records.read(1).content == b"abc"
    copy = pickle.loads(pickle.dumps(records))
    assert copy._opened is None
    assert copy.read(1) == records.read(1)


def test_a_missing_record_is_named(tmp_path):
    records = RecordFile(record_io.write(tmp_path / "a.rec", {1: record_io.record(1.0, 1)}))
    assert 1 in records
    assert 2 not in records
    with pytest.raises(KeyError, match="has no record 2"):
        records.read(2)


def cut(content):
    return content[:-3]


def other_magic(content):
    return b"\0" + content[1:]


def other_kind(content):
    return content[:7] + bytes([content[7] | 2 << 5]) + content[8:]


def unfinished(content):
    return content[:7] + bytes([content[7] | 1 << 5]) + content[8:]


def many_labels(content):
    return content[:8] + struct.pack("<I", 10**6) + content[12:]


def short(content):
    return MAGIC + struct.pack("<I", 4) + content[8:12]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "the file is cut at byte 77"),
        (other_magic, "it does not begin as a record at byte 40"),
        (other_kind, "a piece of another record begins at byte 40"),
        (unfinished, "the file is cut at byte 80"),
        (many_labels, "it has 30 bytes, and its 1,000,000 labels need 4,000,024"),
        (short, "it has 4 bytes, and its labels need 24"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, damage, message):
    records = {k: record_io.record(float(k), k, IMAGE) for k in (4, 7)}
    records[7] = damage(records[7])
    found = RecordFile(record_io.write(tmp_path / "a.rec", records))
    assert found.read(4).content == IMAGE
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a.rec, record 7: {message}\.$"):
        found.read(7)
    if damage is not many_labels:
        record_io.write(tmp_path / "b.rec", records, index=False)
        with pytest.raises(ValueError, match=rf"^{tmp_path}/b.rec, record at byte 40: {message}"):
            RecordFile(tmp_path / "b.rec")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("1\t0\nx\t40\n", "lines of a key, a tab and a byte are expected"),
        ("1\t0\n2\n", "lines of a key, a tab and a byte are expected"),
        ("1\t0\n2\t40.5\n", "lines of a key, a tab and a byte are expected"),
        ("1\t0\n2\té\n", "lines of a key, a tab and a byte are expected"),
        ("1\t0\n2\t80\n", "record 2 would begin at byte 80 of .*, which has 80 bytes"),
        ("1\t0\n2\t-4\n", "record 2 would begin at byte -4"),
        ("1\t0\n2\t41\n", "record 2 would begin at byte 41"),
        ("1\t0\n1\t40\n", "has a key twice"),
        ("1\t0\n2\t99999999999999999999\n", "record 2 would begin|lines of a key"),
    ],
)
def test_another_index_is_refused(tmp_path, index, message):
    path = record_io.write(tmp_path / "a.rec", {k: record_io.record(0.0, k, IMAGE) for k in (1, 2)})
    path.with_suffix(".idx").write_text(index)
    with pytest.raises(ValueError, match=message) as caught:
        RecordFile(path)
    assert str(path.with_suffix(".idx")) in str(caught.value)


def test_files_without_records(tmp_path):
    (tmp_path / "a.rec").write_bytes(b"")
    assert len(RecordFile(tmp_path / "a.rec").keys) == 0
    (tmp_path / "a.idx").write_text("")
    assert len(RecordFile(tmp_path / "a.rec").keys) == 0
    with pytest.raises(FileNotFoundError):
        RecordFile(tmp_path / "b.rec")


@pytest.mark.parametrize("label", [-1.0, 0.5, float(MAX_LABEL), float("nan"), float("inf")])
def test_labels_that_floats_cannot_name_are_refused(label):
    with pytest.raises(
        ValueError, match=r"^record 3 has the label .*, and whole numbers from 0 to"
    ):
        whole_label(label, "record 3")


def test_labels_up_to_two_to_24_are_exact():
    assert whole_label(16_777_215.0, "record 3") == 16_777_215 == MAX_LABEL - 1


def test_a_record_of_half_a_gib_is_refused(monkeypatch):
    monkeypatch.setattr("framework.data.record_writer.LENGTH_BITS", 5)
    with pytest.raises(ValueError, match="Record 1 has 34 bytes: at most 512 MiB"):
        packed(Record((0.0,), 1, bytes(10)))
