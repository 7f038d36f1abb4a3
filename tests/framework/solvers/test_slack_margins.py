"""The projection of a support-vector machine's variables onto its margins."""

from __future__ import annotations

import pytest
import torch

from framework.solvers import Polyhedron, project_on_slack_margins


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_projection_onto_a_polyhedron(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    weight = 2 * torch.randn(4, generator=generator, dtype=torch.float64)
    slack = torch.randn(12, generator=generator, dtype=torch.float64)
    matrix = -torch.cat([rows, torch.eye(12, dtype=torch.float64)], 1)
    whole = Polyhedron(matrix, -torch.ones(12, dtype=torch.float64))(torch.cat([weight, slack]))
    nearest = torch.cat(project_on_slack_margins(weight, slack, rows))
    assert nearest.tolist() == pytest.approx(whole.tolist(), abs=1e-9)
    assert float((rows @ nearest[:4] + nearest[4:]).min()) > 1 - 1e-12


def test_a_point_with_all_margins_stays():
    weight, rows = torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    slack = torch.tensor([0.0, 0.25])
    nearest = project_on_slack_margins(weight, slack, rows)
    assert torch.equal(nearest[0], weight)
    assert torch.equal(nearest[1], slack)
