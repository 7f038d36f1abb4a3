import numpy as np
import pytest
import torch

from datamodules import DOTA, scene_rendering
from datamodules.rendered_scenes import RenderedScenes
from datamodules.scene_rendering import SHAPES, render_scene
from framework.detection.objects import Objects


def ready(stage="fit", **arguments):
    sizes = {"num_train": 12, "num_val": 3, "num_test": 2, "image_size": 96, "batch_size": 4}
    data = RenderedScenes(**{**sizes, **arguments})
    data.setup(stage)
    return data


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, Objects]]:
    return [render_scene(seed, 160, 160) for seed in range(200)]


def test_batches():
    data = ready()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 96, 96)
    assert 0 <= batch["image"].min() < 0.3 < 0.7 < batch["image"].max() <= 1
    number = (batch["label"] >= 0).sum(1)
    assert batch["quads"].shape == (4, int(number.max()), 4, 2)
    assert torch.equal(batch["object_weight"] == 1, batch["label"] >= 0)
    assert "image_id" not in batch, "each image is its own"
    assert data.test_dataloader() == []
    assert len(ready("predict").predict_set) == 2


def test_a_scene_depends_on_seed_part_and_number_alone():
    few, many = ready(num_train=3), ready(num_train=5, num_val=4)
    assert torch.equal(few.train_set.image, many.train_set.image[:3])
    assert torch.equal(few.val_set.image, many.val_set.image[:3])
    assert torch.equal(few.train_set[2]["quads"], many.train_set[2]["quads"])
    assert not torch.equal(few.train_set.image, few.val_set.image), "disjoint parts"
    assert not torch.equal(few.train_set.image, ready(num_train=3, scene_seed=1).train_set.image)


def test_the_same_batches_with_and_without_workers():
    batches = [next(iter(ready(num_workers=n).train_dataloader())) for n in (0, 1)]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


def test_an_empty_slice_keeps_the_shapes_of_fields():
    dataset = ready().train_dataloader().loader.dataset
    batch = dataset.__getitems__([])
    assert batch["quads"].shape[0] == 0
    assert batch["quads"].shape[2:] == (4, 2)
    assert batch["label"].dtype == torch.int64


def test_quads_are_what_was_said(scenes):
    numbers = [len(objects) for _, objects in scenes]
    assert min(numbers) >= 1
    assert max(numbers) == 6
    for _, objects in scenes:
        assert objects.quads.min() >= 0
        assert objects.quads.max() <= 160
        low, high = objects.quads.amin(1), objects.quads.amax(1)
        reach = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
        apart = reach.amin(-1).fill_diagonal_(0)
        assert not len(objects) or apart.max() <= 2 + 1e-4
    quads = torch.cat([objects.quads for _, objects in scenes]).double()
    label = torch.cat([objects.label for _, objects in scenes])
    side = (quads - quads.roll(-1, 1)).norm(dim=-1)
    turn = _cross(quads.roll(-1, 1) - quads, quads.roll(-2, 1) - quads.roll(-1, 1))
    assert (turn > 0).all(), "clockwise on screen, y pointing down, and convex"
    for number, shape in enumerate(SHAPES.values()):
        across, along = side[label == number, 1], (side[label == number, 0])
        if shape.quad is scene_rendering.RECTANGLE:
            assert torch.allclose(side[label == number, 2], along, atol=1e-3)
            aspect = along / across
        else:  # along the axis of the trapezoid, whose rear is half its front
            assert torch.allclose(side[label == number, 3], across / 2, atol=1e-3)
            aspect = (along**2 - (across / 4) ** 2).sqrt() / across
            along = aspect * across
        assert aspect.min() > shape.aspect[0] - 1e-3
        assert aspect.max() < shape.aspect[1] + 1e-3
        assert along.min() > 22 - 1e-3
        assert along.max() < 70 + 1e-3
        assert len(along) > 150, "classes are balanced"
    direction = quads[:, 1] - quads[:, 0]
    quadrant = 2 * (direction[:, 0] > 0) + (direction[:, 1] > 0)
    assert quadrant.bincount().min() > 150, "any direction"


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def test_only_difficult_objects_are_faint(scenes):
    share = torch.cat([objects.difficult for _, objects in scenes]).float().mean()
    assert 0.02 < share < 0.09
    for picture, objects in scenes[:60]:
        gray = picture @ np.array([0.299, 0.587, 0.114])
        for quad, difficult in zip(objects.quads, objects.difficult, strict=True):
            column, row = quad.mean(0).int().tolist()
            middle = np.median(gray[row - 1 : row + 2, column - 1 : column + 2])
            low, high = quad.amin(0).int().tolist(), quad.amax(0).ceil().int().tolist()
            box = gray[low[1] : high[1], low[0] : high[0]]
            mask = np.abs(box - middle) > 2  # not of the object's own color
            if difficult:
                assert abs(box[mask].mean() - middle) < 60
            else:
                assert abs(box[mask].mean() - middle) > 15


def test_classes_do_not_show_in_the_color():
    """One color stream serves all classes, so the brightest colors are spread over them."""
    colors = {0: [], 1: [], 2: []}
    for seed in range(150):
        picture, objects = render_scene(seed, 160, 160)
        for quad, label in zip(objects.quads, objects.label.tolist(), strict=True):
            column, row = quad.mean(0).int().tolist()
            colors[label].append(picture[row, column].mean())
    means = [float(np.mean(values)) for values in colors.values()]
    assert max(means) - min(means) < 25


def test_scenes_may_be_empty_or_large():
    picture, objects = render_scene(0, 200, 80, objects=(0, 0))
    assert picture.shape == (80, 200, 3)
    assert len(objects) == 0
    some = next(iter(ready(objects=(0, 1), batch_size=12).train_dataloader()))["label"]
    assert 0 < int(some.eq(-1).all(1).sum()) < 12
    with pytest.raises(ValueError, match="RenderedScenes has no object on any of its 12 images"):
        ready(objects=(0, 0))
    _, objects = render_scene(0, 1000, 800, objects=(60, 60))
    assert len(objects) == 60
    assert objects.quads[..., 0].max() > 800


def test_a_data_set_in_the_form_of_dota(tmp_path):
    scenes = ready(num_train=5)
    scenes.write_dota(tmp_path)
    files = DOTA(str(tmp_path), image_size=96, gap=20, classes=list(scenes.class_names))
    files.setup("fit")
    for ours, theirs in ((scenes.train_set, files.train_set), (scenes.val_set, files.val_set)):
        assert len(ours) == len(theirs)
        for row in range(len(ours)):
            assert all(torch.equal(ours[row][name], theirs[row][name]) for name in ours[row])
    assert files.object_counts == scenes.object_counts
    assert sum(scenes.object_counts.values()) == len(scenes.train_set.objects.rows)


def test_counts_need_a_training_set():
    with pytest.raises(RuntimeError, match=r"has no training set; call setup\('fit'\)"):
        ready("test").object_counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"num_val": -1}, "num_val must be at least 0, got -1"),
        ({"image_size": 32}, "image_size must be at least 64, got 32"),
        ({"objects": (3, 2)}, r"objects must be a least and a largest number, got \(3, 2\)"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ready(**arguments)
