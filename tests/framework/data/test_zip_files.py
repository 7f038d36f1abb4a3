import zipfile

import pytest

from framework.data.zip_files import read_zip


def write(folder, content, method=zipfile.ZIP_DEFLATED):
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, value in content:
            archive.writestr(name, value)
    return path


def test_files_come_in_the_order_of_their_names(tmp_path):
    path = write(tmp_path, [("b/2.txt", "two"), ("b/", ""), ("a.txt", "one"), ("c.png", "x")])
    assert read_zip(path, lambda name: name.endswith("txt")) == {"a.txt": b"one", "b/2.txt": b"two"}


def test_hidden_files_are_left_out(tmp_path):
    path = write(tmp_path, [("__MACOSX/._a.txt", "x"), ("b/.DS_Store", "x"), ("b/a.txt", "one")])
    assert [*read_zip(path)] == ["b/a.txt"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([("../a.txt", "x")], "../a.txt in it leads out of it"),
        ([("/a.txt", "x")], "/a.txt in it leads out of it"),
        ([("a\n.txt", "x")], "no name of one line of text"),
        ([("a.txt", "x"), ("a.txt", "y")], "it holds a.txt twice"),
    ],
)
def test_names_that_lead_astray_are_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=f"a.zip cannot be read as a zip archive: .*{reason}"):
        read_zip(write(tmp_path, content))


def test_other_compressions_and_no_archives_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.txt is neither stored nor deflated"):
        read_zip(write(tmp_path, [("a.txt", "x" * 99)], zipfile.ZIP_LZMA))
    path = tmp_path / "b.zip"
    path.write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"b.zip cannot be read as a zip archive"):
        read_zip(path)
    with pytest.raises(FileNotFoundError):
        read_zip(tmp_path / "c.zip")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.015625")
    path = write(tmp_path, [("a.txt", bytes(17 << 20))])
    with pytest.raises(ValueError, match=r"a.zip: its files would take 0.0166 GiB of memory"):
        read_zip(path)
