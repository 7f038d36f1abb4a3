"""GGHL as a module: terms, sizes, further losses, evaluation, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.utilities.data import _extract_batch_size
from torch import nn

import trimtab
from datamodules import Digits, RenderedScenes
from framework.command import cli
from framework.losses import ALDRLoss, CompSumLoss
from framework.objectives.errors import IncompatibleError
from modules.gghl import assignment, module
from modules.gghl.cells import Cells
from modules.gghl.loss import WEIGHTS, JointOptimizationLoss
from modules.gghl.module import GGHL
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET, ROOT
from tests.helpers.tiny import tiny_trainer
from tests.pretended_gpu.device import pretended_gpu

SMALL = {"num_classes": 3, "widths": (4, 4, 6, 8, 8), "neck_width": 8}


@pytest.fixture(scope="module")
def data():
    scenes = RenderedScenes(num_train=6, num_val=4, image_size=96, batch_size=6)
    scenes.setup("fit")
    return scenes


@pytest.fixture
def batch(data):
    return next(iter(data.val_dataloader()))


def attached(net, steps=0, training=True):
    """Return the module as it stands in a run after some steps."""
    torch.manual_seed(0)
    net.trainer = tiny_trainer("unused", [], False)
    net.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = steps  # noqa: E501
    assert net.global_step == steps
    return net.train(training)


def test_the_terms_are_those_of_the_loss(batch):
    net = attached(GGHL(**SMALL))
    objectives = net.objectives(batch)
    assert set(objectives.per_sample) == set(WEIGHTS)
    assert objectives.weights == WEIGHTS
    assert all(value.shape == (4,) for value in objectives.per_sample.values())
    assert objectives.rows == 4


def test_an_image_has_the_same_terms_alone(batch):
    net = attached(GGHL(**SMALL), training=False)
    together = net.objectives(batch).per_sample
    for row in range(4):
        alone = net.objectives({name: value[row : row + 1] for name, value in batch.items()})
        for name, value in alone.per_sample.items():
            torch.testing.assert_close(value[0], together[name][row], rtol=1e-5, atol=1e-6)


def test_predictions_are_yes_and_no_of_every_cell(batch):
    net = attached(GGHL(**SMALL), training=False)
    objectives = net.objectives(batch)
    raw = net(batch["image"])
    yes = objectives.predictions.softmax(-1)[..., 0]
    torch.testing.assert_close(yes, raw[..., 9:].sigmoid())
    assert torch.equal(net.predictions_of(raw), objectives.predictions)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_without_objects_trains(batch, rows):
    net = attached(GGHL(**SMALL))
    empty = {name: value[:rows] for name, value in batch.items()}
    empty["label"] = torch.full_like(empty["label"], -1)
    objectives = net.objectives(empty)
    total = sum(value.sum() for value in objectives.per_sample.values())
    assert float(total.detach()) == 0
    total.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_criterion_is_averaged_over_the_cells_of_an_image(batch):
    net = attached(GGHL(**SMALL, criterion=nn.CrossEntropyLoss(), criterion_weight=0.5))
    net.eval()
    objectives = net.objectives(batch)
    assert objectives.weights["class"] == 0.5
    raw = net(batch["image"])
    found = net.assigner(
        batch["quads"], batch["label"], batch["object_weight"], (96, 96), net.num_classes
    )
    for row in range(4):
        mine = found.image == row
        label = batch["label"][row, found.object[mine]]
        value = nn.functional.cross_entropy(raw[row, found.cell[mine], 10:], label)
        torch.testing.assert_close(objectives.per_sample["class"][row], value)


def test_a_criterion_of_ours_and_an_image_without_objects(batch):
    net = attached(GGHL(**SMALL, criterion=CompSumLoss(tau=1.7)))
    batch["label"][1] = -1
    value = net.objectives(batch).per_sample["class"]
    assert float(value[1].detach()) == 0
    assert float(value[0].detach()) > 0


def test_sizes_change_every_ten_steps_and_depend_on_the_step_alone(batch):
    sizes = []
    for step in (0, 9, 10, 25, 31, 47, 50, 63, 71, 88):
        net = attached(GGHL(**SMALL, multi_scale=(64, 96, 128)), step)
        image = net._resized(batch["image"])
        sizes.append(image.shape[-1])
        assert image.shape[-2] == image.shape[-1]
        assert torch.equal(image, net._resized(batch["image"]))
        size = (sizes[-1], sizes[-1])
        scaled = batch["quads"] * (sizes[-1] / 96)
        expected = net.assigner(scaled, batch["label"], batch["object_weight"], size, 3)
        assert torch.equal(net._assign(batch, size).cell, expected.cell)
        assert net.objectives(batch).predictions.shape[1] == 21 * (sizes[-1] // 32) ** 2
    assert sizes[0] == sizes[1]
    assert set(sizes) == {64, 96, 128}


def test_evaluation_keeps_the_size(batch):
    net = attached(GGHL(**SMALL, multi_scale=(64,)), training=False)
    assert net._resized(batch["image"]) is batch["image"]


def test_half_precision_changes_little(batch):
    net = attached(GGHL(**SMALL))
    exact = net.objectives(batch).per_sample
    with torch.autocast("cpu", torch.bfloat16):
        half = net.objectives(batch).per_sample
    for name, value in exact.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=0.05, atol=0.02)


def perfect(net, batch):
    """Let the network find exactly the true objects."""

    def detect(raw, grid, extent):
        found = module.objects_of(batch)
        return [
            {"boxes": o["boxes"], "labels": o["labels"], "scores": torch.ones(len(o["labels"]))}
            for o in found
        ]

    net.detect = detect


def evaluate(net, batch):
    net.setup_metrics()
    net.evaluate(batch)
    return net.metrics.compute()


def test_true_objects_have_a_precision_of_one(batch):
    net = attached(GGHL(**SMALL), training=False)
    perfect(net, batch)
    values = evaluate(net, batch)
    assert float(values["map"]) == 1
    assert "samples" not in values  # the size of the images is not known here


def test_tiles_are_evaluated_on_their_whole_images(batch):
    # images 0 and 1 are tiles of one image of half the size, the second 32 pixels to the right
    net = attached(GGHL(**SMALL), training=False)
    net.trainer.datamodule = type("Tiled", (), {"is_tiled": True, "input_shape": (3, 96, 96)})()
    perfect(net, batch)
    batch = {name: value[:2] for name, value in batch.items()}
    offset = torch.tensor([[0.0, 0.0], [32.0, 0.0]])
    tiles = {
        "image_id": torch.tensor([5, 5]),
        "tile_offset": offset,
        "tile_scale": torch.full((2,), 0.5),
    }
    whole = (batch["quads"] + offset[:, None, None]) / 0.5
    label = batch["label"]
    tiles["image_quads"] = torch.cat([whole[:1], whole[1:]], 1).repeat(2, 1, 1, 1)
    tiles["image_label"] = torch.stack([label.flatten(), torch.full((label.numel(),), -1)])
    tiles["image_difficult"] = torch.zeros_like(tiles["image_label"], dtype=torch.bool)
    perfect(net, batch)
    values = evaluate(net, batch | tiles)
    assert float(values["map_50"]) == 1


def test_a_figure_has_a_name_for_every_class_of_the_model(batch):
    net = attached(GGHL(**{**SMALL, "num_classes": 5}), training=False)
    net.trainer.datamodule = type(
        "Two", (), {"class_names": ("a", "b"), "input_shape": (3, 96, 96)}
    )()
    certain = {
        "boxes": batch["quads"][0, :1],
        "scores": torch.tensor([0.9]),
        "labels": torch.tensor([4]),
    }
    net.detect = lambda *_, **__: [certain] * 4
    figure = net.figures("val", evaluate(net, batch))["detections"]
    assert [text.get_text() for text in figure.legends[0].texts][1:] == ["class4"]


def test_class_names_of_other_data_are_refused(data):
    net = GGHL(**{**SMALL, "num_classes": 2})
    net.trainer = tiny_trainer("unused", [], False)
    net.trainer.datamodule = data
    with pytest.raises(
        IncompatibleError, match=r"RenderedScenes has num_classes 3, .* model.num_cl"
    ):
        net.setup("fit")


def test_data_without_objects_is_refused():
    digits = Digits()
    digits.setup("fit")
    batch = next(iter(digits.train_dataloader()))
    with pytest.raises(IncompatibleError, match="learns from oriented objects"):
        attached(GGHL(**SMALL)).objectives(batch)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"multi_scale": (100,)}, "multiples of 32, got 100"),
        ({"criterion": ALDRLoss()}, "needs `index`, which cells do not have"),
        ({"criterion_weight": -1.0}, "criterion_weight must be at least 0"),
        ({"nms_iou": 1.5}, r"nms_iou must lie in \[0, 1\]"),
        ({"max_detections": 0}, "max_detections must be at least 1"),
        ({"assigner": assignment.OrientedGaussianAssigner((4, 8, 16))}, "are not the network's"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        GGHL(**SMALL, **wrong)


def test_the_loss_is_made_for_the_classes():
    net = GGHL(
        **{**SMALL, "num_classes": 7}, loss=lambda c: JointOptimizationLoss(c, smoothing=0.05)
    )
    assert net.loss.num_classes == 7
    assert net.loss.smoothing == 0.05


def validated(folder, **settings) -> dict[str, float]:
    trimtab.import_configurable_classes()
    torch.set_num_threads(1)
    args = [*arguments("gghl"), f"--run_folder={folder}", *QUIET]
    args += [f"--trainer.{name}={value}" for name, value in settings.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GGHL, "_on_whole_images", shifted_truth)
        run = cli.run(["validate", *args, "--data.num_val=11"])
    return {name: float(value) for name, value in run.trainer.callback_metrics.items()}


def shifted_truth(net, found, batch):
    """Stand for what a trained network finds: the objects, here and there, more or less certain."""
    found = []
    for objects, index in zip(module.objects_of(batch), batch["index"].tolist(), strict=True):
        number = torch.arange(len(objects["labels"]))
        shift = 1.5 * ((7 * index + 3 * number) % 5)
        found.append(
            {
                "boxes": objects["boxes"] + shift[:, None, None],
                "labels": objects["labels"],
                "scores": 0.1 + 0.1 * ((index + 2 * number) % 4),
            }
        )
    return found


def test_two_ranks_evaluate_as_one_process(tmp_path, two_ranks):
    one = validated(tmp_path / "one")
    for two in two_ranks(validated, tmp_path / "two", strategy="ddp", devices=2):
        assert two == pytest.approx(one, rel=1e-6)
    assert 0.2 < one["val/map_50"] < 0.95


@pytest.mark.pictures
def test_a_run_in_bfloat16_has_its_figures(tmp_path):
    args = [*arguments("gghl"), f"--run_folder={tmp_path}", *QUIET]
    trimtab.main(["fit", *args, "--trainer.max_epochs=1", "--trainer.precision=bf16-true"])
    figures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert figures == {"learning_curves", "val_detections", "val_precision_recall"}


@pytest.mark.parametrize(
    ("precision", "size", "refused"),
    [("bf16-true", 256, False), ("bf16-true", 288, True), ("bf16-mixed", 288, False)],
)
def test_a_precision_that_moves_boxes_is_refused(precision, size, refused):
    net = GGHL(**SMALL)
    net.trainer = tiny_trainer("unused", [], False, precision=precision)
    net.trainer.datamodule = RenderedScenes(num_train=1, image_size=size)
    if refused:
        with pytest.raises(IncompatibleError, match=r"beyond 256 pixels.* use bf16-mixed"):
            net.setup("test")
    else:
        net.setup("test")


# ---- on a device that must not be waited for ----------------------------------------------------


@pytest.mark.parametrize(("criterion", "most"), [(None, 420), (CompSumLoss(tau=1.7), 474)])
def test_a_step_waits_for_nothing_and_launches_little(batch, criterion, most):
    net = attached(GGHL(**SMALL, criterion=criterion))
    batch = net.prepare_on_cpu(batch)
    with pretended_gpu(ROOT) as gpu:
        net.cuda()
        batch = net.transfer_batch_to_device(batch, torch.device("cuda", 0), 0)
        net.objectives(batch)  # makes the constants
        waits, launches = gpu.log.count("wait"), gpu.log.launches.total()
        objectives = net.objectives(batch)
        sum(value.sum() for value in objectives.per_sample.values()).backward()
        assert gpu.log.count("wait") == waits
        assert gpu.log.launches.total() - launches <= most


def test_objects_are_assigned_once_and_before_the_batch_moves(batch, monkeypatch):
    net = attached(GGHL(**SMALL, multi_scale=(64, 128)))
    moved = net.prepare_on_cpu(batch)
    assert "assignment" not in batch
    with monkeypatch.context() as patch:
        patch.setattr(net.assigner, "forward", None)
        prepared = net.objectives(moved).per_sample
    made_anew = net.objectives(batch).per_sample
    assert all(torch.equal(value, made_anew[name]) for name, value in prepared.items())
    # what a guide evaluates has another size than a training step, for which it was moved
    net.eval()
    values = net.objectives(moved).per_sample
    assert all(
        torch.equal(value, values[name]) for name, value in net.objectives(batch).per_sample.items()
    )


def test_lightning_still_tells_the_size_of_a_batch(batch):
    prepared = attached(GGHL(**SMALL)).prepare_on_cpu(batch)
    assert set(_extract_batch_size(prepared)) == {4}


@pytest.mark.parametrize("stage", ["predict", None])
def test_what_is_predicted_is_not_assigned(batch, stage):
    net = attached(GGHL(**SMALL), training=False)
    if stage is None:
        net._trainer = None
    else:
        net.trainer.predicting = True
    assert net.prepare_on_cpu(batch) is batch


def test_cells_of_an_evaluation_serve_training():
    size = (96, 160)
    with torch.inference_mode():
        cells = Cells.of(size)
    assert not cells.center.is_inference()
    assert Cells.of(size) is cells
