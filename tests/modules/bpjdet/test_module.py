"""BPJDet as a module: terms, anchors, evaluation in original pixels, and what it refuses."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

import trimtab
from datamodules import Digits, RenderedCrowds
from framework.detection.body_parts.association import BodyPartAssociator
from framework.detection.body_parts.people import People, pad_people
from framework.objectives.errors import IncompatibleError
from framework.utilities import packages
from modules.bpjdet.anchor_grid import BOX_CHANNELS, OBJECTNESS, AnchorGrid
from modules.bpjdet.anchors import P6_ANCHORS, fit_anchors
from modules.bpjdet.assignment import UNSURE, AnchorAssigner
from modules.bpjdet.loss import ExtendedObjectLoss
from modules.bpjdet.module import BPJDet
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET, ROOT
from tests.helpers.tiny import tiny_trainer
from tests.pretended_gpu.device import pretended_gpu

SMALL = {"size": "tiny", "strides": (8, 16, 32)}
CROWD = {"num_classes": 3, "slot_classes": (1, 2, 2), **SMALL}


@pytest.fixture(scope="module")
def data():
    crowds = RenderedCrowds(num_train=6, num_val=4, image_size=96, batch_size=6)
    crowds.setup("fit")
    return crowds


@pytest.fixture
def batch(data):
    return next(iter(data.val_dataloader()))


def attached(net, training=True):
    """Return the module as it stands in a run."""
    net.trainer = tiny_trainer("unused", [], False)
    return net.train(training)


def test_the_data_say_what_the_arguments_leave_open(data):
    net = BPJDet.for_data(data, **SMALL)
    assert (net.num_classes, net.slot_classes) == (3, (1, 2, 2))
    assert net.loss.weights["objectness"] == pytest.approx(0.7 * (96 / 640) ** 2)


def test_terms_are_those_of_the_loss_per_image(batch):
    net = attached(BPJDet(**CROWD), training=False)
    objectives = net.objectives(batch)
    assert set(objectives.per_sample) == {"box", "objectness", "class", "part"}
    assert objectives.weights == net.loss.weights
    assert all(value.shape == (4,) for value in objectives.per_sample.values())
    assert float(objectives.logs["unreachable"]) >= 0
    assert float(objectives.logs["positives"]) > 0


def test_predictions_are_yes_and_no_of_every_prediction(batch):
    net = attached(BPJDet(**CROWD), training=False)
    objectives = net.objectives(batch)
    raw = net(batch["image"])
    yes = objectives.predictions.softmax(-1)[..., 0]
    expected = raw[..., OBJECTNESS : BOX_CHANNELS + 3].sigmoid()
    torch.testing.assert_close(yes, expected)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_without_people_trains(batch, rows):
    net = attached(BPJDet(**CROWD))
    empty = {name: value[:rows] for name, value in batch.items()}
    empty["num_people"] = torch.zeros_like(empty["num_people"])
    objectives = net.objectives(empty)
    for name in ("box", "class", "part"):
        assert float(objectives.per_sample[name].detach().sum()) == 0
    sum(value.sum() for value in objectives.per_sample.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_people_are_assigned_before_the_batch_leaves_the_cpu(batch):
    net = attached(BPJDet(**CROWD), training=False)
    prepared = net.prepare_on_cpu(batch)
    assert "assignment" not in batch
    assert "assignment" in prepared
    for name, value in net.objectives(batch).per_sample.items():
        assert torch.equal(value, net.objectives(prepared).per_sample[name])


def test_a_step_waits_for_nothing(batch):
    net = attached(BPJDet(**CROWD))
    batch = net.prepare_on_cpu(batch)
    with pretended_gpu(ROOT) as gpu:
        net.cuda()
        batch = net.transfer_batch_to_device(batch, torch.device("cuda", 0), 0)
        net.objectives(batch)  # makes the constants
        waits = gpu.log.count("wait")
        objectives = net.objectives(batch)
        sum(value.sum() for value in objectives.per_sample.values()).backward()
        assert gpu.log.count("wait") == waits


def test_anchors_are_fitted_to_small_people_and_restored(tmp_path):
    args = ["fit", *arguments("bpjdet"), *QUIET, f"--run_folder={tmp_path}"]
    args += ["--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--checkpoint.monitor=null"]
    trimtab.main(args)
    found = trimtab.load(str(tmp_path / "checkpoints" / "last.ckpt"))
    published = BPJDet(**CROWD).anchors
    assert found.anchors.shape == published.shape
    assert float(found.anchors.max()) < float(published.max())
    crowds = found.make_datamodule()
    crowds.setup("fit")
    assert torch.equal(found.anchors, fit_anchors(crowds.object_sizes(), published))


def test_people_are_assigned_to_anchors_that_a_later_fit_finds(data, batch):
    net = attached(BPJDet.for_data(data, **SMALL))
    net.prepare_on_cpu(batch)
    net.trainer.datamodule = data
    net.setup("fit")
    assert float(net.anchors.max()) < float(BPJDet(**CROWD).anchors.max())
    found = net.prepare_on_cpu(batch)["assignment"]
    expected = AnchorAssigner(net.anchors, net.strides)(batch, net.slot_classes, (96, 96))
    assert found.prediction.tolist() == expected.prediction.tolist()


@pytest.mark.parametrize(("letterboxed", "refused"), [(False, False), (True, True)])
def test_a_precision_that_moves_boxes_is_refused(letterboxed, refused, data, monkeypatch):
    monkeypatch.setattr(data, "is_letterboxed", letterboxed)
    net = BPJDet(**CROWD)
    net.trainer = tiny_trainer("unused", [], False, precision="bf16-true")
    net.trainer.datamodule = data
    with pytest.raises(IncompatibleError, match="use bf16-mixed") if refused else nullcontext():
        net.setup("predict")


@pytest.mark.pictures
def test_a_run_has_its_figures(tmp_path):
    args = [*arguments("bpjdet"), f"--run_folder={tmp_path}", *QUIET]
    trimtab.main(["fit", *args, "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"])
    figures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    expected = {"val_people", "val_miss_rate", "val_miss_matching_rate"}
    assert figures == {"learning_curves", *expected}


def planted(net, image_size, person):
    """Return raw output that finds a body of a person, and its head, for certain."""
    grid = AnchorGrid.of(image_size, net.anchors, net.strides)
    raw = torch.full((1, len(grid), BOX_CHANNELS + net.num_classes + 2), -12.0)
    for number, (label, box, point) in enumerate(person):
        center = (box[:2] + box[2:]) / 2
        size = box[2:] - box[:2]
        stride, anchor = grid.stride[:, None], grid.anchor
        t = (center / stride - grid.cell + 0.5) / 2
        s = (size / anchor).sqrt() / 2
        p = ((point - grid.cell * stride) / anchor + 2) / 4
        every = torch.cat([t, s, p], 1)
        fits = ((every > 0.05) & (every < 0.95)).all(1).nonzero().flatten()
        row = int(fits[number])
        logits = torch.logit(every[row])
        raw[0, row, :4], raw[0, row, -2:] = logits[:4], logits[4:]
        raw[0, row, OBJECTNESS] = raw[0, row, BOX_CHANNELS + label] = 12.0
    return raw


def test_results_are_in_pixels_of_the_original_image(monkeypatch):
    """An image of 120 x 80 pixels was halved, and filled up to 64 x 64 on all sides."""
    net = BPJDet(num_classes=2, slot_classes=(1,), **SMALL)
    original = {
        "bodies": torch.tensor([[20.0, 10, 60, 78]]),
        "parts": torch.tensor([[[32.0, 14, 48, 30]]]),
    }
    offset, scale = torch.tensor([-2.0, -12.0]), torch.tensor(0.5)
    inside = {
        name: (value.unflatten(-1, (2, 2)) * scale - offset).flatten(-2)
        for name, value in original.items()
    }
    body, head = inside["bodies"][0], inside["parts"][0, 0]
    person = [(0, body, (head[:2] + head[2:]) / 2), (1, head, (body[:2] + body[2:]) / 2)]
    raw = planted(net, (64, 64), person)
    monkeypatch.setattr(net, "forward", lambda image: raw)
    people = People(
        **inside,
        visible=torch.tensor([[True]]),
        part_ignored=torch.tensor([[False]]),
        visible_ratio=torch.ones(1),
        ignored=torch.tensor([False]),
    )
    sample = {
        "image": torch.zeros(3, 64, 64),
        **people.fields(),
        "letterbox_offset": offset,
        "letterbox_scale": scale,
        "image_size": torch.tensor([120.0, 80.0]),
        "index": torch.tensor(0),
    }
    batch = pad_people([sample])
    attached(net, training=False)
    (found,) = net.predict_step(batch, 0)
    assert found["labels"].tolist() == [0, 1]
    torch.testing.assert_close(found["boxes"][0], original["bodies"][0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found["boxes"][1], original["parts"][0, 0], rtol=0, atol=1e-3)
    assert found["body"].tolist() == [-1, 0]
    metrics = net.make_metrics()
    monkeypatch.setattr(BPJDet, "metrics", metrics)
    net.evaluate(batch)
    values = {name: metric.compute() for name, metric in metrics.items()}
    assert float(values["joint"]["joint_ap"]) == 1
    assert float(values["matching"]["mmr"]) == 0


def test_contact_states_have_a_term_of_their_own(batch):
    net = attached(BPJDet(**CROWD, num_states=12), training=False)
    states = torch.full((*batch["visible"].shape, 4), UNSURE)
    unsure = net.objectives({**batch, "states": states})
    assert unsure.weights["state"] == pytest.approx(0.01)
    assert float(unsure.per_sample["state"].detach().abs().sum()) == 0
    known = net.objectives({**batch, "states": torch.zeros_like(states)})
    assert float(known.per_sample["state"].detach().min()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slot_classes": (3,)}, r"slot_classes must be classes from 1 to 2"),
        ({"slot_classes": ()}, r"slot_classes must be classes from 1 to 2"),
        ({"num_states": 3}, r"num_states must be 0, or 4 for each of 3 slots"),
        ({"protocols": ["coco"]}, r"protocols.*'coco'"),
        ({"protocols": ["crowdhuman", "citypersons"]}, r"crowdhuman or citypersons"),
        ({"anchors": [[[10.0, 20.0]]]}, r"anchors must be \(3, A, 2\) for the strides"),
        ({"body_score": 1.5}, r"body_score"),
        ({"num_classes": None}, r"set model.num_classes"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        BPJDet(**{**CROWD, **arguments})


def test_data_without_people_are_refused():
    digits = Digits()
    digits.setup("fit")
    net = attached(BPJDet(**CROWD))
    with pytest.raises(IncompatibleError, match="take RenderedCrowds or BodyParts"):
        net.objectives(next(iter(digits.train_dataloader())))


def test_other_slots_are_refused(tmp_path, capsys):
    args = ["fit", *arguments("bpjdet"), *QUIET, f"--run_folder={tmp_path}"]
    with pytest.raises(SystemExit):
        trimtab.main([*args, "--model.num_classes=3", "--model.slot_classes=[1,2]"])
    assert "slots of the data have the classes [1, 2, 2]" in capsys.readouterr().err


def test_sides_of_images_must_be_whole_cells():
    net = BPJDet(**CROWD)
    net.trainer = tiny_trainer("unused", [], False)
    net.trainer.datamodule = RenderedCrowds(num_train=1, image_size=100)
    message = "have 100 x 100 pixels, and BPJDet takes multiples of 32: set data.image_size to 96"
    with pytest.raises(IncompatibleError, match=message):
        net.setup("fit")


def test_metrics_of_coco_need_a_package(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert "joint" in BPJDet(**CROWD, protocols=["bodyhands"]).make_metrics()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trimtab\[detection\]'"):
        BPJDet(**CROWD, protocols=["cocohumanparts"]).make_metrics()


def test_an_export_says_how_it_is_decoded():
    facts = BPJDet(**CROWD).decoding_facts
    assert facts["slot_classes"] == [1, 2, 2]
    assert facts["strides"] == [8, 16, 32]
    assert torch.equal(torch.tensor(facts["anchors"]), torch.tensor(P6_ANCHORS[:3]).float())


def test_a_trained_model_predicts_json_and_pictures(tmp_path):
    args = [*arguments("bpjdet"), *QUIET, f"--run_folder={tmp_path}"]
    trimtab.main(["fit", *args, "--trainer.max_epochs=1", "--trainer.limit_val_batches=1"])
    low = ["--model.body_score=0.0", "--model.part_score=0.0", "--model.max_detections=5"]
    trimtab.main(["predict", *args, *low, "--ckpt_path=last"])
    results = json.loads((tmp_path / "detections" / "detections.json").read_text())
    assert {entry["image_id"] for entry in results} == set(range(6))
    assert {entry["category"] for entry in results} >= {"body"}
    assert len(list((tmp_path / "detections").glob("*.png"))) == 6


def test_the_association_is_an_argument():
    net = BPJDet(**CROWD, associator=BodyPartAssociator(mode="overlap"))
    assert net.associator.mode == "overlap"
    assert isinstance(net.loss, ExtendedObjectLoss)
