"""Tar files are indexed by their headers, and a damaged one is refused by its name."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from framework.data.tar_files import members_of

LONG = "folder/" * 20 + "image.png"
CONTENT = {"a.png": b"1" * 700, "cat/b.png": b"", "cat/c d.png": b"3" * 512, LONG: b"4" * 5}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path: Path, content: dict[str, bytes] = CONTENT, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for name, value in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(value), 1.5 if form == tarfile.PAX_FORMAT else 1
            file.addfile(info, io.BytesIO(value))
    return path


def read(path: Path) -> dict[str, bytes]:
    found = {}
    for member in members_of(path):
        with member.open() as file:
            found[member.name] = file.read()
            assert file.size == member.size == len(found[member.name])
            file.seek(-min(3, member.size), os.SEEK_END)
            assert file.read(100) == found[member.name][-3:]
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_names_and_contents(tmp_path, form) -> None:
    assert read(write(tmp_path / "a.tar", form=FORMATS[form])) == CONTENT


def test_what_tar_itself_writes_of_a_folder(tmp_path) -> None:
    for name, value in CONTENT.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    subprocess.run(["tar", "-cf", "a.tar", "-C", "in", "."], cwd=tmp_path, check=True)
    assert read(tmp_path / "a.tar") == CONTENT
    assert read(write(tmp_path / "none.tar", {})) == {}


def changed(path: Path, place: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(value)


def sealed(path: Path, place: int, value: bytes) -> None:
    """Change the first header, and its sum."""
    changed(path, place, value)
    head = bytearray(path.read_bytes()[:512])
    head[148:156] = b" " * 8
    changed(path, 148, b"%06o\0 " % sum(head))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: os.truncate(path, 600), "it is cut within a.png"),
        (lambda path: os.truncate(path, 1536), "it is cut: it has no end, and 1,536 bytes"),
        (lambda path: os.truncate(path, 0), "it is cut: it has no end, and 0 bytes"),
        (lambda path: changed(path, 1536, b"x"), "the header at byte 1,536 is damaged"),
        (lambda path: changed(path, 9999, b"x"), "something follows its end at byte 2,560"),
        (lambda path: sealed(path, 124, b"77777777777\0"), "it is cut within a.png"),
        (lambda path: sealed(path, 124, b"\x80" + b"\xff" * 11), "it is cut within a.png"),
        (lambda path: sealed(path, 124, b"9"), "in a header is no number"),
        (lambda path: sealed(path, 0, b"/.png"), "/.png in it leads out of it"),
        (lambda path: sealed(path, 0, b"../x/"), "../x/ in it leads out of it"),
        (lambda path: sealed(path, 0, b"a\n.png"), r"'a\\n.png' in it is no name of one line"),
        (lambda path: sealed(path, 0, b"\xff.png"), "in it is no name of one line of text"),
        (lambda path: sealed(path, 0, b"b.png"), "it holds b.png twice"),
        (lambda path: sealed(path, 156, b"1"), "a.png in it is a hard link; only files"),
        (lambda path: sealed(path, 156, b"2"), "a.png in it is a symbolic link; only files"),
        (lambda path: sealed(path, 156, b"3"), "a.png in it is a device; only files"),
        (lambda path: sealed(path, 156, b"6"), "a.png in it is a pipe; only files"),
        (lambda path: sealed(path, 156, b"S"), "a.png in it is a sparse file; only files"),
        (lambda path: sealed(path, 156, b"Z"), "of the unknown type b'Z'"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, message) -> None:
    path = write(tmp_path / "a.tar", {"a.png": b"1" * 700, "b.png": b"2" * 9}, FORMATS["ustar"])
    damage(path)
    with pytest.raises(
        ValueError, match=f"a.tar cannot be read as a tar file: .*{message}"
    ) as error:
        members_of(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (b"9 path=x", "a header of names and attributes is damaged"),
        (b"0 path=x\n", "a header of names and attributes is damaged"),
        (b"99999999999999 path=x\n", "a header of names and attributes is damaged"),
        (b"12 size=1e99\n"[:13], "is no size|is damaged"),
        (b"22 GNU.sparse.major=1\n", "is a sparse file"),
        (b"11 path=..\n", r"\.\. in it leads out of it"),
    ],
)
def test_a_damaged_extended_header_is_refused(tmp_path, records, message) -> None:
    path = write(tmp_path / "a.tar", {"x": records, "b.png": b"2" * 9}, FORMATS["ustar"])
    sealed(path, 156, b"x")
    with pytest.raises(ValueError, match=message):
        members_of(path)


def test_a_header_that_takes_too_much_is_refused(tmp_path) -> None:
    path = write(tmp_path / "a.tar", {"x": bytes((1 << 20) + 1)}, FORMATS["ustar"])
    for kind in (b"x", b"L"):
        sealed(path, 156, kind)
        with pytest.raises(ValueError, match="a header takes 1,048,577 bytes"):
            members_of(path)


def test_a_compressed_file_is_none(tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(ValueError, match=r"a\.tar cannot .*: it is compressed by gzip; unpack"):
        members_of(tmp_path / "a.tar")


def test_a_tar_file_that_was_changed_is_refused(tmp_path) -> None:
    path = write(tmp_path / "a.tar")
    member = members_of(path)[0]
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match=r"a.tar/a.png: a.tar has changed since it was first read"):
        member.open()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        member.open()
