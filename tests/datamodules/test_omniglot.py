from __future__ import annotations

import zipfile

import pytest
import torch

from datamodules import Omniglot, OneShotRuns
from tests.helpers.data import shared_data
from tests.helpers.omniglot import drawing, write_omniglot, write_runs


@pytest.fixture
def ready(tmp_path):
    def make(**options):
        data = Omniglot(str(tmp_path), **{"image_size": 20, **options})
        data.setup("fit")
        return data

    write_omniglot(tmp_path)
    return make


def test_alphabets_are_held_out(ready):
    data = ready()
    parts = [data.train_set, data.val_set, data.test_set]
    labels = [part.fields["label"].unique().tolist() for part in parts]
    assert labels == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [len(part) for part in parts] == [20, 20, 20]
    assert data.num_classes == 4


def test_alphabets_may_be_named(ready, tmp_path):
    data = ready(val_alphabets=["Greek"], test_alphabets=["Arcadian"])
    first = torch.tensor([data.val_set[0]["image"].amax((0, 2)).nonzero()[0].item()])
    assert first.tolist() == [8], "the third alphabet is drawn in the third row"
    with pytest.raises(ValueError, match="val_alphabets has Klingon, and the alphabets in"):
        ready(val_alphabets=["Klingon"])
    with pytest.raises(ValueError, match="leave none to train on"):
        ready(val_alphabets=3)


def test_ink_is_one_or_as_it_is(ready):
    white, black = ready().train_set[0]["image"], ready(white_ink=False).train_set[0]["image"]
    assert white.sum() == 16
    assert torch.equal(black, 1 - white)


def test_rotations_are_classes(ready):
    plain, turned = ready().train_set, ready(rotations=True)
    assert turned.num_classes == 16
    label = turned.train_set.fields["label"]
    assert label.bincount().tolist() == [5] * 16
    for turn in range(4):
        row = int((label == 3 + 4 * turn).nonzero()[0])
        first = int((plain.fields["label"] == 3).nonzero()[0])
        expected = plain[first]["image"].rot90(turn, (1, 2))
        assert torch.equal(turned.train_set[row]["image"], expected)
    assert turned.val_set.fields["label"].min() == 16


def test_folders_are_read_as_archives(ready, tmp_path):
    packed = ready()
    path = tmp_path / "images_background_small1.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    path.unlink()
    folders = ready()
    for name in ("image", "label"):
        assert torch.equal(packed.train_set.fields[name], folders.train_set.fields[name])


def test_evaluation_alphabets_are_the_test_set(ready, tmp_path):
    write_omniglot(tmp_path, "images_evaluation", ["Atlantean"], characters=2)
    data = ready()
    assert data.num_classes == 8
    assert data.test_set.fields["label"].unique().tolist() == [12, 13]


def test_two_archives_are_one_set(ready, tmp_path):
    write_omniglot(tmp_path, "images_background_small2", ["Greek", "Tagalog"])
    data = ready(val_alphabets=0, test_alphabets=0)
    assert data.num_classes == 16, "Greek is in both"
    assert data.val_set is None
    assert data.test_set is None


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has none of images_background.zip"):
        Omniglot(str(tmp_path)).setup("fit")
    path = write_omniglot(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"small1.zip cannot be read as a zip archive"):
        Omniglot(str(tmp_path)).setup("fit")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/Greek/character01/1.png", drawing(0, 0)[:50])
    with pytest.raises(ValueError, match=r"character01/1.png cannot be decoded as an image"):
        Omniglot(str(tmp_path), val_alphabets=0, test_alphabets=0).setup("fit")


def test_runs_are_episodes(tmp_path):
    write_runs(tmp_path)
    data = OneShotRuns(str(tmp_path), image_size=20)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch["image"].shape == (2, 6, 1, 20, 20)
    assert batch["label"].tolist() == [[0, 1, 2, 2, 1, 0]] * 2
    assert batch["support"].tolist() == [[[0], [1], [2]]] * 2
    assert batch["index"].tolist() == [0, 1]
    # a query overlaps with the support of its class alone
    support, query = batch["image"].flatten(2).split(3, dim=1)
    nearest = (query @ support.transpose(1, 2)).argmax(-1)
    assert torch.equal(nearest, batch["label"][:, 3:])


def test_runs_follow_the_size_of_the_training(tmp_path):
    write_runs(tmp_path)
    data = OneShotRuns(str(tmp_path))
    data.use_facts({"input_shape": [1, 16, 16], "normalize": {"mean": [0.5], "std": [0.5]}})
    data.setup("test")
    image = next(iter(data.test_dataloader()))["image"]
    assert image.shape[2:] == (1, 16, 16)
    assert image.amin() == -1


def test_a_list_of_other_images_is_refused(tmp_path):
    path = write_runs(tmp_path, runs=1)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["run01/class_labels.txt"] = b"run01/test/item09.png run01/training/class01.png"
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    with pytest.raises(ValueError, match=r"class_labels.txt, line 1: expected an image"):
        OneShotRuns(str(tmp_path)).setup("test")


def test_the_published_archives_are_read():
    data = Omniglot(
        str(shared_data("omniglot")),
        image_size=16,
        val_alphabets=["Greek"],
        test_alphabets=["Latin"],
    )
    data.setup("fit")
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [86 * 20, 24 * 20, 26 * 20]
    assert data.num_classes == 86


def test_the_published_runs_are_read():
    data = OneShotRuns(str(shared_data("omniglot")), image_size=16)
    data.setup("test")
    fields = data.test_set.fields
    assert fields["image"].shape == (20, 40, 1, 16, 16)
    assert all(sorted(label.tolist()) == [*range(20)] for label in fields["label"][:, 20:])
    first = [f"class{k + 1:02}" for k in fields["label"][0, 20:25].tolist()]
    assert first == ["class08", "class09", "class02", "class19", "class10"]
