"""Joint-optimization loss: the worked cell, its limits, and a dense computation from targets."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou

from framework.detection.rotated import cxcywhr_to_quad
from modules.gghl.assignment import Assignment, OrientedGaussianAssigner
from modules.gghl.cells import Cells
from modules.gghl.loss import JointOptimizationLoss

DOUBLE = torch.float64


def quad(*box: float) -> Tensor:
    x, y, w, h, degrees = box
    return cxcywhr_to_quad(torch.tensor([x, y, w, h, math.radians(degrees)], dtype=DOUBLE))


def assign(
    objects: list[list[tuple[Tensor, int, float]]], size: int, classes: int = 3, **arguments: Any
) -> Assignment:
    """Objects of each image as quad, label and weight."""
    rows, most = len(objects), max([1, *map(len, objects)])
    quads = torch.zeros(rows, most, 4, 2, dtype=DOUBLE)
    label = torch.full((rows, most), -1)
    weight = torch.zeros(rows, most, dtype=DOUBLE)
    for i, image in enumerate(objects):
        for j, (corners, number, share) in enumerate(image):
            quads[i, j], label[i, j], weight[i, j] = corners, number, share
    assigner = OrientedGaussianAssigner(**arguments)
    return assigner(quads, label, weight, (size, size), classes)


def only(found: Assignment, row: int) -> Assignment:
    """Keep one positive cell."""
    rows = {
        name: getattr(found, name)[[row]]
        for name in vars(found)
        if name not in ("positives", "level_weight")
    }
    return replace(found, **rows, positives=found.positives.clamp(max=1))


def total(loss: JointOptimizationLoss, terms: dict[str, Tensor]) -> Tensor:
    return sum(loss.weights[name] * term for name, term in terms.items())


SHIP = assign([[(quad(200, 160, 80, 30, 30), 1, 1.0)]], 800)
CELLS = Cells.of((800, 800))
CELL = 10000 + 10 * 50 + 13
RAW = [0.9, 1.0, 0.8, 1.1, -1.0, 0.5, -1.2, 0.4, -0.4, 0.2, -1.0, 0.7, -0.5]


def worked(values: list[float] = RAW, background: float = -4.0) -> Tensor:
    raw = torch.zeros(1, len(CELLS.level), 13, dtype=DOUBLE)
    raw[..., 9] = background
    raw[0, CELL] = torch.tensor(values, dtype=DOUBLE)
    return raw.requires_grad_()


def one_cell() -> Assignment:
    return only(SHIP, SHIP.cell.tolist().index(CELL))


def test_the_cell_of_the_spec() -> None:
    loss = JointOptimizationLoss(num_classes=3)
    terms = loss(worked().detach(), CELLS, one_cell())
    values = {name: float(term) for name, term in terms.items()}
    omega = 0.331197
    expected = {
        "foreground": 0.049539,
        "class_positive": 0.750790,
        "class_negative": 0.499910,
        "box": omega * 0.782986,
        "vertices": omega * 0.009367,
        "area": omega * 0.000003,
        "distance": omega * 2.007518,
    }
    background = values.pop("background")
    assert values == pytest.approx(expected, abs=1e-6)
    assert sum(loss.weights[name] * value for name, value in values.items()) == pytest.approx(
        1.745196, abs=5e-7
    )
    # the 2499 other cells of the only level with an object
    assert background == pytest.approx(2499 * 6.433667e-6, rel=1e-6)


@pytest.mark.parametrize("sigma", ["code", "paper", "isotropic"])
def test_no_term_is_negative_where_an_object_is_larger_than_the_image(sigma: str) -> None:
    """As ``RandomAffine`` makes them; the weight of its size would be 2 - 1.5 x 1.5."""
    found = assign([[(quad(64, 64, 192, 192, 0), 1, 1.0)]], 128, sigma=sigma)
    assert len(found.cell) > 0
    cells = Cells.of((128, 128))
    raw = torch.randn(1, len(cells.level), 13, dtype=DOUBLE, generator=torch.manual_seed(0))
    terms = JointOptimizationLoss(num_classes=3)(raw, cells, found)
    assert all(float(term) >= 0 for term in terms.values())
    assert float(terms["box"]) == float(terms["distance"]) == 0
    # which did not go through a clamped weight alone
    assert float(terms["area"]) > 0


def test_gradient_through_the_place() -> None:
    """The slope of L_pos in E is w_A (y - (1 - y) q / (1 - q)), whatever moves E."""
    raw, loss = worked(), JointOptimizationLoss(num_classes=3)
    terms = loss(raw, CELLS, one_cell())
    (positive,) = torch.autograd.grad(terms["class_positive"], raw, retain_graph=True)
    # the weight is detached, so that these are ω E
    located = terms["box"] + terms["vertices"] + terms["area"]
    (error,) = torch.autograd.grad(located / 0.331197, raw, retain_graph=True)
    slope = positive[0, CELL, :9] / error[0, CELL, :9]
    torch.testing.assert_close(slope, torch.full_like(slope, 0.624899), atol=2e-6, rtol=0)
    others = torch.autograd.grad(terms["class_negative"] + terms["foreground"], raw)[0]
    assert others[0, CELL, :9].abs().max() == 0


def test_the_place_is_right_enough_where_the_probability_is_that_of_the_label() -> None:
    y, w = 0.99 + 0.01 / 3, 0.6309297535714573
    for q, slope in ((y, 0.0), (0.999, w * (y - (1 - y) * 0.999 / 0.001)), (0.9, None)):
        values = [math.log(d / 16) for d in one_cell().distances[0].tolist()]
        s = [0.01 + 0.99 * (v + 0.01) for v in one_cell().s[0].tolist()]
        values += [math.log(v / (1 - v)) for v in s]
        error = 4 * 0.01**2
        probability = q * math.exp(error)
        logit = math.log(probability / (1 - probability))
        values += [6 * float(one_cell().r[0]) - 3, 0.2, -1.0, logit, -0.5]
        raw = worked(values)
        terms = JointOptimizationLoss(num_classes=3)(raw, CELLS, one_cell())
        (grad,) = torch.autograd.grad(terms["class_positive"], raw, retain_graph=True)
        (plain,) = torch.autograd.grad(terms["vertices"], raw)
        omega = w * (probability + 0.381682) / 2
        found = grad[0, CELL, 4:8] / plain[0, CELL, 4:8] * omega
        expected = w * (y - (1 - y) * q / (1 - q)) if slope is None else slope
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-6, rtol=1e-5)


def test_the_class_score_gets_no_gradient_from_the_weight_unless_asked() -> None:
    for detach in (True, False):
        raw = worked()
        loss = JointOptimizationLoss(num_classes=3, detach_weight=detach)
        (grad,) = torch.autograd.grad(loss(raw, CELLS, one_cell())["box"], raw)
        p = 1 / (1 + math.exp(-0.7))
        # ω = w_A (p + g) / 2 pushes the score down by E
        slope = 0.0 if detach else 0.630930 * p * (1 - p) / 2 * 0.782986
        assert grad[0, CELL, 10:].tolist() == pytest.approx([0, slope, 0], abs=1e-6)


def test_a_level_object_makes_the_oriented_loss_the_horizontal_one() -> None:
    found = assign([[(quad(70, 80, 40, 20, 0), 1, 1.0)]], 160)
    cells = Cells.of((160, 160))
    raw = torch.randn(1, len(cells.level), 13, generator=torch.Generator().manual_seed(0))
    raw[..., 8] = 4.0  # r = 1, which makes s 0
    oriented = JointOptimizationLoss(num_classes=3)(raw, cells, found)
    horizontal = JointOptimizationLoss(num_classes=3, oriented=False)(raw, cells, found)
    assert float(oriented["vertices"]) == float(oriented["area"]) == 0
    for name, term in oriented.items():
        torch.testing.assert_close(term, horizontal[name])
    # of a turned object the horizontal detector ignores the turn
    turned = assign([[(quad(70, 80, 40, 20, 30), 1, 1.0)]], 160)
    raw[..., 4:9] = 0
    horizontal = JointOptimizationLoss(num_classes=3, oriented=False)(raw, cells, turned)
    assert float(horizontal["vertices"]) == float(horizontal["area"]) == 0
    assert float(JointOptimizationLoss(num_classes=3)(raw, cells, turned)["vertices"]) > 0


@pytest.mark.parametrize(("logit", "value"), [(0.0, 0.169838), (-4.0, 6.433667e-6)])
def test_background_of_a_level_without_objects(logit: float, value: float) -> None:
    found = assign([[], [(quad(70, 80, 40, 20, 30), 1, 1.0)]], 160)
    cells = Cells.of((160, 160))
    raw = torch.zeros(2, len(cells.level), 13, dtype=DOUBLE)
    raw[..., 9] = logit
    positives = int(found.positives[1, 1])
    assert found.positives.tolist() == [[0, 0, 0], [0, positives, 0]]
    assert positives > 1

    def background(kind: str) -> list[float]:
        return JointOptimizationLoss(3, empty_level=kind)(raw, cells, found)["background"].tolist()

    here, everywhere = 100 - positives, 525 - positives
    expected = {
        "skip": [0, here / positives],
        "global": [525, everywhere / positives],
        "local": [525, 425 + here / positives],
    }
    for kind, cells_per_positive in expected.items():
        assert background(kind) == pytest.approx([value * n for n in cells_per_positive], rel=1e-5)


def test_images_without_objects_give_zero_with_a_gradient_path() -> None:
    cells = Cells.of((64, 64))
    for rows in (2, 0):
        found = assign([[] for _ in range(rows)], 64)
        raw = torch.randn(rows, len(cells.level), 13, requires_grad=True)
        loss = JointOptimizationLoss(num_classes=3, extra_class_weight=0.1)
        terms = loss(raw, cells, found)
        assert list(terms) == list(loss.weights)
        for term in terms.values():
            assert torch.equal(term, torch.zeros(rows))
            (grad,) = torch.autograd.grad(term.sum(), raw, retain_graph=True)
            assert torch.equal(grad, torch.zeros_like(raw))


def test_half_precision_and_autocast_are_left() -> None:
    found = assign([[(quad(70, 80, 40, 20, 30), 1, 1.0)]], 160)
    cells, loss = Cells.of((160, 160)), JointOptimizationLoss(num_classes=3)
    for dtype in (torch.float16, torch.bfloat16):
        raw = 3 * torch.randn(1, len(cells.level), 13, generator=torch.Generator().manual_seed(0))
        raw[0, 0, :4] = 20.0  # whose exponential float16 does not hold
        half = raw.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = loss(half, cells, found)
        for name, term in loss(raw.to(dtype).float(), cells, found).items():
            assert terms[name].dtype == torch.float32
            assert torch.equal(terms[name], term)
        total(loss, terms).sum().backward()
        assert half.grad is not None
        assert half.grad.isfinite().all()


@pytest.mark.parametrize("logit", [-1000.0, -40.0, 40.0, 1000.0])
@pytest.mark.parametrize("place", [-1000.0, 1000.0, None])
def test_saturated_outputs_stay_finite(logit: float, place: float | None) -> None:
    raw = torch.full((1, len(CELLS.level), 13), logit)
    raw[..., :9] = place or 0.0
    if place is None:  # the exact box
        raw[0, CELL, :4] = (one_cell().distances[0] / 16).log().float()
        raw[0, CELL, 4:8] = torch.logit(0.01 + 0.99 * one_cell().s[0]).float()
        raw[0, CELL, 8] = 6 * float(one_cell().r[0]) - 3
    raw.requires_grad_()
    loss = JointOptimizationLoss(num_classes=3)
    value = total(loss, loss(raw, CELLS, one_cell()))
    value.sum().backward()
    assert value.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_a_perfect_cell_stays_finite() -> None:
    found = assign([[(quad(24, 24, 32, 32, 0), 1, 1.0)]], 160)
    cells, place = Cells.of((160, 160)), 400 + 11
    raw = torch.full((1, len(cells.level), 13), -4.0)
    # one stride to every side, horizontal, and a class probability that rounds to 1
    raw[0, place] = torch.tensor([0, 0, 0, 0, -9, -9, -9, -9, 3, 9, -99, 99, -99.0])
    row = found.cell.tolist().index(place)
    terms = JointOptimizationLoss(num_classes=3)(raw.requires_grad_(), cells, only(found, row))
    assert float(terms["box"].detach()) == float(terms["vertices"].detach()) == 0
    # -log(1e-6) for the part of the label that smoothing gives to the other classes
    expected = float(found.area_weight[row]) * 0.01 * 2 / 3 * math.log(1e6)
    assert float(terms["class_positive"].detach()) == pytest.approx(expected, rel=1e-3)
    (grad,) = torch.autograd.grad(sum(terms.values()).sum(), raw)
    assert grad.isfinite().all()


def test_boxes_are_weighed_by_their_share_of_the_image() -> None:
    weight = torch.ones(1, 1)
    label = torch.zeros(1, 1, dtype=torch.int64)
    ship = quad(60, 40, 30, 20, 0)[None, None]
    loss, values = JointOptimizationLoss(num_classes=1), []
    for size in ((80, 320), (160, 160)):
        cells = Cells.of(size)
        found = OrientedGaussianAssigner()(ship, label, weight, size, 1)
        values.append(loss(torch.zeros(1, len(cells.level), 11), cells, found)["box"])
    torch.testing.assert_close(*values)


def test_mixup_weights() -> None:
    ships = [(quad(50, 50, 40, 20, 20), 0, 0.3), (quad(120, 110, 40, 20, 70), 1, 0.7)]
    cells = Cells.of((160, 160))
    raw = torch.randn(1, len(cells.level), 13, generator=torch.Generator().manual_seed(0))

    def terms(objects: list[tuple[Tensor, int, float]], kind: str) -> dict[str, Tensor]:
        return JointOptimizationLoss(3, empty_level=kind)(raw, cells, assign([objects], 160))

    whole = [(corners, label, 1.0) for corners, label, _ in ships]
    # as in the authors' code the last object's weight is that of its level
    plain, mixed = terms(whole, "skip"), terms(ships, "skip")
    for name, term in plain.items():
        torch.testing.assert_close(mixed[name], 0.7 * term)
    # otherwise every object has its own, and the background is whole
    plain, mixed = terms(whole, "global"), terms(ships, "global")
    torch.testing.assert_close(mixed["background"], plain["background"])
    only_first = terms([whole[0], (*ships[1][:2], 0.0)], "global")
    for name in set(plain) - {"background"}:
        first, second = only_first[name], plain[name] - only_first[name]
        torch.testing.assert_close(mixed[name], 0.3 * first + 0.7 * second)


def test_gradcheck() -> None:
    cells = Cells.of((32, 32))
    loss = JointOptimizationLoss(num_classes=2, detach_weight=False, extra_class_weight=0.5)
    found = assign([[(quad(17, 15, 24, 9, 30), 1, 0.5)]], 32, classes=2)
    raw = torch.randn(
        1, len(cells.level), 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()

    def without_detached_factor(raw: Tensor) -> Tensor:
        terms = loss(raw, cells, found)
        return torch.stack([term for name, term in terms.items() if name != "foreground"])

    assert torch.autograd.gradcheck(without_detached_factor, raw)


# ---- a dense computation, cell by cell of a target tensor, written from the definition -----------


def dense(
    raw: Tensor, cells: Cells, found: Assignment, kind: str, classes: int, delta: float = 0.01
) -> Tensor:
    """The loss of each image by the plain formula, in float64."""
    losses = []
    number = {
        place: row
        for row, place in enumerate(zip(found.image.tolist(), found.cell.tolist(), strict=True))
    }
    side = cells.image_size[0]
    for image in range(len(raw)):
        loss = torch.zeros((), dtype=DOUBLE)
        for k, stride in enumerate(cells.strides):
            count = int(found.positives[image, k])
            everywhere = int(found.positives[image].sum())
            for cell in (cells.level == k).nonzero().flatten().tolist():
                p = raw[image, cell]
                row = number.get((image, cell))
                mask = 0.0 if row is None else float(found.mask[row])
                share = 1.0 if row is None else float(found.object_weight[row])
                background = 1.0
                if kind == "skip":
                    share = background = float(found.level_weight[image, k])
                t = torch.tensor(0.99 * mask + 0.005, dtype=DOUBLE)
                focal = _bce(p[9].sigmoid(), t) * (t - p[9].sigmoid()) ** 2
                divisor = everywhere if kind == "global" else count
                loss = loss + 2 * background * (1 - mask) * focal / max(1, divisor)
                if row is None:
                    continue
                x, y = cells.center[cell].tolist()
                top, right, bottom, left = p[:4].exp() * stride
                box = torch.stack([x - left, y - top, x + right, y + bottom])
                r = ((p[8] + 3) / 6).clamp(0, 1)
                s = (p[4:8].sigmoid().clamp(0.01, 1) - 0.01) / 0.99 * (r <= 0.9)
                x0, y0, x1, y1 = found.box[row]
                beta = 2 - (x1 - x0) * (y1 - y0) / side**2
                e_iou = beta * (1 - generalized_box_iou(box[None], found.box[row][None])[0, 0])
                e_s = (s - found.s[row]).square().sum()
                e_r = (r - found.r[row]).square()
                e_l = 0.0
                for n in range(4):
                    difference = (p[n].exp() - found.distances[row, n] / stride).abs()
                    e_l += difference**2 / 2 if difference < 1 else difference - 0.5
                gain = (-(e_iou + e_s + e_r)).exp()
                w, heat = found.area_weight[row], found.heat[row]
                positive = negative = score = 0.0
                for c in range(classes):
                    own = float(heat[c] != 0)
                    label = torch.tensor(own * (1 - delta) + delta / classes, dtype=DOUBLE)
                    probability = p[10 + c].sigmoid()
                    if own:
                        positive = positive + _bce(probability * gain, label) * w
                        score = score + probability
                    else:
                        negative = negative + _bce(probability, label) * w
                omega = w * (score + heat.max()) / 2
                location = omega * (e_iou + e_s + 16 * e_r + 0.2 * beta * e_l)
                fg = mask * focal * (heat.max() + gain.detach()) / 2
                loss = loss + share / max(1, count) * (
                    2 * fg + mask * (positive + negative + location)
                )
        losses.append(loss)
    return torch.stack(losses)


def _bce(probability: Tensor, label: Tensor) -> Tensor:
    return -label * probability.log() - (1 - label) * (1 - probability).log()


@pytest.mark.parametrize("kind", ["skip", "global", "local"])
@pytest.mark.parametrize(
    "arguments", [{}, {"sigma": "paper"}, {"multi_class_cells": True}], ids=str
)
def test_equal_to_the_dense_computation(kind: str, arguments: dict[str, Any]) -> None:
    ships = [
        (quad(40, 40, 50, 20, 5), 0, 0.4),
        (quad(52, 40, 30, 20, 100), 2, 0.6),
        (quad(100, 104, 12, 10, 10), 1, 0.6),
        (quad(80, 60, 100, 60, 45), 1, 0.6),
    ]
    found = assign([ships, [], ships[:1]], 128, **arguments)
    assert (found.positives > 0).sum() >= 3
    if arguments:
        soft, shared = (found.mask < 1).any(), (found.heat.gt(0).sum(1) > 1).any()
        assert bool(soft if "sigma" in arguments else shared)
    cells = Cells.of((128, 128))
    raw = torch.randn(
        3, len(cells.level), 13, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    loss = JointOptimizationLoss(num_classes=3, detach_weight=False, empty_level=kind)
    value = total(loss, loss(raw, cells, found))
    expected = dense(raw, cells, found, kind, classes=3)
    # GIoU is divided by the areas plus 1e-7
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)
    grads = [torch.autograd.grad(v.sum(), raw)[0] for v in (value, expected)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-8)
    # every image by itself: nothing is coupled
    parts = [assign([objects], 128, **arguments) for objects in (ships, [], ships[:1])]
    alone = [total(loss, loss(raw[[i]], cells, part)) for i, part in enumerate(parts)]
    torch.testing.assert_close(torch.cat(alone), value)


def test_the_plain_class_term_is_left_out_unless_asked() -> None:
    assert "extra_class" not in JointOptimizationLoss(num_classes=3).weights
    loss = JointOptimizationLoss(num_classes=3, extra_class_weight=0.5)
    assert loss.weights["extra_class"] == 0.5
    term = loss(worked(), CELLS, one_cell())["extra_class"]
    label = torch.tensor([0.01 / 3, 0.99 + 0.01 / 3, 0.01 / 3], dtype=DOUBLE)
    logits = torch.tensor(RAW[10:], dtype=DOUBLE)
    plain = F.binary_cross_entropy_with_logits(logits, label, reduction="sum")
    assert float(term.detach()) == pytest.approx(0.6309297535714573 * float(plain))


def test_weights_smoothing_and_gamma() -> None:
    loss = JointOptimizationLoss(3, weights={"area": 1.0}, smoothing=0.0, gamma=0.0)
    assert loss.weights["area"] == 1.0
    assert loss.weights["foreground"] == 2.0
    terms = loss(worked().detach(), CELLS, one_cell())
    assert float(terms["class_positive"]) == pytest.approx(-0.630930 * math.log(0.302540), abs=5e-6)
    p = 1 / (1 + math.exp(-0.2))
    bce = -0.995 * math.log(p) - 0.005 * math.log(1 - p)
    assert float(terms["foreground"]) == pytest.approx(bce * (0.381682 + 0.452777) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JointOptimizationLoss(0), "num_classes must be at least 1"),
        (
            lambda: JointOptimizationLoss(2, weights={"iou": 1}),
            "weights must be one of foreground, .*, got 'iou'",
        ),
        (lambda: JointOptimizationLoss(2, weights={"box": -1}), "weights.box must be at least 0"),
        (lambda: JointOptimizationLoss(2, extra_class_weight=-1), "extra_class must be at least 0"),
        (lambda: JointOptimizationLoss(2, smoothing=1.0), "smoothing must lie in"),
        (lambda: JointOptimizationLoss(2, gamma=0.5), "gamma must be 0 or at least 1"),
        (lambda: JointOptimizationLoss(2, empty_level="none"), "empty_level must be one of"),
        (lambda: JointOptimizationLoss(2)(worked(), CELLS, SHIP), "does not fit 1 images and 2"),
        (lambda: JointOptimizationLoss(3)(worked()[:, 1:], CELLS, SHIP), r"must be \(B, 13125"),
        (lambda: JointOptimizationLoss(3)(worked()[:0], CELLS, SHIP), "does not fit 1 images"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
