"""Student's t-assignment: the worked example of PamC's head, and its limits."""

from __future__ import annotations

import pytest
import torch

from framework.clustering import StudentTAssignment, assignment_divergence, dec_target_distribution

Z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)


def example_head(nu: float = 1.0) -> StudentTAssignment:
    head = StudentTAssignment(num_clusters=2, dim=2, nu=nu).double()
    head.place(torch.tensor([[0.9, 0.3], [-0.3, 0.9]]))
    return head


def test_the_example() -> None:
    log_q = example_head()(Z)
    p = dec_target_distribution(log_q.exp().detach(), "square")
    rows = torch.tensor([[0.760870, 0.239130], [0.676471, 0.323529]], dtype=torch.float64)
    targets = torch.tensor([[0.910104, 0.089896], [0.813846, 0.186154]], dtype=torch.float64)
    torch.testing.assert_close(log_q.exp(), torch.cat([rows, rows.flip(0, 1)]), atol=1e-6, rtol=0)
    torch.testing.assert_close(p, torch.cat([targets, targets.flip(0, 1)]), atol=1e-6, rtol=0)
    divergence = assignment_divergence(log_q, p)
    assert divergence.shape == (4,)
    assert divergence.mean().item() == pytest.approx(0.061311, abs=1e-6)


def test_the_target_has_no_gradient() -> None:
    head = example_head()
    log_q = head(Z)
    divergence = assignment_divergence(log_q, dec_target_distribution(log_q.exp(), "square"))
    fixed = dec_target_distribution(log_q.detach().exp(), "square")
    (one,) = torch.autograd.grad(divergence.sum(), head.centers, retain_graph=True)
    (other,) = torch.autograd.grad(-(fixed * log_q).sum(), head.centers)
    torch.testing.assert_close(one, other)


def test_many_degrees_of_freedom_give_a_gaussian() -> None:
    head = example_head(nu=1e7)
    squares = torch.cdist(Z, head.centers.detach()).square()
    torch.testing.assert_close(head(Z).exp(), (-squares / 2).softmax(1), atol=1e-6, rtol=0)


def test_a_far_point_has_a_finite_logarithm_and_a_point_on_a_center_a_gradient() -> None:
    head = StudentTAssignment(num_clusters=2, dim=1)
    head.place(torch.tensor([[0.0], [1e18]]))
    z = torch.tensor([[0.0], [3.0]], requires_grad=True)
    log_q = head(z)
    assert log_q.isfinite().all()
    (gradient,) = torch.autograd.grad(log_q.sum(), z)
    assert gradient.isfinite().all()
    assert abs(gradient[0]) < 1e-17 < abs(gradient[1])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="nu must be positive"):
        StudentTAssignment(2, 2, nu=0)
    with pytest.raises(ValueError, match="num_clusters must be at least 1"):
        StudentTAssignment(0, 2)
