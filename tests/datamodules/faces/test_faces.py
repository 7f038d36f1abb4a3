"""Faces in folders: identities of the parts, pairs, and what evaluation takes from training."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from datamodules.faces import Faces
from framework.data.facts import facts_of
from tests.datamodules.faces.faces_on_disk import colors_of, write_people
from tests.helpers.data import shared_data

OPTIONS = {"image_size": 8, "val_identities": 2, "test_identities": 2, "num_folds": 2}


def ready(root, stage=None, facts=None, **arguments):
    data = Faces(str(root), **{**OPTIONS, **arguments})
    if facts is not None:
        data.use_facts(facts)
    data.setup(stage)
    return data


def people_of(data, images):
    return set(colors_of(images.batch(range(len(images)))["image"])[0])


def test_identities_of_the_parts_are_disjoint(tmp_path):
    write_people(tmp_path)
    data = ready(tmp_path, augment=[])
    parts = [people_of(data, part) for part in (data.train_set, data.val_set, data.test_set)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert set.union(*parts) == set(range(6))
    assert data.num_classes == 2
    assert data.class_names == [f"p{person}" for person in sorted(parts[0])]
    assert data.train_set.fields["label"].tolist() == [0] * 4 + [1] * 4


def test_the_choice_depends_on_its_seed_alone(tmp_path):
    write_people(tmp_path)
    chosen = [ready(tmp_path, split_seed=seed, augment=[]).class_names for seed in (0, 0, 1, 2, 3)]
    assert chosen[0] == chosen[1]
    assert len(set(map(tuple, chosen))) > 1


def test_pairs_name_positions_of_the_set(tmp_path):
    write_people(tmp_path)
    data = ready(tmp_path)
    for stage, images in (("val", data.val_set), ("test", data.test_set)):
        batch = images.batch(range(len(images)))
        person, number = map(torch.tensor, colors_of(batch["image"]))
        pairs = data.pairs(stage)["held_out"]
        assert torch.equal(person[pairs.first] == person[pairs.second], pairs.same)
        assert torch.equal(batch["label"][pairs.first] == batch["label"][pairs.second], pairs.same)
        assert ((pairs.first != pairs.second) & (pairs.num_folds == 2)).all()
        assert len(set(zip(person.tolist(), number.tolist(), strict=True))) == len(images) == 8


def test_identities_of_few_images_are_left_out(tmp_path):
    write_people(tmp_path, persons=5)
    for number in range(1, 4):
        (tmp_path / "p1" / f"{number}.png").unlink()
    data = ready(tmp_path, min_images_per_identity=2, val_identities=0, test_identities=0)
    assert data.class_names == ["p0", "p2", "p3", "p4"]
    assert data.train_set.fields["label"].tolist() == [k for k in range(4) for _ in range(4)]
    assert data.val_set is None
    assert data.val_dataloader() == []
    assert data.pairs("val") == {}


def test_shares_of_the_identities_are_held_out(tmp_path):
    write_people(tmp_path, persons=10, images=2)
    data = ready(tmp_path, val_identities=0.2, test_identities=0.3)
    assert [len(part) // 2 for part in (data.train_set, data.val_set, data.test_set)] == [5, 2, 3]


def test_too_few_identities_are_refused(tmp_path):
    write_people(tmp_path, persons=4)
    with pytest.raises(ValueError, match="do not fit 4 identities with images"):
        ready(tmp_path)


def test_gray_images_become_three_channels_or_stay_one(tmp_path):
    for person in range(3):
        (tmp_path / f"{person}").mkdir()
        Image.new("L", (9, 12), 80 * person).save(tmp_path / f"{person}" / "1.pgm")
    none = {"val_identities": 0, "test_identities": 0}
    three, one = (ready(tmp_path, channels=channels, **none) for channels in (None, 1))
    assert three.train_set[1]["image"].shape == (3, 8, 8)
    assert one.train_set[1]["image"].shape == (1, 8, 8)
    assert one.plain_train_set[1]["image"].mean().item() == pytest.approx(2 * 80 / 255 - 1)


def test_evaluation_takes_size_and_scale_of_training(tmp_path):
    write_people(tmp_path)
    trained = ready(tmp_path, normalization="imagenet", image_size=6)
    data = ready(tmp_path, "validate", facts_of(trained), image_size=None)
    assert data.val_set[0]["image"].shape == (3, 6, 6)
    assert torch.equal(data.normalize.std, trained.normalize.std)
    assert torch.equal(data.pairs("val")["held_out"].first, trained.pairs("val")["held_out"].first)


def test_the_default_scale_gives_way_to_that_of_a_checkpoint(tmp_path):
    write_people(tmp_path)
    facts = facts_of(ready(tmp_path, normalization="imagenet"))
    data = ready(tmp_path)
    assert data.normalize.std.flatten().tolist() == [0.5]
    data.adopt(facts, "validate")
    assert torch.equal(
        data.val_set.normalize.std.flatten(), torch.tensor(facts["normalize"]["std"])
    )


def test_training_goes_on_with_the_numbers_that_it_began_with(tmp_path):
    write_people(tmp_path, persons=3, images=1)
    facts = {"class_names": ["p2", "p0", "p1", "gone"], "num_classes": 4}
    data = ready(tmp_path, "fit", facts, val_identities=0, test_identities=0, augment=[])
    assert data.class_names == facts["class_names"]
    assert data.train_set.fields["label"].tolist() == [1, 2, 0]
    assert data.num_classes == 4
    with pytest.raises(ValueError, match="p0 cannot be told by it"):
        ready(
            tmp_path,
            "fit",
            {**facts, "class_names": ["p1", "p2"]},
            val_identities=0,
            test_identities=0,
        )


def test_training_on_other_data_holds_identities_out(tmp_path):
    write_people(tmp_path / "here", persons=4)
    facts = facts_of(ready(tmp_path / "here", val_identities=0, test_identities=0))
    write_people(tmp_path / "there", persons=4)
    (tmp_path / "there" / "p3" / "0.png").unlink()
    data = ready(tmp_path / "there", "fit", facts, val_identities=2, test_identities=0, augment=[])
    assert data.is_new
    assert not people_of(data, data.train_set) & people_of(data, data.val_set)


def test_images_of_a_person_are_prepared_before_anything_is_read(tmp_path):
    data = Faces(str(tmp_path), image_size=8)
    assert data.as_batch(Image.new("L", (9, 9), 255))["image"].amin() == 1
    data.use_facts({"normalize": {"mean": [0.0], "std": [0.1]}})
    assert data.as_batch(Image.new("L", (9, 9), 255))["image"].amin() == 10


def test_all_identities_of_other_data_are_evaluated(tmp_path):
    write_people(tmp_path / "here")
    write_people(tmp_path / "there", persons=3)
    facts = facts_of(ready(tmp_path / "here"))
    data = ready(tmp_path / "there", "test", facts)
    assert len(data.test_set) == 12
    assert data.num_classes == 2
    everything = ready(tmp_path / "there", "predict", facts)
    assert len(everything.predict_set) == 12


def test_orl_faces():
    data = ready(
        shared_data("orl_faces"),
        image_size=(112, 92),
        val_identities=10,
        test_identities=10,
        num_folds=10,
    )
    assert data.num_classes == 20
    assert len(data.train_set) == 200
    assert len(data.test_set) == 100
    assert data.test_set[0]["image"].shape == (3, 112, 92)
    assert data.pairs("test")["held_out"].count == 900
    assert not {*data.class_names} & {f"s{k}" for k in (0, 41)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": None}, "Give the folder of the identities as root, or verification sets"),
        ({"val_identities": -1}, "val_identities must be at least 0"),
        ({"min_images_per_identity": 0}, "min_images_per_identity must be at least 1"),
        ({"num_pairs": 19}, "num_pairs must be at least 20"),
        ({"resize": 50}, None),
        ({"resize": 50, "image_size": 60}, "resize must be at least image_size=60"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    if message is None:
        Faces(**{"root": "faces", **arguments})
        return
    with pytest.raises(ValueError, match=message):
        Faces(**{"root": "faces", **arguments})
