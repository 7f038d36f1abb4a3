"""Photographs of people from the command line: trained on, found, drawn, and scored by all metrics.

A network that is shown four photographs, with 14 people on them, must find these people again.
"""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch
from PIL import Image

import trimtab
from datamodules.body_parts import BodyParts
from datamodules.body_parts.coco import read_coco_wholebody
from datamodules.body_parts.crowdhuman import read_crowdhuman
from framework.detection.body_parts.association import associate
from framework.detection.body_parts.crowdhuman_average_precision import CrowdHumanAveragePrecision
from framework.detection.body_parts.joint_average_precision import JointAveragePrecision
from framework.detection.body_parts.miss_matching_rate import MissMatchingRate
from framework.detection.body_parts.parts_average_precision import PartsAveragePrecision
from framework.detection.body_parts.people import people_of
from framework.detection.tiles import to_whole_image
from tests.helpers.data import shared_data
from tests.helpers.evaluated_people import as_found, truth_of
from tests.helpers.runs import QUIET

LABELS = "annotations/test_coco_wholebody.json"
CLASSES = ("body", "face", "left_hand", "right_hand")


def arguments(run, image_size):
    root = shared_data("coco_wholebody_sample")
    return [
        *("--model=BPJDet", "--model.size=tiny", "--model.strides=[8,16,32]"),
        "--model.protocols=[crowdhuman,bodyhands,cocohumanparts]",
        *("--data=BodyParts", f"--data.root={root}", "--data.format=coco_wholebody"),
        *(f"--data.train={LABELS}", f"--data.val={LABELS}"),
        *("--data.train_images=images", "--data.val_images=images", "--data.batch_size=4"),
        *(f"--data.image_size={image_size}", f"--run_folder={run}", *QUIET),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of two steps of training."""
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    folder = tmp_path_factory.mktemp("run")
    short = ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
    trimtab.main(["fit", *arguments(folder, 96), *short])
    return folder


def values_of(path, prefix):
    """Return the last values of the metrics of a stage."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        name.removeprefix(f"{prefix}/"): float(value)
        for row in rows
        for name, value in row.items()
        if name.startswith(f"{prefix}/") and value not in ("", None)
    }


def test_photographs_are_trained_on_and_scored_by_every_protocol(run):
    values = values_of(run / "metrics.csv", "val")
    expected = {"joint_ap", "conditional_accuracy", "mmr", "map", "map_subordinate"}
    expected |= {f"{name}_ap_crowdhuman" for name in CLASSES} | {f"{name}_mr" for name in CLASSES}
    expected |= {"face_mmr_reasonable", "face_mmr_small", "left_hand_joint_ap", "right_hand_ap_50"}
    assert values.keys() >= expected
    assert all((run / "figures" / f"val_{n}.png").is_file() for n in ("people", "miss_rate"))
    last = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    trimtab.main(["validate", last, "--model.protocols=[citypersons]", *QUIET])
    values = values_of(run / "metrics_validate.csv", "val")
    assert values.keys() >= {"face_mmr_bare", "face_mmr_partial", "body_mr"}


@pytest.mark.parametrize(("labeled", "number"), [(True, 4), (False, 13)])
def test_photographs_are_predicted_in_their_own_pixels(run, tmp_path, labeled, number):
    root = shared_data("coco_wholebody_sample" if labeled else "bodypart_unlabelled")
    args = ["predict", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", *QUIET]
    args += ["--data.eval_batch_size=1"]
    if not labeled:
        args += ["--data=BodyParts", f"--data.root={root}"]
    # from the start nothing is found for certain
    args += ["--model.body_score=0", "--model.part_score=0", "--model.max_detections=9"]
    trimtab.main([*args, f"--run_folder={tmp_path}"])
    folder = tmp_path / "detections"
    results = json.loads((folder / "detections.json").read_text())
    names = {entry["file_name"] for entry in results}
    assert len(names) == number == len(list(folder.glob("*.png")))
    assert {entry["category"] for entry in results} <= set(CLASSES)
    model = trimtab.load(run)
    model.body_score = model.part_score = 0
    model.max_detections = 9
    above = root / "images" if labeled else root
    for name in sorted(names)[:4]:
        of_image = [entry for entry in results if entry["file_name"] == name]
        (found,) = model.predict(above / name)
        corners = torch.tensor([entry["bbox"] for entry in of_image])
        corners[:, 2:] += corners[:, :2]
        assert torch.allclose(found["boxes"], corners, atol=0.02)
        with Image.open(above / name) as photograph:
            (same,) = model.predict(photograph)
        assert torch.equal(same["boxes"], found["boxes"])
        assert corners[:, 2].max() > 96, "not in pixels of a square of 96"
        first = of_image[0]["id"]
        owners = [entry.get("body_id") for entry in of_image]
        assert [-1 if o is None else o - first for o in owners] == found["body"].tolist()
    several = model.predict([str(above / name) for name in sorted(names)[:4]])
    torch.testing.assert_close(several[3]["scores"][0], found["scores"][0])


@pytest.mark.slow
def test_a_network_finds_the_people_that_it_was_shown(tmp_path):
    """Reached: AP 0.864, of an overlap of 0.5 all 1, joint AP and conditional accuracy 1, mMR 0.

    Half of the steps find half of the people: batch norm's running values, which move by 0.03 a
    step, have to arrive where the weights are.
    """
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    learned = [
        *("--model.optimizer=AdamW", "--model.optimizer.lr=0.006"),
        *("--model.lr_scheduler=WarmupCosine", "--model.lr_scheduler.warmup_fraction=0.1"),
        # of images this small the objectness would weigh little
        "--model.loss=ExtendedObjectLoss",
        "--model.loss.weights={box: 0.1, objectness: 0.7, class: 0.1, part: 0.05}",
        *("--trainer.gradient_clip_val=10", "--trainer.max_epochs=320", "--seed_everything=0"),
        *("--trainer.check_val_every_n_epoch=320", "--trainer.log_every_n_steps=1"),
    ]
    trimtab.main(["fit", *arguments(tmp_path, 160), *learned])
    values = values_of(tmp_path / "metrics.csv", "val")
    assert values["map"] > 0.6
    assert values["map_50"] > 0.9
    assert values["joint_ap"] > 0.9
    assert values["mmr"] < 0.1
    assert values["body_mr"] < 0.1
    trimtab.main(["predict", f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}", *QUIET])
    results = json.loads((tmp_path / "detections" / "detections.json").read_text())
    certain = [entry for entry in results if entry["score"] > 0.45]
    found = {name: sum(entry["category"] == name for entry in certain) for name in CLASSES}
    assert found == {"body": 14, "face": 4, "left_hand": 5, "right_hand": 5}
    assert all(entry["body_id"] is not None for entry in certain if entry["category"] != "body")


def photographed():
    """Return the people of the four photographs, which were resized and returned."""
    data = BodyParts(
        str(shared_data("coco_wholebody_sample")),
        "coco_wholebody",
        image_size=640,
        train=None,
        val=LABELS,
        val_images="images",
    )
    data.setup("validate")
    (batch,) = data.val_dataloader()
    truth = people_of(batch)
    for image, one in enumerate(truth):
        place = batch["letterbox_offset"][image], batch["letterbox_scale"][image]
        for name in ("bodies", "parts"):
            corners = one[name].unflatten(-1, (2, 2))
            one[name] = to_whole_image(corners, *place).flatten(-2)
        one["image_size"] = batch["image_size"][image]
    return truth, CLASSES, (1, 2, 3)


def crowdpose():
    """Return two crowds of bodies whose parts nobody labeled."""
    images = read_coco_wholebody(shared_data("crowdpose_sample", "test_crowdpose.json"))
    truth = [{**i.people.fields(), "image_size": torch.tensor(i.size).float()} for i in images]
    return truth, CLASSES, (1, 2, 3)


def crowdhuman():
    """Return six people with their heads beside a region to be ignored."""
    folder = shared_data("crowdhuman_annotation")
    height, width = next(iter(json.loads((folder / "id_hw_train.json").read_text()).values()))
    path = folder / "test_annotation_train.odgt"
    (image,) = read_crowdhuman(path, lambda name: (width, height))
    size = torch.tensor([float(width), float(height)])
    return [{**image.people.fields(), "image_size": size}], ("body", "head"), (1,)


@pytest.mark.parametrize("labels", [photographed, crowdpose, crowdhuman])
def test_the_truth_given_as_detections_is_perfect(labels):
    truth, names, slots = labels()
    found = [as_found(one, slots) for one in truth]
    counts = dict.fromkeys(names, 0)
    for one in truth:
        counts[names[0]] += int((~one["ignored"]).sum())
        for slot, label in enumerate(slots):
            counts[names[label]] += int(one["visible"][:, slot].sum())

    def score(metric):
        metric.update(found, truth, torch.arange(len(truth)))
        return {name: float(v) for name, v in metric.compute().items() if v.ndim == 0}

    precision = score(CrowdHumanAveragePrecision(names, slots))
    for name, number in counts.items():
        if number:
            # between two detections, of which there is one less
            expected = (number - 1) / number
            assert precision[f"{name}_ap_crowdhuman"] == pytest.approx(expected, abs=1e-6)
            assert precision[f"{name}_mr"] == 0
        else:
            assert math.isnan(precision[f"{name}_mr"])
    for subsets in ("crowdhuman", "citypersons"):
        rates = score(MissMatchingRate(names, slots, subsets=subsets))
        assert all(rate == 0 or math.isnan(rate) for rate in rates.values())
        assert (rates["mmr"] == 0) == any(counts[name] for name in names[1:])
    joint = score(JointAveragePrecision(names, slots))
    assert all(value == 1 or math.isnan(value) for value in joint.values())
    assert (joint["joint_ap"] == 1) == any(counts[name] for name in names[1:])


@pytest.mark.parametrize("labels", [photographed, crowdpose, crowdhuman])
def test_the_truth_given_as_detections_is_perfect_by_the_rules_of_coco(labels):
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    truth, names, slots = labels()
    metric = PartsAveragePrecision(names, slots)
    metric.update([as_found(t, slots) for t in truth], truth, torch.arange(len(truth)))
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values["map"] == values["body_ap_75"] == values["map_subordinate"] == 1
    assert all(value == 1 or math.isnan(value) for value in values.values())


@pytest.mark.parametrize("mode", ["body_to_part", "part_to_body", "mutual"])
@pytest.mark.parametrize("labels", [photographed, crowdhuman])
def test_true_points_associate_true_parts(labels, mode):
    """Every labeled hand lies in its person's box by more than the share that is asked for."""
    truth, _, slots = labels()
    for one in truth:
        kept = ~one["ignored"]
        one = truth_of(*(one[name][kept] for name in ("bodies", "parts")), **seen(one, kept))
        found = as_found(one, slots)
        count = len(one["bodies"])
        points = torch.zeros(len(found["boxes"]), len(slots), 2)
        points[:count] = (one["parts"][..., :2] + one["parts"][..., 2:]) / 2
        bodies = one["bodies"][found["body"][count:]]
        points[count:, 0] = (bodies[:, :2] + bodies[:, 2:]) / 2
        answer = associate({**found, "points": points}, slots, mode=mode)
        assert answer["body"].tolist() == found["body"].tolist()


def seen(one, kept):
    return {name: one[name][kept] for name in ("visible", "part_ignored")}
