"""The projection on unit rows, and what it is to first order."""

from __future__ import annotations

import torch

from framework.embedding.unit_norm import project_rows_


def test_rows_have_norm_one_and_keep_their_direction():
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    before = weight.detach().clone()
    project_rows_(weight)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(4).double(), rtol=1e-15, atol=0)
    cosines = torch.nn.functional.cosine_similarity(weight, before)
    torch.testing.assert_close(cosines, torch.ones(4).double(), rtol=1e-14, atol=0)


def test_a_projected_step_is_that_of_the_tangent_to_first_order():
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 4, 3, dtype=torch.float64)
    project_rows_(weight)
    tangent = gradient - (gradient * weight).sum(1, keepdim=True) * weight
    gaps = []
    for rate in (1e-2, 1e-3):
        step = weight - rate * gradient
        project_rows_(step)
        gaps.append(float((step - (weight - rate * tangent)).norm()))
    # what is left is of second order
    assert 80 < gaps[0] / gaps[1] < 120
