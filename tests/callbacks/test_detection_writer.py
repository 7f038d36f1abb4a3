"""Result files and pictures of a detector's predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from callbacks.detection_writer import DetectionWriter
from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset
from framework.detection.pictures import read_picture
from framework.detection.result_files import read_results
from framework.training.evaluation import EvaluationModule
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

CLASSES = ["plane", "ship"]


def box(x: float) -> torch.Tensor:
    return torch.tensor([[x, 1.0], [x + 10, 1], [x + 10, 6], [x, 6]])


class Detector(EvaluationModule):
    """Finds a box at each number that an image's first row holds, its score in the second."""

    predicts_rows = False
    num_classes = 2
    merge_iou = 0.3
    score_threshold = 0.005

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(1, 1)

    def detect(self, image: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = []
        for picture in image:
            number = int(picture[0, 0, 0])
            place, score = picture[0, 1, :number], picture[0, 2, :number]
            boxes = [box(float(x)) for x in place]
            found.append(
                {
                    "boxes": torch.stack(boxes) if boxes else torch.zeros(0, 4, 2),
                    "scores": score,
                    "labels": (place > 50).long(),
                }
            )
        return found

    def predict_step(self, batch, batch_idx):
        return self.detect(batch["image"])

    def setup(self, stage: str) -> None:
        pass


def picture(places: list[float], scores: list[float]) -> torch.Tensor:
    image = torch.zeros(3, 24, 80)
    image[0, 0, 0] = len(places)
    image[0, 1, : len(places)] = torch.tensor(places)
    image[0, 2, : len(places)] = torch.tensor(scores)
    return image


class Pictures(DataModule):
    """Five images of their own, or six tiles of three images."""

    class_names = CLASSES

    def __init__(self, tiled: bool, batch_size: int = 2) -> None:
        super().__init__(batch_size)
        self.tiled = tiled
        if tiled:
            self.image_names = ["P1", "P2", "P3"]

    def setup(self, stage=None):
        images = [
            picture([0, 60], [0.5, 0.25]),
            picture([1, 20, 30], [0.75, 0.5, 0.125]),
            picture([], []),
            picture([70], [1.0]),
            picture([5], [0.5]),
            picture([0], [0.375]),
        ]
        fields = {}
        if self.tiled:
            # the second tile begins 1 pixel further left, in an image of half the size
            fields["image_id"] = torch.tensor([0, 0, 1, 1, 2, 2])
            fields["tile_offset"] = torch.tensor(
                [[0.0, 0], [-1, 0], [0, 0], [3, 4], [0, 0], [50, 0]]
            )
            fields["tile_scale"] = torch.tensor([1.0, 1, 1, 0.5, 1, 1])
        else:
            images = images[:5]
        self.predict_set = ArrayDataset(image=torch.stack(images), **fields)


def predict(folder: Path, tiled: bool, trainer_settings=None, **kwargs) -> Path:
    trainer = tiny_trainer(folder, [DetectionWriter(**kwargs)], False, **(trainer_settings or {}))
    trainer.predict(Detector(), Pictures(tiled), return_predictions=False)
    return folder / "detections"


def check_untiled(folder: Path) -> None:
    names = [f"{k:06d}" for k in range(5)]
    found = read_results(folder, names, CLASSES)
    assert [one["scores"].tolist() for one in found] == [
        [0.5, 0.25],
        [0.75, 0.5, 0.125],
        [],
        [1.0],
        [0.5],
    ]
    assert found[0]["labels"].tolist() == [0, 1]
    assert torch.equal(found[1]["boxes"], torch.stack([box(1), box(20), box(30)]))


def check_tiled(folder: Path) -> None:
    found = read_results(folder, ["P1", "P2", "P3"], CLASSES)
    # box 1 of the second tile lies on box 0 of the first and is more certain
    assert found[0]["scores"].tolist() == [0.75, 0.5, 0.25, 0.125]
    assert torch.equal(found[0]["boxes"][0], box(0))
    assert torch.equal(found[1]["boxes"][0], (box(70) + torch.tensor([3.0, 4.0])) / 0.5)
    # 5..15 and 50..60 of one image
    assert found[2]["scores"].tolist() == [0.5, 0.375]


def test_images_of_their_own_are_not_merged(tmp_path, capsys):
    check_untiled(predict(tmp_path, False))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("detections:")]
    assert line.startswith("detections: 7 on 5 images in")
    assert line.endswith(", scores above 0.005 written, of 0.3 and more drawn")


def test_classes_have_the_names_of_training(tmp_path, monkeypatch):
    """Predicted data that list ships alone do not turn planes into ships."""
    monkeypatch.setattr(Pictures, "class_names", ["ship"])
    monkeypatch.setattr(Detector, "class_names", CLASSES)
    check_untiled(predict(tmp_path, False))


def test_tiles_are_merged_on_whole_images(tmp_path, capsys):
    check_tiled(predict(tmp_path, True))
    assert "tiles merged at an overlap of 0.3" in capsys.readouterr().out


def test_pictures_show_what_is_certain_enough(tmp_path):
    folder = predict(tmp_path, False, pictures=2, picture_score=0.6)
    assert sorted(path.name for path in folder.glob("*.png")) == ["000000.png", "000001.png"]
    # nothing on the first is certain enough
    expected = (picture([0, 60], [0.5, 0.25]) * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(read_picture(folder / "000000.png"), expected)
    drawn = read_picture(folder / "000001.png")
    assert drawn[:, 6, 3].any()
    assert not drawn[:, 6, 22].any()


def test_other_modules_are_left_alone(tmp_path):
    trainer = tiny_trainer(tmp_path, [DetectionWriter()], False)
    trainer.predict(TinyModule(), TinyData(), return_predictions=False)
    assert not (tmp_path / "detections").exists()


def _on_a_rank(folder: str) -> None:
    check = {False: check_untiled, True: check_tiled}
    for tiled in (False, True):
        target = Path(folder) / str(tiled)
        predict(target, tiled, {"strategy": "ddp", "devices": 2}, pictures=3)
        torch.distributed.barrier()
        check[tiled](target / "detections")
        pictures = sorted(path.name for path in (target / "detections").glob("*.png"))
        assert pictures == ([] if tiled else ["000000.png", "000001.png", "000002.png"])


def test_two_ranks_write_what_one_process_does(tmp_path, two_ranks):
    two_ranks(_on_a_rank, str(tmp_path))


@pytest.mark.parametrize("wrong", [{"pictures": -1}, {"picture_score": 1.5}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DetectionWriter(**wrong)


def test_a_class_that_no_file_can_be_called_is_refused_before_it_predicts(tmp_path: Path) -> None:
    class Hostile(Detector):
        class_names = ("plane", "a/../../thesis")

    trainer = tiny_trainer(tmp_path, [DetectionWriter()], False)
    with pytest.raises(ValueError, match=r"A class is called 'a/\.\./\.\./thesis'"):
        trainer.predict(Hostile(), Pictures(tiled=False), return_predictions=False)
    assert not (tmp_path / "detections").exists()
