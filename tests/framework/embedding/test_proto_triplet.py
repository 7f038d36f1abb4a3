import pytest
import torch
import torch.nn.functional as F

from framework.embedding.proto_triplet import ProtoTripletLoss
from framework.embedding.prototypes import class_prototypes, distances, prototype_logits
from framework.ops.kernels import squared_distances

PROTOTYPES = torch.tensor([[0, 0.5], [1.5, 1], [0, 2]], dtype=torch.float64)
QUERIES = torch.tensor([[0, 0], [1, 1], [2, 0]], dtype=torch.float64)
LABEL = torch.arange(3)


def test_worked_example():
    assert float(ProtoTripletLoss(0.5)(QUERIES, LABEL, PROTOTYPES)) == pytest.approx(
        0.736798, abs=1e-5
    )
    found = distances(QUERIES, PROTOTYPES)
    assert found.diagonal().tolist() == pytest.approx([0.5, 0.5, 2.828427], abs=2e-6)
    other = found.masked_fill(torch.eye(3, dtype=torch.bool), torch.inf).amin(1)
    assert other.tolist() == pytest.approx([1.802776, 1.118034, 1.118034], abs=2e-6)
    logits = prototype_logits(QUERIES, PROTOTYPES)
    assert float(F.cross_entropy(logits, LABEL)) == pytest.approx(2.434433, abs=1e-6)
    torch.testing.assert_close(prototype_logits(QUERIES, PROTOTYPES, 2.0), logits / 2)


def test_motions_leave_the_loss_and_scales_do_not():
    loss = ProtoTripletLoss(0.5)
    value = loss(QUERIES, LABEL, PROTOTYPES)
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    moved = loss(QUERIES @ turn + 9, LABEL, PROTOTYPES @ turn + 9)
    torch.testing.assert_close(moved, value)
    scaled = ProtoTripletLoss(2.0)(4 * QUERIES, LABEL, 4 * PROTOTYPES)
    torch.testing.assert_close(scaled, 4 * value, rtol=1e-5, atol=0)
    assert abs(loss(4 * QUERIES, LABEL, 4 * PROTOTYPES) - 4 * value) > 0.1, "the margin stays"


def test_separated_queries_have_no_loss():
    prototypes = 10 * torch.eye(4)
    assert float(ProtoTripletLoss()(prototypes + 0.1, torch.arange(4), prototypes)) == 0


def test_episodes_come_one_by_one():
    query, prototypes = torch.stack([QUERIES, QUERIES + 1]), torch.stack([PROTOTYPES, QUERIES])
    label = torch.stack([LABEL, LABEL.flip(0)])
    found = ProtoTripletLoss()(query, label, prototypes)
    for row in range(2):
        alone = ProtoTripletLoss()(query[row], label[row], prototypes[row])
        torch.testing.assert_close(found[row], alone)


def test_gradients_are_right_and_finite_in_one_place():
    query, prototypes = QUERIES.clone().requires_grad_(), PROTOTYPES.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, c: ProtoTripletLoss()(q, LABEL, c), (query, prototypes)
    )
    place = torch.zeros(3, 2, requires_grad=True)
    ProtoTripletLoss()(place, LABEL, place).backward()
    assert place.grad.isfinite().all()


def test_distances_keep_their_digits_far_from_the_origin():
    offset = torch.tensor([1000.0, -2000.0])
    near = squared_distances(QUERIES.float(), PROTOTYPES.float())
    far = squared_distances(QUERIES.float() + offset, PROTOTYPES.float() + offset)
    torch.testing.assert_close(far, near, rtol=0, atol=1e-3)


def test_half_precision_is_computed_in_float32():
    found = class_prototypes(torch.ones(2, 3, 4, 5, dtype=torch.bfloat16))
    assert (found.shape, found.dtype) == ((2, 3, 5), torch.float32)
    assert squared_distances(found.half(), found.half()).dtype == torch.float32


def test_one_prototype_is_refused():
    with pytest.raises(ValueError, match="two prototypes at least, got 1"):
        ProtoTripletLoss()(QUERIES, LABEL * 0, PROTOTYPES[:1])


@pytest.mark.parametrize("label", [[0, 1, 3], [-1, 1, 2]])
def test_labels_without_a_prototype_are_refused(label):
    message = f"label must lie in 0 to 2, as there are 3 prototypes, got {label[0]} to {label[2]}"
    with pytest.raises(ValueError, match=message):
        ProtoTripletLoss()(QUERIES, torch.tensor(label), PROTOTYPES)
