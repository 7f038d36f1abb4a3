"""The figure of double descent."""

from __future__ import annotations

import pytest
import torch

from framework.figures.double_descent import WidthErrors, double_descent
from framework.figures.style import caption_of

WIDTHS = (5, 10, 60)


def errors(*mse: float) -> WidthErrors:
    return WidthErrors(torch.tensor(mse).float()[:, None].expand(3, 2), torch.full((3, 2), 0.5))


@pytest.mark.parametrize("others", [{}, {"Adam": errors(1, 4, 1), "Lion": errors(1, 5, 1)}])
def test_every_curve_has_a_line_and_the_title_the_peaks(others: dict[str, WidthErrors]) -> None:
    curves = {"10 steps": errors(1, 1.5, 1), "100 steps": errors(1, 3, 1)}
    condition = torch.tensor([[2.0, 3.0], [90.0, 80.0], [5.0, 4.0]])
    figure = double_descent(WIDTHS, 10, errors(1, 600, 2), curves, condition, others)
    highest = "5" if others else "3"
    said = f"error at P = 10 over P = 60: exact 300, trained 1.5 to {highest}"
    assert said in caption_of(figure)
    assert "10 training rows" in caption_of(figure)
    left, share, kappa = figure.axes
    named = [line for line in left.lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in named] == ["exact least squares", *curves, *others]
    assert list(named[2].get_ydata()) == [1, 3, 1]
    assert len({line.get_color() for line in named}) == len(named)
    assert [tuple(axes.get_xlim()) == left.get_xlim() for axes in (share, kappa)] == [True, True]
    # the line at P = N
    assert any(list(line.get_xdata()) == [10, 10] for line in left.lines)
