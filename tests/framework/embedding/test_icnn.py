import math

import pytest
import torch

from framework.embedding.icnn import ICNNLoss, icnn_score

POINTS = torch.tensor([[0, 0], [0, 1], [1, 0], [4, 4], [4, 5], [5, 4]], dtype=torch.float64)
MOVED = POINTS.clone()
MOVED[2] = torch.tensor([3.0, 3.0])
LABEL = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("points", "same", "different", "share", "score", "loss"),
    [
        (POINTS, 0.785601, 1.0, 1.0, 0.946400, 0.055090),
        (MOVED, 0.457856, 0.816228, 0.833333, 0.735188, 0.307630),
    ],
)
def test_worked_examples(points, same, different, share, score, loss):
    found = icnn_score(points, LABEL, k=2, neighborhood=3)
    parts = [found.same, found.different, found.share, found.score]
    assert [float(part) for part in parts] == pytest.approx(
        [same, different, share, score], abs=1e-6
    )
    assert float(ICNNLoss(2, 3)(points, LABEL)) == pytest.approx(loss, abs=1e-6)


def test_without_another_class_in_reach_the_score_is_one():
    assert float(icnn_score(POINTS, LABEL, k=2, neighborhood=2).score) == pytest.approx(1, abs=1e-6)


def test_the_variance_is_a_third_part():
    found = icnn_score(MOVED, LABEL, k=2, neighborhood=3, use_variance=True)
    separation = (found.same + found.different) / 2
    torch.testing.assert_close(found.score, (separation + found.share + found.variance) / 3)
    assert 0 < found.variance < 1


@pytest.fixture
def cloud():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 24, 5, generator=generator, dtype=torch.float64)
    label = torch.arange(24).expand(3, -1) % 4
    return points + 0.5 * label[..., None], label


def test_motions_and_scales_leave_the_score(cloud):
    points, label = cloud
    score = icnn_score(points, label).score
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(matrix).Q
    torch.testing.assert_close(icnn_score(points @ rotation + 30, label).score, score)
    # but for the 1e-6 under the root and the 1e-7 of the quotients
    torch.testing.assert_close(icnn_score(7 * points, label).score, score, rtol=0, atol=1e-5)


def test_episodes_are_scored_one_by_one(cloud):
    points, label = cloud
    together = icnn_score(points, label).score
    alone = [icnn_score(p, y).score for p, y in zip(points, label, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))
    assert ((together > 0) & (together <= 1)).all()


def test_one_support_a_class_says_nothing():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    found = icnn_score(points, torch.arange(5), k=4)
    assert float(found.same) == 1
    assert float(found.share) == 1


def test_the_nearest_support_of_a_query_counts():
    support = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    label = torch.arange(4) // 2
    found = icnn_score(support[:1], label[:1], support, label, k=1)
    assert float(found.share) == 1, "the support in the same place is its neighbor"
    assert float(icnn_score(support[:1], label[:1] + 1, support, label, k=1).share) == 0


def test_points_in_one_place_are_no_selves():
    points = torch.zeros(6, 2, requires_grad=True)
    loss = ICNNLoss(2, 3)(points, LABEL)
    loss.backward()
    assert loss.isfinite()
    assert points.grad.isfinite().all()


def test_gradients_are_right(cloud):
    points, label = cloud
    points = points[0, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ICNNLoss(k=3)(x, label[0, :8]), points)


def test_no_episode_gives_no_value():
    points = torch.randn(0, 12, 4, requires_grad=True)
    loss = ICNNLoss()(points, torch.zeros(0, 12, dtype=torch.int64))
    assert loss.shape == (0,)
    loss.sum().backward()
    assert points.grad.shape == (0, 12, 4)


def test_a_bad_score_has_a_finite_loss():
    points = torch.tensor([[0.0], [0.001], [9.0], [9.001]])
    loss = ICNNLoss(k=1)(points, torch.tensor([0, 1, 0, 1]))
    assert math.isfinite(loss)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="ICNN needs three targets at least, got 2"):
        ICNNLoss()(torch.zeros(2, 3), torch.arange(2))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ICNNLoss(k=0)


def test_points_without_a_class_are_refused():
    points, label = torch.randn(6, 2), LABEL
    with pytest.raises(ValueError, match=r"^label must have the shape \(6,\), .* got \(3,\)\.$"):
        ICNNLoss()(points, label[:3])
    with pytest.raises(ValueError, match=r"^target_label must have the shape \(6,\)"):
        ICNNLoss()(points[:2], label[:2], points, label[:1])
