import pytest
import torch

from framework.sparse_coding import decoder_overlap
from framework.sparse_coding.decoder_overlap import duplicate_share, largest_cosines


def test_largest_cosines_are_those_of_the_whole_matrix(monkeypatch):
    directions = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    unit = directions / directions.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-2)
    expected = cosines.amax(1)
    for block in (4, 23, 100):
        monkeypatch.setattr(decoder_overlap, "BLOCK", block)
        torch.testing.assert_close(largest_cosines(directions), expected)


def test_copies_are_counted_and_opposites_are_not():
    eye = torch.eye(6)
    assert float(duplicate_share(eye)) == 0
    assert float(duplicate_share(torch.cat([eye, -eye]))) == 0
    assert float(duplicate_share(torch.cat([eye, 3 * eye[:2]]))) == pytest.approx(4 / 8)
    assert float(duplicate_share(eye[:1])) == 0
    tilted = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    assert float(duplicate_share(tilted)) == 0
    assert float(duplicate_share(tilted, above=0.79)) == 1
