"""Identities in RecordIO files, as InsightFace packs them."""

from __future__ import annotations

import pickle

import pytest
import torch

from datamodules.faces import Faces, pack_identities
from tests.datamodules.faces.faces_on_disk import colors_of, png, write_people
from tests.helpers import record_io

NONE = {"image_size": 8, "val_identities": 0, "test_identities": 0, "augment": []}


def write(folder, records, classes=None, index=True):
    folder.mkdir(exist_ok=True)
    record_io.write(folder / "train.rec", records, index)
    if classes is not None:
        (folder / "property").write_text(f"{classes},12,12\n")
    return folder


def ready(root, **arguments):
    data = Faces(str(root), **{**NONE, **arguments})
    data.setup("fit")
    return data


def content_of(images):
    batch = images.batch(range(len(images)))
    return [*zip(*colors_of(batch["image"]), strict=True)], batch["label"].tolist()


@pytest.mark.parametrize("index", [True, False])
def test_images_and_labels_are_those_of_the_records(tmp_path, index):
    people = (3, 1, 2)
    data = ready(write(tmp_path, record_io.insightface(people, png), 3, index))
    expected = [(person, k) for person, images in enumerate(people) for k in range(images)]
    assert content_of(data.train_set) == (expected, [person for person, _ in expected])
    assert data.num_classes == 3
    assert data.class_names is None
    assert data.train_set.names[4:] == ["train.rec, record 5", "train.rec, record 6"]
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["label"], torch.tensor([0, 0, 0, 1, 2, 2])[batch["index"]])


def test_classes_without_images_are_kept(tmp_path):
    records = record_io.insightface((2, 0, 2), png)
    assert ready(write(tmp_path, records, 5)).num_classes == 5
    (tmp_path / "property").unlink()
    assert ready(tmp_path).num_classes == 3
    data = ready(tmp_path, min_images_per_identity=2)
    assert data.num_classes == 2
    assert content_of(data.train_set)[1] == [0, 0, 1, 1]
    assert [person for person, _ in content_of(data.train_set)[0]] == [0, 0, 2, 2]


def test_files_without_a_header_have_labels_of_their_own(tmp_path):
    records = {k: record_io.record(float(k // 2), k, png(k // 2, k % 2)) for k in range(4)}
    data = ready(write(tmp_path, records))
    assert content_of(data.train_set) == ([(0, 0), (0, 1), (1, 0), (1, 1)], [0, 0, 1, 1])
    several = {k: record_io.record((float(k), 0.5), k, png(k, 0)) for k in range(3)}
    assert content_of(ready(write(tmp_path, several)).train_set)[1] == [0, 1, 2]


def test_ranges_that_miss_an_image_do_not_lose_it(tmp_path):
    records = record_io.insightface((2, 2), png)
    records[5] = record_io.record((1, 2), 5)  # the second image of the first identity is left out
    assert content_of(ready(write(tmp_path, records)).train_set)[1] == [0, 0, 1, 1]


def test_identities_are_held_out(tmp_path):
    data = Faces(
        str(write(tmp_path, record_io.insightface((4,) * 6, png))),
        image_size=8,
        val_identities=2,
        test_identities=2,
        num_folds=2,
        augment=[],
    )
    data.setup()
    people = [
        {person for person, _ in content_of(part)[0]}
        for part in (data.train_set, data.val_set, data.test_set)
    ]
    assert [len(part) for part in people] == [2, 2, 2]
    assert set.union(*people) == set(range(6))
    assert data.num_classes == 2
    assert content_of(data.train_set)[1] == [0] * 4 + [1] * 4
    found, _ = content_of(data.val_set)
    pairs = data.pairs("val")["held_out"]
    person = torch.tensor([person for person, _ in found])
    assert torch.equal(person[pairs.first] == person[pairs.second], pairs.same)


def test_another_process_reads_the_same(tmp_path):
    data = ready(write(tmp_path, record_io.insightface((2, 1), png)))
    assert content_of(pickle.loads(pickle.dumps(data.train_set))) == content_of(data.train_set)


def test_a_packed_folder_is_the_folder(tmp_path):
    write_people(tmp_path / "people", persons=3, images=3)
    pack_identities(tmp_path / "people", tmp_path / "packed")
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        "property",
        "train.idx",
        "train.rec",
    ]
    assert (tmp_path / "packed" / "property").read_text() == "3,14,12\n"
    folder, packed = (ready(tmp_path / name) for name in ("people", "packed"))
    assert content_of(folder.train_set) == content_of(packed.train_set)
    paths = sorted((tmp_path / "people").rglob("*.png"))
    expected = record_io.insightface((3, 3, 3), lambda p, k: paths[3 * p + k].read_bytes())
    assert (tmp_path / "packed" / "train.rec").read_bytes() == b"".join(expected.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: record_io.record(0.5, 1, b"")}, "record 1 has the label 0.5, and whole numbers"),
        ({1: record_io.record(float(2**24), 1, b"")}, "record 1 has the label 16777216, and"),
        (
            {5: record_io.record(3.0, 5, b"")},
            "record 5 is an identity, and does not have the range",
        ),
        ({5: record_io.record((-1.0, 3.0), 5, b"")}, "record 5 has the label -1, and whole"),
        ({0: record_io.record((0.0, 0.0), 0)}, "has no image"),
        ({1: record_io.record(8.0, 1, b"")}, "has the label 8, and .*property says .* 2 classes"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, change, message):
    records = {**record_io.insightface((2, 2), png), **change}
    with pytest.raises(ValueError, match=message):
        ready(write(tmp_path, records, 2))


@pytest.mark.parametrize("content", ["x,12,12", "", "0,1,1", "-3,1,1", "99999999,1,1"])
def test_another_property_is_refused(tmp_path, content):
    write(tmp_path, record_io.insightface((2, 2), png))
    (tmp_path / "property").write_text(content)
    with pytest.raises(ValueError, match="property: classes,height,width are expected"):
        ready(tmp_path)


def test_more_classes_than_images_could_have_are_refused(tmp_path):
    write(tmp_path, record_io.insightface((2, 2), png), 2_000_000)
    with pytest.raises(
        ValueError, match="has 2,000,000 classes for 4 images, and there may be 1,0"
    ):
        ready(tmp_path)


def test_damaged_images_and_other_labels_are_named_when_they_are_read(tmp_path):
    records = record_io.insightface((3, 1), png)
    records[2] = record_io.record(1.0, 2, png(0, 1))
    records[3] = record_io.record(0.0, 3, png(0, 1)[:40])
    images = ready(write(tmp_path, records)).train_set
    with pytest.raises(ValueError, match="record 2 has the label 1, and its identity has 0"):
        images.batch([1])
    with pytest.raises(ValueError, match=r"train\.rec, record 3 cannot be decoded as an image"):
        images.batch([2])


def test_a_folder_that_holds_something_is_not_packed_into(tmp_path):
    write_people(tmp_path / "people", persons=2, images=1)
    (tmp_path / "packed").mkdir()
    pack_identities(tmp_path / "people", tmp_path / "packed")
    before = (tmp_path / "packed/train.rec").read_bytes()
    write_people(tmp_path / "others", persons=3, images=1)
    with pytest.raises(FileExistsError, match="packed holds files already"):
        pack_identities(tmp_path / "others", tmp_path / "packed")
    assert (tmp_path / "packed/train.rec").read_bytes() == before
