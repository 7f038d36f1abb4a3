"""Results and pictures of detected bodies and parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.people_writer import PeopleWriter
from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset
from framework.detection.pictures import read_picture
from framework.training.evaluation import EvaluationModule
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

CLASSES = ["body", "head"]
NUMBERS = [2, 1, 0, 2, 1]
"""Detections on each image: a body, and then its head."""


class Detector(EvaluationModule):
    """Finds as many things as the first number of an image says."""

    predicts_rows = False
    num_classes = 2
    num_states = 0
    slot_classes = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(1, 1)

    def associated(self, *args):
        raise NotImplementedError

    def predict_step(self, batch, batch_idx):
        body, head = [4.0, 2, 24, 60.125], [10.0, 4, 18, 14]
        found = {
            "boxes": torch.tensor([body, head]),
            "scores": torch.tensor([0.75, 0.5]),
            "labels": torch.tensor([0, 1]),
            "points": torch.tensor([[[14.0, 9]], [[14, 31]]]),
            "body": torch.tensor([-1, 0]),
            "slot": torch.tensor([-1, 0]),
        }
        numbers = batch["image"][:, 0, 0, 0].long().tolist()
        return [{name: value[:n] for name, value in found.items()} for n in numbers]

    def setup(self, stage: str) -> None:
        pass


class Pictures(DataModule):
    class_names = CLASSES

    def setup(self, stage=None):
        image = torch.zeros(len(NUMBERS), 3, 64, 32)
        image[:, 0, 0, 0] = torch.tensor(NUMBERS)
        self.predict_set = ArrayDataset(image=image)


class Twice(Pictures):
    """Gives every batch twice, as a sampler does that fills up the ranks."""

    def predict_dataloader(self):
        return DataLoader([*super().predict_dataloader()] * 2, batch_size=None)


class Named(Pictures):
    image_names = ("a/x.jpg", "b/x.jpg", "a_x.jpg", "a/x.png", "a_x.jpg")


def predict(folder: Path, settings=None, data=Pictures, **kwargs) -> Path:
    trainer = tiny_trainer(folder, [PeopleWriter(**kwargs)], False, **(settings or {}))
    trainer.predict(Detector(), data(2), return_predictions=False)
    return folder / "detections"


def check(folder: Path) -> None:
    results = json.loads((folder / "detections.json").read_text())
    assert [entry["id"] for entry in results] == [1, 2, 3, 4, 5, 6]
    assert [entry["image_id"] for entry in results] == [0, 0, 1, 3, 3, 4]
    assert [entry["category"] for entry in results] == [
        "body",
        "head",
        "body",
        "body",
        "head",
        "body",
    ]
    assert results[0] == {
        "id": 1,
        "image_id": 0,
        "file_name": "000000",
        "category_id": 1,
        "category": "body",
        "bbox": [4.0, 2.0, 20.0, 58.12],
        "score": 0.75,
        "part_centers": [[14.0, 9.0]],
    }
    assert [entry.get("body_id") for entry in results] == [None, 1, None, None, 4, None]


def test_results_are_coco_s(tmp_path, capsys):
    check(predict(tmp_path))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("detections:")]
    assert line.startswith("detections: 6 on 5 images in")
    assert line.endswith(", those of 0.45 and more drawn")


def test_an_image_that_comes_twice_counts_once(tmp_path):
    check(predict(tmp_path, data=Twice))


def test_images_of_one_name_have_a_picture_each(tmp_path):
    folder = predict(tmp_path, data=Named)
    assert {path.name for path in folder.glob("*.png")} == {
        "a_x.png",
        "b_x.png",
        "a_x.jpg.png",
        "a_x.png.png",
        "a_x.jpg_2.png",
    }


def test_pycocotools_reads_them(tmp_path):
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = {
        "images": [{"id": n, "width": 32, "height": 64} for n in range(5)],
        "categories": [{"id": 1, "name": "body"}, {"id": 2, "name": "head"}],
        "annotations": [],
        "info": {},
    }
    coco.createIndex()
    read = coco.loadRes(str(predict(tmp_path) / "detections.json"))
    assert len(read.getAnnIds(catIds=[2])) == 2


def test_pictures_show_what_is_certain_enough(tmp_path):
    folder = predict(tmp_path, pictures=2, picture_score=0.6)
    assert sorted(path.name for path in folder.glob("*.png")) == ["000000.png", "000001.png"]
    drawn = read_picture(folder / "000000.png")
    assert drawn[:, 40, 3:6].any()
    assert not drawn[:, 14, 11:17].any()


def test_other_modules_are_left_alone(tmp_path):
    trainer = tiny_trainer(tmp_path, [PeopleWriter()], False)
    trainer.predict(TinyModule(), TinyData(), return_predictions=False)
    assert not (tmp_path / "detections").exists()


def _on_a_rank(folder: str) -> None:
    target = Path(folder)
    predict(target, {"strategy": "ddp", "devices": 2}, pictures=3)
    torch.distributed.barrier()
    check(target / "detections")
    assert len(list((target / "detections").glob("*.png"))) == 3


def test_two_ranks_write_what_one_process_does(tmp_path, two_ranks):
    two_ranks(_on_a_rank, str(tmp_path))


@pytest.mark.parametrize("wrong", [{"pictures": -1}, {"picture_score": 1.5}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PeopleWriter(**wrong)
