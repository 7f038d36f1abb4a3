"""Result files against label files, on the real images of DOTA."""

from __future__ import annotations

import math

import pytest
import torch

from datamodules.dota import results
from datamodules.dota.classes import CLASS_NAMES
from datamodules.dota.labels import read_labels, write_labels
from datamodules.dota.results import evaluate_results
from framework.detection.objects import Objects
from framework.detection.result_files import read_results, write_results
from tests.helpers.data import shared_data

NAMES = CLASS_NAMES["1.0"]


def write(folder, objects, quads=None, scores=None):
    """Write the objects of images as if they had been found."""
    found = []
    for name, one in objects.items():
        found.append(
            {
                "boxes": one.quads if quads is None else quads[name],
                "labels": one.label,
                "scores": torch.ones(len(one)) if scores is None else scores[name],
            }
        )
    write_results(folder, found, list(objects), NAMES)


@pytest.fixture(scope="module", params=["dota_sample", "dota8"])
def real(request):
    """Return the folder of labels and the objects of its images, by name."""
    folder = shared_data(request.param, "labelTxt")
    if request.param == "dota8":
        folder = folder / "train"
    return folder, {path.stem: read_labels(path, NAMES) for path in sorted(folder.glob("*.txt"))}


def test_the_truth_written_as_results_has_a_precision_of_one(real, tmp_path):
    labels, objects = real
    write(tmp_path, objects)
    values = evaluate_results(tmp_path, labels, NAMES)
    for name in ("map", "map_50", "map_75", "map_50_voc07", "map_50_voc12"):
        assert float(values[name]) == 1, name
    present = {int(label) for one in objects.values() for label in one.label[one.difficult == 0]}
    for label, precision in enumerate(values["ap_50"].tolist()):
        assert precision == 1 if label in present else math.isnan(precision)


def clipped(polygon, window):
    """Return a convex polygon's part inside another one, both clockwise on screen."""
    for (ax, ay), (bx, by) in zip(window, [*window[1:], window[0]], strict=True):
        kept = []
        side = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        for k, (x, y) in enumerate(polygon):
            n = (k + 1) % len(polygon)
            if side[k] >= 0:
                kept.append((x, y))
            if (side[k] >= 0) != (side[n] >= 0):
                t = side[k] / (side[k] - side[n])
                kept.append((x + t * (polygon[n][0] - x), y + t * (polygon[n][1] - y)))
        polygon = kept
        if not polygon:
            break
    return polygon


def area(polygon):
    pairs = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs) / 2


def clockwise(quad):
    quad = [tuple(point) for point in quad]
    return quad if area(quad) > 0 else quad[::-1]


def overlap(a, b):
    if min(x for x, _ in a) > max(x for x, _ in b) or max(x for x, _ in a) < min(x for x, _ in b):
        return 0.0
    inside = clipped(a, b)
    common = area(inside) if len(inside) > 2 else 0.0
    return common / (area(a) + area(b) - common)


def devkit(found, objects, label):
    """Return the area under the curve of a class, by the published rules, written plainly."""
    truth = {
        name: [
            (clockwise(quad.double().tolist()), int(hard) > 0)
            for quad, hard, k in zip(one.quads, one.difficult, one.label, strict=True)
            if int(k) == label
        ]
        for name, one in objects.items()
    }
    positives = sum(not hard for of_image in truth.values() for _, hard in of_image)
    rows = [
        (float(score), name, clockwise(quad.double().tolist()))
        for name, one in found.items()
        for quad, score, k in zip(*one, strict=True)
        if int(k) == label
    ]
    seen, correct, wrong, curve = set(), 0, 0, []
    for _, name, quad in sorted(rows, key=lambda row: -row[0]):
        values = [overlap(quad, other) for other, _ in truth[name]]
        best = max(range(len(values)), key=values.__getitem__, default=None)
        if best is not None and values[best] > 0.5:
            if truth[name][best][1]:
                continue
            if (name, best) in seen:
                wrong += 1
            else:
                seen.add((name, best))
                correct += 1
        else:
            wrong += 1
        curve.append((correct / positives, correct / (correct + wrong)))
    precision, total, last = 0.0, 0.0, None
    for recall, value in reversed(curve):
        if last is not None:
            total += (last - recall) * precision
        precision, last = max(precision, value), recall
    return total + (last or 0.0) * precision


def test_a_perturbed_copy_has_the_precision_of_the_published_rules(real, tmp_path):
    labels, objects = real
    generator = torch.Generator().manual_seed(0)
    quads, scores = {}, {}
    for name, one in objects.items():
        size = (one.quads.amax(1) - one.quads.amin(1)).amin(1)
        shift = torch.randn(len(one), 1, 2, generator=generator) * 0.22 * size[:, None, None]
        quads[name] = one.quads + shift
        # distinct, as the order of equal scores is not part of the rules
        scores[name] = torch.randperm(len(one), generator=generator) / len(one) * 0.9
        scores[name] += torch.rand(len(one), generator=generator) * 0.001
    # each object of the first half is found twice, the second time less certainly
    doubled = {
        name: Objects(
            torch.cat([one.quads, one.quads[::2]]),
            torch.cat([one.label, one.label[::2]]),
            torch.cat([one.difficult, one.difficult[::2]]),
        )
        for name, one in objects.items()
    }
    quads = {name: torch.cat([q, objects[name].quads[::2]]) for name, q in quads.items()}
    scores = {name: torch.cat([s, s[::2] * 0.5]) for name, s in scores.items()}
    write(tmp_path, doubled, quads, scores)
    values = evaluate_results(tmp_path, labels, NAMES)
    read = read_results(tmp_path, list(objects), NAMES)
    found = {
        name: (one["boxes"], one["scores"], one["labels"])
        for name, one in zip(objects, read, strict=True)
    }
    precisions = {}
    for label in {int(k) for one in objects.values() for k in one.label[one.difficult == 0]}:
        precisions[label] = devkit(found, objects, label)
        assert float(values["ap_50"][label]) == pytest.approx(precisions[label], abs=1e-6)
    assert 0.1 < min(precisions.values()) < 0.95
    mean = sum(precisions.values()) / len(precisions)
    assert float(values["map_50"]) == pytest.approx(mean, abs=1e-6)


def test_an_empty_folder_of_labels_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no label file"):
        evaluate_results(tmp_path, tmp_path, NAMES)


def scored(tmp_path, classes, number=1):
    """Return the folders of results and of labels of one object, which was found."""
    quad = torch.tensor([[[0.0, 0], [8, 0], [8, 4], [0, 4]]])
    one = Objects(quad, torch.tensor([number]), torch.zeros(1).byte())
    (tmp_path / "labels").mkdir()
    write_labels(tmp_path / "labels" / "P1.txt", one, classes)
    found = {"boxes": one.quads, "labels": one.label, "scores": torch.ones(1)}
    write_results(tmp_path / "results", [found], ["P1"], classes)
    return [str(tmp_path / "results"), str(tmp_path / "labels")]


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (NAMES, ["--version", "1.0"]),
        (["plane", "boat"], []),
        (["plane", "boat", "car"], ["--classes", "boat,plane"]),
    ],
)
def test_the_table(tmp_path, capsys, classes, options):
    results.main([*scored(tmp_path, classes), *options])
    lines = capsys.readouterr().out.splitlines()
    assert f"{classes[1]:20s} 1.0000" in lines
    assert "plane                no objects" in lines
    assert ("car                  no objects" in lines) == (not options and "car" in classes)
    assert lines[-1] == "map                  1.0000"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--version", "1.0"], "Task1_plane.txt does not exist: every class needs"),
        (["--classes", "car"], "P1.txt, line 1: boat is none of the classes car; `classes`"),
    ],
)
def test_foreseen_errors_are_one_line(tmp_path, options, sentence):
    folders = scored(tmp_path, ["boat", "car"], 0)
    for wrong, message in (
        ([*folders, *options], sentence),
        ([str(tmp_path), folders[1]], "holds no result file, Task1_<class>.txt"),
        ([folders[0], str(tmp_path)], "holds no label file"),
        ([str(tmp_path / "none"), folders[1]], "holds no result file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            results.main(wrong)
        text = str(stopped.value)
        assert text.startswith("python -m datamodules.dota.results: ")
        assert message in text
        assert len(text.splitlines()) == 1
