"""Own images and classes: trained, resumed, tested and predicted by the commands of the docs."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import trimtab
from datamodules import DOTA, YOLOOBB, ImageTiles, RenderedScenes
from datamodules.dota import results
from datamodules.dota.labels import write_labels
from datamodules.scene_rendering import render_scene
from framework.objectives.errors import IncompatibleError
from modules.gghl.module import GGHL
from tests.helpers.runs import QUIET

NAMES = ["boat", "car", "tent"]


def write_scenes(folder, number, start=0, names=NAMES, kind="labelTxt"):
    """Write pictures of 96 x 80 pixels with labels of own classes."""
    for part in ("images", kind):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for k in range(start, start + number):
        picture, objects = render_scene(k, 96, 80, (2, 4), (16, 40))
        Image.fromarray(picture).save(folder / "images" / f"photo{k}.png")
        write_labels(folder / kind / f"photo{k}.txt", objects, names)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run on own images."""
    folder = tmp_path_factory.mktemp("own")
    write_scenes(folder / "images" / "train", 4)
    write_scenes(folder / "images" / "val", 2, 4)
    run = folder / "run"
    data = [f"--data.root={folder / 'images'}", "--data.classes=[boat,car,tent]"]
    # sizes only, so that it takes a second
    small = ["--data.image_size=64", "--data.gap=16", "--data.batch_size=4"]
    small += ["--model.widths=[4,4,6,8,8]", "--model.neck_width=8", "--trainer.max_epochs=1"]
    small += ["--trainer.log_every_n_steps=1"]
    trimtab.main(
        ["fit", "--config=gghl", "--data=DOTA", *data, *small, f"--run_folder={run}", *QUIET]
    )
    return run


def test_the_journey(trained, tmp_path, capsys):
    last, best = (trained / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    trimtab.main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=2", *QUIET])
    assert torch.load(last, weights_only=True)["epoch"] == 1
    trimtab.main(["test", f"--ckpt_path={best}", *QUIET])
    write_scenes(tmp_path / "new", 3, 6)
    capsys.readouterr()
    new = ["--data=ImageTiles", f"--data.root={tmp_path / 'new' / 'images'}"]
    trimtab.main(["predict", f"--ckpt_path={best}", *new, *QUIET])
    assert "on 3 images in" in capsys.readouterr().out
    detections = trained / "detections"
    assert {path.stem for path in detections.glob("Task1_*.txt")} == {f"Task1_{n}" for n in NAMES}
    assert {path.stem for path in detections.glob("*.png")} == {"photo6", "photo7", "photo8"}
    lines = [x for path in detections.glob("*.txt") for x in path.read_text().splitlines()]
    assert lines
    assert {line.split()[0] for line in lines} <= {"photo6", "photo7", "photo8"}
    results.main([str(detections), str(tmp_path / "new" / "labelTxt")])
    table = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{table}" for name in [*NAMES, "map"])


def test_a_loaded_model_knows_its_classes(trained):
    model = trimtab.load(trained)
    assert model.class_names == NAMES
    assert model.num_classes == 3


TRAINED = {"class_names": ["plane", "ship", "vehicle", "tent"]}


def with_facts(data, stage):
    data.use_facts(TRAINED)
    data.setup(stage)
    assert list(data.class_names) == TRAINED["class_names"]
    assert data.num_classes == 4
    return data


def test_labels_have_the_numbers_of_training_by_their_names(tmp_path):
    """Of a detector of planes, ships, ..., data of ships and tents stay ships and tents."""
    part = tmp_path / "val"
    write_scenes(part, 3, names=["ship", "ship", "tent"])
    options = {"image_size": 128, "gap": 0, "eval_batch_size": 9}
    for classes in (["tent", "ship"], None):
        data = with_facts(DOTA(str(tmp_path), classes=classes, **options), "test")
        (batch,) = data.test_dataloader()
        labels = {int(label) for label in batch["label"].unique() if label >= 0}
        assert labels == {1, 3}
    # numbers of a file, which has an order of its own
    (part / "labels").mkdir()
    (part / "labels" / "photo0.txt").write_text("0 0 0 .5 0 .5 .5 0 .5\n1 0 0 .5 0 .5 .5 0 .5")
    data = with_facts(YOLOOBB(str(tmp_path), ["tent", "ship"], **options), "test")
    assert data.test_set[0]["label"].tolist() == [3, 1]
    with pytest.raises(IncompatibleError, match=r"cannot be told by it"):
        with_facts(DOTA(str(tmp_path), classes=["ship", "bridge"], **options), "test")


def test_rendered_scenes_have_the_numbers_of_training(tmp_path):
    sizes = {"num_train": 1, "num_val": 8, "image_size": 96}
    plain, numbered = (RenderedScenes(**sizes) for _ in range(2))
    plain.setup("validate")
    with_facts(numbered, "validate")
    # ships, planes and vehicles are 0, 1 and 2 by themselves
    expected = torch.tensor([1, 0, 2])[plain.val_set.objects.rows.label]
    assert torch.equal(numbered.val_set.objects.rows.label, expected)


def test_pictures_without_labels_need_the_names_of_training(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    data = with_facts(ImageTiles(str(tmp_path), image_size=64, gap=0), "predict")
    assert data.image_names == ["a"]
    with pytest.raises(IncompatibleError, match="cannot be told by it"):
        with_facts(ImageTiles(str(tmp_path), ["bridge"], image_size=64, gap=0), "predict")


def test_a_model_has_as_many_classes_as_its_data():
    data = RenderedScenes(num_train=2, num_val=0, image_size=96)
    model = GGHL.for_data(data, widths=(4, 4, 6, 8, 8), neck_width=8)
    assert model.num_classes == 3
    with pytest.raises(
        ValueError, match=r"set model\.num_classes, or in Python use GGHL\.for_data"
    ):
        GGHL()
