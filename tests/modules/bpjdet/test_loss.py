"""The loss: the worked example, its limits, a plain computation, and ranks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import complete_box_iou_loss

from framework.distributed.collectives import rank
from modules.bpjdet.anchor_grid import AnchorGrid
from modules.bpjdet.assignment import AnchorAssigner
from modules.bpjdet.loss import ExtendedObjectLoss, _complete_iou
from tests.modules.bpjdet.crowds import ANCHORS, STRIDES, WORKED, crowd, people, worked_example

DOUBLE = torch.float64
GRID = AnchorGrid.of((256, 256), ANCHORS, STRIDES)


def assign(batch, slot_classes=(1, 2), anchors=ANCHORS, strides=STRIDES, size=(256, 256)):
    return AnchorAssigner(anchors.double(), strides)(batch, slot_classes, size)


def outputs(images, channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, len(GRID), channels, dtype=DOUBLE, generator=generator)


def test_the_worked_example():
    found = assign(worked_example(), (1,), WORKED, (16,), (640, 640))
    body = found.label == 0
    rows = ("image", "prediction", "level", "anchor_size", "label", "box", "points")
    kept = {name: getattr(found, name)[body] for name in (*rows, "mask", "states")}
    six = torch.tensor([[6]])
    found = replace(found, **kept, positives=six, visible=six)
    grid = AnchorGrid.of((640, 640), WORKED, (16,))
    loss = ExtendedObjectLoss(2, 1, num_levels=1, balance=[1.0])
    terms = loss(torch.zeros(1, len(grid), 9, dtype=DOUBLE), grid, found)
    expected = {"box": 0.460688, "objectness": 0.693147, "class": 0.693147, "part": 3.640308}
    assert {name: round(term.item(), 6) for name, term in terms.items()} == expected
    box = torch.cat([torch.full((6, 2), 0.5, dtype=DOUBLE), found.anchor_size], 1)
    ciou = _complete_iou(box, found.box)
    order = (found.box[:, 0] == 0.75).nonzero().squeeze(1).tolist()
    assert ciou[order].tolist() == pytest.approx([0.397040, 0.867865, 0.453507], abs=1e-6)
    beside = [row for row in range(6) if row not in order]
    assert ciou[beside].tolist() == pytest.approx([0.344575, 0.721583, 0.451300], abs=1e-6)
    norms = found.points[:, 0].norm(dim=1)
    assert norms[order].tolist() == pytest.approx([3.717568] * 3, abs=1e-6)
    assert norms[beside].tolist() == pytest.approx([3.563048] * 3, abs=1e-6)


def test_gains():
    loss = ExtendedObjectLoss(2, 2, num_levels=4, image_size=1536, num_states=8)
    expected = {
        "box": 0.0375,
        "class": 0.005625,
        "objectness": 3.024,
        "part": 0.01125,
        "state": 0.0075,
    }
    assert loss.weights == pytest.approx(expected)
    assert ExtendedObjectLoss(2, 1, weights={"part": 0.0}).weights["part"] == 0
    assert loss.balance == (4.0, 1.0, 0.25, 0.06)
    assert ExtendedObjectLoss(2, 1, num_levels=3).balance == (4.0, 1.0, 0.4)


def plain(raw, found, classes, slots, smoothing=0.0, states=0):
    """Return the terms of the whole batch, level by level and row by row."""
    balance = (4.0, 1.0, 0.4)
    terms = dict.fromkeys(["box", "objectness", "class", "part", "state"], 0.0)
    target = torch.zeros(raw.shape[:2], dtype=DOUBLE)
    # an index for each row would make a gradient of the whole output for each
    rows_of = raw[found.image, found.prediction].unbind()
    start = 0
    for level, size in enumerate(GRID.sizes):
        rows = (found.level == level).nonzero().squeeze(1).tolist()
        losses = {name: [] for name in terms}
        by_state = [[] for _ in range(states)]
        for p in rows:
            values = rows_of[p]
            t, a = values.sigmoid(), found.anchor_size[p]
            box = torch.cat([2 * t[:2] - 0.5, (2 * t[2:4]) ** 2 * a])
            corners = [
                torch.cat([b[:2] - b[2:] / 2, b[:2] + b[2:] / 2]) for b in (box, found.box[p])
            ]
            error = complete_box_iou_loss(*corners)
            losses["box"].append(error)
            place = (found.image[p], found.prediction[p])
            target[place] = max(target[place], (1 - error).detach())
            one_hot = F.one_hot(found.label[p], classes) * (1 - smoothing) + smoothing / 2
            logits = values[5 : 5 + classes]
            losses["class"].append(F.binary_cross_entropy_with_logits(logits, one_hot.double()))
            for k in range(slots):
                if found.mask[p, k]:
                    first = 5 + classes + 2 * k
                    point = (4 * t[first : first + 2] - 2) * a
                    losses["part"].append((point - found.points[p, k]).norm())
            for s in range(states):
                if found.states[p, s] < 2:
                    logit = values[5 + classes + 2 * slots + s]
                    state = found.states[p, s].double()
                    by_state[s].append(F.binary_cross_entropy_with_logits(logit, state))
        for name in ("box", "class", "part"):
            if losses[name]:
                terms[name] += torch.stack(losses[name]).mean()
        terms["state"] += sum(torch.stack(errors).mean() for errors in by_state if errors)
        cells = slice(start, start + size)
        terms["objectness"] += balance[level] * F.binary_cross_entropy_with_logits(
            raw[:, cells, 4], target[:, cells].clone()
        )
        start += size
    return terms


def crowded(seed=0, slots=2, states=False):
    batch = crowd(seed, slots=slots)
    # two equal people make rows of one prediction
    batch["bodies"][:, 1] = batch["bodies"][:, 0]
    batch["num_people"] = torch.tensor([4, 2, 0])
    batch["ignored"][:] = False
    if states:
        generator = torch.Generator().manual_seed(seed)
        batch["states"] = torch.randint(0, 3, (3, 6, slots, 4), generator=generator)
    return batch


@pytest.mark.parametrize(("slots", "states"), [(2, 8), (2, 0), (0, 0)])
def test_the_mean_over_images_is_the_plain_loss(slots, states):
    found = assign(crowded(slots=slots, states=states > 0), (1, 2)[:slots])
    flat = found.image * len(GRID) + found.prediction
    assert len(flat.unique()) < len(flat)
    assert (found.positives.sum(0) > 0).all()
    raw = outputs(3, 8 + 2 * slots + states).requires_grad_()
    loss = ExtendedObjectLoss(3, slots, num_levels=3, smoothing=0.1, num_states=states)
    terms = loss(raw, GRID, found)
    expected = plain(raw, found, 3, slots, smoothing=0.1, states=states)
    assert list(terms) == list(loss.weights)
    assert all(term.shape == (3,) for term in terms.values())
    for name, term in terms.items():
        torch.testing.assert_close(term.mean(), expected[name], rtol=1e-6, atol=0)
    (ours,) = torch.autograd.grad(sum(term.mean() for term in terms.values()), raw)
    (theirs,) = torch.autograd.grad(sum(expected[name] for name in terms), raw)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-12)


def test_without_slots_it_is_the_loss_of_yolov5():
    batch = crowded()
    without = {**batch, "parts": batch["parts"][:, :, :0]}
    without |= {name: batch[name][:, :, :0] for name in ("visible", "part_ignored")}
    raw = outputs(3, 8)
    loss = ExtendedObjectLoss(3, 0, num_levels=3)
    terms = loss(raw, GRID, assign(without, ()))
    assert "part" not in terms
    bodies = assign({**batch, "visible": torch.zeros_like(batch["visible"])})
    longer = torch.cat([raw, outputs(3, 4, seed=1)], 2)
    with_slots = ExtendedObjectLoss(3, 2, num_levels=3)(longer, GRID, bodies)
    for name, term in terms.items():
        torch.testing.assert_close(term, with_slots[name], rtol=1e-12, atol=0)
    assert torch.equal(with_slots["part"], torch.zeros(3, dtype=DOUBLE))


def test_the_complete_iou_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(2, 200, 2, dtype=DOUBLE, generator=generator) * 4 + 0.1
    centers = torch.rand(2, 200, 2, dtype=DOUBLE, generator=generator) * 4
    boxes = torch.cat([centers, sizes], -1).requires_grad_()
    corners = torch.cat(
        [boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1
    )
    theirs = complete_box_iou_loss(*corners)
    ours = 1 - _complete_iou(*boxes)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    weight = torch.rand(200, dtype=DOUBLE, generator=generator)
    (a,) = torch.autograd.grad((weight * ours).sum(), boxes, retain_graph=True)
    (b,) = torch.autograd.grad((weight * theirs).sum(), boxes)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_a_vanishing_box_has_finite_gradients():
    found = assign(crowded())
    raw = torch.full((3, len(GRID), 12), -200.0).requires_grad_()
    terms = ExtendedObjectLoss(3, 2, num_levels=3)(raw, GRID, found)
    sum(term.sum() for term in terms.values()).backward()
    assert raw.grad.isfinite().all()


def test_images_without_people_have_objectness_alone_and_a_gradient():
    nobody = people(torch.zeros(2, 1, 4), torch.zeros(2, 1, 2, 4), torch.zeros(2).long())
    raw = outputs(2, 12).requires_grad_()
    terms = ExtendedObjectLoss(3, 2, num_levels=3)(raw, GRID, assign(nobody))
    for name, term in terms.items():
        assert term.requires_grad
        assert (term == 0).all() == (name != "objectness")
    sum(term.sum() for term in terms.values()).backward()
    assert (raw.grad[..., 4] != 0).all()
    assert (raw.grad[..., 5:] == 0).all()


def test_no_images_give_no_terms_and_a_gradient():
    nobody = people(torch.zeros(0, 1, 4), torch.zeros(0, 1, 2, 4), torch.zeros(0).long())
    raw = outputs(0, 12).requires_grad_()
    terms = ExtendedObjectLoss(3, 2, num_levels=3)(raw, GRID, assign(nobody))
    assert {tuple(term.shape) for term in terms.values()} == {(0,)}
    sum(term.sum() for term in terms.values()).backward()
    assert raw.grad.shape == raw.shape


def test_it_does_not_depend_on_the_order_of_rows():
    found = assign(crowded())
    order = torch.randperm(len(found.image), generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        found,
        **{
            name: value[order]
            for name, value in vars(found).items()
            if name not in ("positives", "visible")
        },
    )
    raw, loss = outputs(3, 12), ExtendedObjectLoss(3, 2, num_levels=3)
    terms, others = loss(raw, GRID, found), loss(raw, GRID, shuffled)
    for name, term in terms.items():
        torch.testing.assert_close(term, others[name], rtol=1e-12, atol=0)


def test_half_precision_is_raised_to_float32():
    raw, found = outputs(3, 12).float(), assign(crowded())
    loss = ExtendedObjectLoss(3, 2, num_levels=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(raw.bfloat16(), GRID, found)
    whole_terms = loss(raw.bfloat16().float(), GRID, found)
    for name, term in half.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, whole_terms[name], rtol=1e-6, atol=0)


def on_rank(batch, raw, counts, sync):
    """Return the terms of this rank's images and their gradient times the number of ranks."""
    start = sum(counts[: rank()])
    mine = slice(start, start + counts[rank()])
    own = raw[mine].clone().requires_grad_()
    found = assign({name: value[mine] for name, value in batch.items()})
    loss = ExtendedObjectLoss(3, 2, num_levels=3, sync_normalizer=sync)
    terms = loss(own, GRID, found)
    # as the base does: a rank's sum over the number of all images
    total = sum(loss.weights[name] * term.sum() for name, term in terms.items()) / sum(counts)
    total.backward()
    return {name: term.detach() for name, term in terms.items()}, own.grad


@pytest.mark.parametrize("counts", [[2, 1], [1, 2], [3, 0]])
def test_two_ranks_equal_one_process_for_uneven_positives(counts, two_ranks):
    batch, raw = crowded(), outputs(3, 12)
    ranks = two_ranks(on_rank, batch, raw, counts, True)
    one, gradient = on_rank(batch, raw, [3], True)
    for name, term in one.items():
        both = torch.cat([terms[name] for terms, _ in ranks])
        torch.testing.assert_close(both, term, rtol=1e-12, atol=0)
    both = torch.cat([grad for _, grad in ranks])
    torch.testing.assert_close(both, gradient, rtol=1e-9, atol=1e-15)


def test_without_the_sum_over_ranks_each_takes_its_own_mean(two_ranks):
    batch, raw = crowded(), outputs(3, 12)
    ranks = two_ranks(on_rank, batch, raw, [2, 1], False)
    first, _ = on_rank({name: value[:2] for name, value in batch.items()}, raw[:2], [2], True)
    for name, term in first.items():
        torch.testing.assert_close(ranks[0][0][name], term, rtol=1e-12, atol=0)


def test_what_does_not_fit_is_refused():
    found = assign(crowded())
    loss = ExtendedObjectLoss(3, 2, num_levels=3)
    with pytest.raises(ValueError, match=r"must be \(B, \d+, 12\)"):
        loss(outputs(3, 11), GRID, found)
    with pytest.raises(ValueError, match="The assignment has"):
        loss(outputs(2, 12), GRID, found)
    with pytest.raises(ValueError, match="balance must have a weight for each of 2 levels"):
        ExtendedObjectLoss(3, 2, num_levels=2)
    with pytest.raises(ValueError, match="weights must be one of box, objectness, class, got"):
        ExtendedObjectLoss(3, 0, weights={"part": 1.0})
    with pytest.raises(ValueError, match="smoothing must lie in"):
        ExtendedObjectLoss(3, 2, smoothing=1)
