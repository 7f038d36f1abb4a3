"""Folders are walked with care: what is read, in which order, and what is said of the rest."""

from __future__ import annotations

import pytest

from framework.data.folders import sorted_names
from framework.data.image_folders import find_images, find_parts


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder):
    return [str(path.relative_to(folder)) for path in find_images(folder)]


def test_images_by_their_endings_in_any_case(tmp_path):
    write(tmp_path, "b.JPG", "a/x.png", "a/deep/y.webp", "c.jfif", "d.gif", "e.TIFF")
    assert names(tmp_path) == ["a/deep/y.webp", "a/x.png", "b.JPG", "c.jfif", "d.gif", "e.TIFF"]


def test_what_is_left_out_is_said_in_one_line(tmp_path):
    write(tmp_path, "a.png", "b.heic", "c/d.heic", "e.txt", "LICENSE", ".DS_Store", "c/Thumbs.db")
    write(tmp_path, ".ipynb_checkpoints/a-checkpoint.png", "._a.png", "__MACOSX/a.png")
    with pytest.warns(UserWarning, match="Not all that lies in") as warned:
        assert names(tmp_path) == ["a.png"]
    assert [str(warning.message) for warning in warned] == [
        f"Not all that lies in {tmp_path} is read (hidden files and folders: 3, files "
        "ending in .heic: 2, files ending in .txt: 1, files without an ending: 1)."
    ]


def test_no_image_says_what_there_is(tmp_path):
    write(tmp_path, "a.heic")
    with pytest.raises(FileNotFoundError, match=r"nor does a folder in it \(.*\.heic: 1\)"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone is not a folder"):
        find_images(tmp_path / "gone")


def test_links_are_followed_once_and_circles_end(tmp_path):
    write(tmp_path, "elsewhere/x.png", "root/a.png", "root/b/c.png", "beside.png")
    root = tmp_path / "root"
    for place, target in [
        ("0_parent", tmp_path),
        ("0_itself", root),
        ("b/parent", root),
        ("0_sibling", root / "b"),
        ("out", tmp_path / "elsewhere"),
        ("out_again", tmp_path / "elsewhere"),
    ]:
        (root / place).symlink_to(target)
    with pytest.warns(UserWarning, match="links to a folder that is read anyway: 5"):
        assert names(root) == ["a.png", "b/c.png", "out/x.png"]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("train/a val/a test/a", "train val test"),
        ("Train/a Valid/a Testing/a", "Train Valid Testing"),
        ("TRAINING/a validation/a", "TRAINING validation"),
        ("train/a .git/a", "train"),
        ("cat dog", ""),
        ("car train truck", ""),
        ("control test", ""),
    ],
)
def test_parts_are_known_by_their_usual_names(tmp_path, folders, expected):
    for folder in folders.split():
        (tmp_path / folder).mkdir(parents=True)
    assert [path.name for path in find_parts(tmp_path).values()] == expected.split()


def test_parts_that_are_not_clear(tmp_path):
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="has val, but no folder called train"):
        find_parts(tmp_path)
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "unlabeled").mkdir()
    with pytest.warns(UserWarning, match="unlabeled in .* are no parts of the data"):
        assert list(find_parts(tmp_path)) == ["train", "val"]
    (tmp_path / "Valid").mkdir()
    with pytest.raises(ValueError, match="are both the val part: keep one"):
        find_parts(tmp_path)


def test_classes_are_numbered_by_number():
    folders = [str(number) for number in range(12)]
    assert sorted_names(sorted(folders)) == folders
    assert sorted_names(["img12", "img2", "a", "B", "01", "1"]) == [
        "01",
        "1",
        "B",
        "a",
        "img2",
        "img12",
    ]
