"""Association: the worked example, the plain loop, and what must not depend on what."""

import math
import random
from itertools import permutations

import pytest
import torch

from framework.detection.body_parts.association import BodyPartAssociator, associate


def loop(found, slot_classes, inside, mode="body_to_part", round_bodies=False):
    """Return the body and the slot of each row, one part, one body and one slot at a time."""
    boxes, points = found["boxes"].tolist(), found["points"].tolist()
    scores, labels = found["scores"].tolist(), found["labels"].tolist()
    bodies = [row for row, label in enumerate(labels) if label == 0]
    parts = [row for row, label in enumerate(labels) if label > 0]
    parts.sort(key=lambda row: -scores[row])
    if round_bodies:
        boxes = [
            [float(round(x)) for x in box] if row in bodies else box
            for row, box in enumerate(boxes)
        ]

    def center(row):
        x0, y0, x1, y1 = boxes[row]
        return (x0 + x1) / 2, (y0 + y1) / 2

    def apart(a, b):
        squared = (a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1])
        # a root may round two distances to one
        return math.sqrt(squared) if mode == "mutual" else squared

    def share(part, body):
        a, b = boxes[part], boxes[body]
        w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        area = (a[2] - a[0]) * (a[3] - a[1])
        return w * h / area if area else math.nan

    def distance(body, part, slot):
        if mode == "overlap":
            top = (center(body)[0], boxes[body][1])
            return -share(part, body), apart(top, center(part))
        forth = apart(points[body][slot], center(part))
        back = apart(center(body), points[part][0])
        return {"body_to_part": forth, "part_to_body": back, "mutual": forth + back}[mode]

    body_of, slot_of, slots = {}, {}, {}
    for turn in range(len(slot_classes)):
        for part in parts:
            mine = [k for k, label in enumerate(slot_classes) if label == labels[part]]
            if part in body_of or turn >= len(mine) or not bodies:
                continue
            slot = mine[turn]
            nearest = min(bodies, key=lambda body: distance(body, part, slot))
            if (nearest, slot) not in slots and share(part, nearest) > inside:
                slots[nearest, slot] = part
                body_of[part], slot_of[part] = nearest, slot
    rows = range(len(labels))
    return [body_of.get(row, -1) for row in rows], [slot_of.get(row, -1) for row in rows]


def scene(seed, slot_classes):
    """Return detections, of which many tie: whole places on a coarse grid, equal scores."""
    draw = random.Random(seed)
    step = draw.choice([8, 2, 0.25, 1e-3])
    rows = []
    for _ in range(draw.randint(0, 24)):
        label = draw.choice([0, 0, *slot_classes, *slot_classes, max(slot_classes, default=0) + 1])
        far, smallest, largest = (30, 30, 90) if label == 0 else (60, 0, 12)
        x, y = (draw.uniform(-10, far) for _ in range(2))
        w, h = (draw.uniform(smallest, largest) for _ in range(2))
        box = [step * round(v / step) for v in (x, y, x + w, y + h)]
        spots = [
            [step * round(draw.uniform(-10, 90) / step) for _ in range(2)] for _ in slot_classes
        ]
        rows.append((round(draw.random(), draw.choice([1, 5])), box, spots, label))
    if draw.random() < 0.8:
        rows.sort(key=lambda row: -row[0])
    scores, boxes, spots, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "points": torch.tensor(spots).reshape(-1, len(slot_classes), 2),
    }


SLOTS = [(1,), (1, 1), (1, 2, 2), (2, 1, 3, 2, 1, 1), (3,)]


def test_the_worked_example():
    found = {
        "boxes": torch.tensor(
            [
                [0.0, 0, 100, 200],
                [40, 5, 60, 35],
                [80, 0, 180, 200],
                [120, 8, 140, 38],
                [46, 8, 66, 38],
                [185, 5, 205, 35],
            ]
        ),
        "scores": torch.tensor([0.95, 0.9, 0.85, 0.8, 0.7, 0.6]),
        "labels": torch.tensor([0, 1, 0, 1, 1, 1]),
        "points": torch.tensor([[50.0, 20], [0, 0], [130, 22], [0, 0], [0, 0], [0, 0]])[:, None],
    }
    result = associate(found, (1,))
    assert result["body"].tolist() == [-1, 0, -1, 2, -1, -1]
    assert result["slot"].tolist() == [-1, 0, -1, 0, -1, -1]
    assert all(result[name] is value for name, value in found.items())


def test_a_thousand_scenes_are_associated_as_by_the_loop():
    taken = refused = second = 0
    for seed in range(1000):
        slot_classes = SLOTS[seed % len(SLOTS)]
        found = scene(seed, slot_classes)
        round_bodies = seed % 3 == 0
        result = associate(found, slot_classes, round_bodies=round_bodies)
        body, slot = result["body"].tolist(), result["slot"].tolist()
        assert (body, slot) == loop(found, slot_classes, 0.6, round_bodies=round_bodies), seed
        taken += sum(row >= 0 for row in body)
        refused += sum(
            row < 0 < label for row, label in zip(body, found["labels"].tolist(), strict=True)
        )
        second += sum(k > 0 and slot_classes[k] in slot_classes[:k] for k in slot)
    assert min(taken, refused, second) > 200


@pytest.mark.parametrize("mode", ["part_to_body", "mutual", "overlap"])
def test_the_other_modes_are_the_loop_with_their_distance(mode):
    for seed in range(150):
        slot_classes = SLOTS[seed % len(SLOTS)]
        found = scene(seed, slot_classes)
        result = associate(found, slot_classes, inside=0.4, mode=mode)
        pair = result["body"].tolist(), result["slot"].tolist()
        assert pair == loop(found, slot_classes, 0.4, mode), seed


def distinct(seed, slot_classes=(1, 2, 2)):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(30, 10, generator=generator, dtype=torch.float64)
    labels = torch.arange(30) % 3
    is_part = labels[:, None] > 0
    size = torch.where(is_part, 0.1, 1.0) * (0.5 + u[:, 2:4])
    corner = torch.where(is_part, 1.0, 0.2) * u[:, :2]
    return {
        "boxes": torch.cat([corner, corner + size], 1) * 200,
        "scores": u[:, 9].sort(descending=True).values,
        "labels": labels,
        "points": u[:, 3:9].reshape(30, 3, 2) * 250,
    }


@pytest.mark.parametrize(
    "arguments", [{}, {"mode": "mutual"}, {"mode": "mutual", "hungarian": True}]
)
@pytest.mark.parametrize("seed", range(5))
def test_order_place_and_scale_do_not_matter(seed, arguments):
    found = distinct(seed)
    result = associate(found, (1, 2, 2), **arguments)
    assert (result["body"] >= 0).sum() > 3
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    shuffled = associate({n: v[order] for n, v in found.items()}, (1, 2, 2), **arguments)
    body = shuffled["body"]
    assert torch.equal(torch.where(body < 0, -1, order[body]), result["body"][order])
    assert torch.equal(shuffled["slot"], result["slot"][order])
    moved = {**found, "boxes": found["boxes"] * 4 + 64, "points": found["points"] * 4 + 64}
    again = associate(moved, (1, 2, 2), **arguments)
    assert torch.equal(again["body"], result["body"])
    assert torch.equal(again["slot"], result["slot"])


def test_the_hungarian_gives_the_second_nearest_what_the_nearest_cannot_have():
    boxes = [[0.0, 0, 100, 100], [20, 0, 120, 100], [50, 10, 60, 20], [52, 10, 62, 20]]
    found = {
        "boxes": torch.tensor(boxes),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        "labels": torch.tensor([0, 0, 1, 1]),
        "points": torch.tensor([[55.0, 15], [75, 15], [50, 50], [50, 50]])[:, None],
    }
    assert associate(found, (1,), mode="mutual")["body"].tolist() == [-1, -1, 0, -1]
    result = associate(found, (1,), mode="mutual", hungarian=True)
    assert result["body"].tolist() == [-1, -1, 0, 1]
    # and never more than two hands of one person, nor what lies outside of everybody
    hands = {name: torch.cat([value, value[2:]]) for name, value in found.items()}
    hands["points"] = hands["points"].repeat(1, 2, 1)
    hands["boxes"][-1] += 500
    result = associate(hands, (1, 1), mode="mutual", hungarian=True)
    assert result["body"][-1] == -1
    pairs = {*zip(result["body"].tolist(), result["slot"].tolist(), strict=True)}
    assert len(pairs - {(-1, -1)}) == 3


def test_the_hungarian_has_the_least_sum():
    for seed in range(20):
        found = {name: value[:12] for name, value in distinct(seed, (1,)).items()}
        found = {name: value[found["labels"] < 2] for name, value in found.items()}
        found["points"] = found["points"][:, :1]
        bodies, parts = ((found["labels"] == label).nonzero().flatten() for label in (0, 1))
        allowed, cost = reach(found, bodies, parts)
        best = (0, 0.0)
        for order in permutations(range(len(bodies))):
            chosen = [(p, m) for p, m in enumerate(order) if allowed[p, m]]
            best = min(best, (-len(chosen), float(sum(cost[pair] for pair in chosen))))
        body = associate(found, (1,), mode="mutual", hungarian=True)["body"][parts]
        taken = [(p, int((bodies == m).nonzero())) for p, m in enumerate(body) if m >= 0]
        assert len({m for _, m in taken}) == len(taken) == -best[0] > 0
        assert float(sum(cost[pair] for pair in taken)) == pytest.approx(best[1], rel=1e-12)


def reach(found, bodies, parts):
    """Return whether each part lies in each body, and their distance to and fro."""
    boxes, points = found["boxes"], found["points"][:, 0]
    low = torch.maximum(boxes[parts, None, :2], boxes[bodies, :2])
    high = torch.minimum(boxes[parts, None, 2:], boxes[bodies, 2:])
    area = (boxes[parts, 2:] - boxes[parts, :2]).prod(-1)
    share = (high - low).clamp(min=0).prod(-1) / area[:, None]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    there = (center[parts, None] - points[bodies]).norm(dim=-1)
    back = (points[parts, None] - center[bodies]).norm(dim=-1)
    return share > 0.6, there + back


@pytest.mark.parametrize("hungarian", [False, True])
def test_nobody_and_nothing(hungarian):
    for labels in ([], [0, 0], [1, 1]):
        found = {
            "boxes": torch.rand(len(labels), 4),
            "scores": torch.rand(len(labels)),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "points": torch.rand(len(labels), 1, 2),
        }
        result = associate(found, (1,), mode="mutual", hungarian=hungarian)
        assert result["body"].tolist() == result["slot"].tolist() == [-1] * len(labels)
    bodies = {**found, "points": found["points"][:, :0]}
    assert associate(bodies, ())["body"].tolist() == [-1, -1]


def test_the_class_does_what_the_function_does():
    found = distinct(0)
    associator = BodyPartAssociator(inside=0.3, mode="mutual", hungarian=True, round_bodies=True)
    result = associator(found, (1, 2, 2))
    expected = associate(
        found, (1, 2, 2), inside=0.3, mode="mutual", hungarian=True, round_bodies=True
    )
    assert torch.equal(result["body"], expected["body"])
    arguments = "inside=0.3, mode='mutual', hungarian=True, round_bodies=True"
    assert repr(associator) == f"BodyPartAssociator({arguments})"


def test_what_does_not_fit_is_refused():
    found = distinct(0)
    with pytest.raises(ValueError, match=r"points must be \(n, 1, 2\) for the slots of classes"):
        associate(found, (1,))
    with pytest.raises(ValueError, match="mode must be one of body_to_part, part_to_body"):
        BodyPartAssociator(mode="nearest")
    with pytest.raises(ValueError, match="hungarian is for mode mutual, got 'overlap'"):
        BodyPartAssociator(mode="overlap", hungarian=True)
    with pytest.raises(ValueError, match="inside must lie in"):
        BodyPartAssociator(inside=60)


def detections():
    """Detections as those of torchvision, and points of one slot."""
    return {
        "boxes": torch.tensor([[0.0, 0, 100, 200], [40, 5, 60, 35]]),
        "scores": torch.tensor([0.9, 0.7]),
        "labels": torch.tensor([0, 1]),
        "points": torch.tensor([[[50.0, 20]], [[50, 100]]]),
    }


def test_overlap_needs_no_points():
    found = detections()
    del found["points"]
    assert associate(found, (1,), mode="overlap")["body"].tolist() == [-1, 0]
    with pytest.raises(ValueError, match="An image lacks points; it has boxes, scores, labels"):
        associate(found, (1,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(2, 5)}, r"boxes must be \(2, 4\), got \(2, 5\)"),
        ({"scores": torch.ones(3)}, r"scores must be \(2,\), got \(3,\)"),
        ({"labels": torch.zeros(2)}, r"labels must be whole numbers, got torch.float32"),
        ({"points": torch.zeros(3, 1, 2)}, r"points must be \(2, 1, 2\), got \(3, 1, 2\)"),
        ({"boxes": [[0, 0, 1, 1]] * 2}, r"boxes must be a tensor, got list"),
        ({"scores": torch.ones(2, device="meta")}, r"must lie on one device, got points on cpu"),
    ],
)
def test_what_others_detected_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        associate({**detections(), **change}, (1,))


def test_numbers_of_any_precision_are_taken():
    found = detections()
    found["labels"] = found["labels"].int()
    found["boxes"] = found["boxes"].half().requires_grad_()
    assert associate(found, (1,), mode="mutual")["body"].tolist() == [-1, 0]
