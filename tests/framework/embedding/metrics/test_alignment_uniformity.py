import pytest
import torch
import torch.nn.functional as F

from framework.embedding.metrics import alignment, uniformity
from framework.embedding.metrics import alignment_uniformity as module

X = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
Y = torch.tensor([0, 0, 1, 1])


def test_values_of_the_worked_example() -> None:
    assert alignment(X, Y).item() == pytest.approx(0.4, abs=6e-7)
    assert uniformity(X).item() == pytest.approx(-1.661743, abs=6e-7)


def test_equal_the_means_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(40, 5).double(), torch.randint(6, (40,)) - 1
    distances = torch.cdist(F.normalize(x), F.normalize(x)).square()
    first, second = torch.triu_indices(40, 40, 1)
    pairs = distances[first, second]
    torch.testing.assert_close(alignment(x, y), pairs[y[first] == y[second]].mean())
    expected = (-3 * pairs).exp().mean().log()
    torch.testing.assert_close(uniformity(x, t=3.0), expected)
    rows = module.row_blocks
    monkeypatch.setattr(module, "row_blocks", lambda count, columns: rows(count, columns, 300))
    torch.testing.assert_close(uniformity(x, t=3.0), expected)


def test_lengths_do_not_matter() -> None:
    torch.testing.assert_close(alignment(3 * X, Y), alignment(X, Y))
    torch.testing.assert_close(uniformity(3 * X), uniformity(X))


def test_extremes() -> None:
    one = X[:1].expand(5, -1)
    assert alignment(one, torch.zeros(5).long()) == 0
    assert uniformity(one) == 0
    assert alignment(torch.cat([X[:1], -X[:1]]), Y[:2]).item() == pytest.approx(4)
    assert uniformity(torch.cat([X[:1], -X[:1]])).item() == pytest.approx(-8)


def test_nothing_to_compare_is_not_a_number() -> None:
    assert alignment(X, torch.arange(4)).isnan()
    assert alignment(X[:0], Y[:0]).isnan()
    assert uniformity(X[:1]).isnan()
    assert uniformity(X[:0]).isnan()


def test_factors_of_distances_are_positive() -> None:
    with pytest.raises(ValueError, match="t must be positive"):
        uniformity(X, t=0.0)
