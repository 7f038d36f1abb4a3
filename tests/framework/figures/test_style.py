from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from framework.figures.style import fonts_for, may_fail, save_png, titled
from framework.figures.tables import confusion_matrix

pytestmark = pytest.mark.pictures


def letter_of_another_font() -> str:
    """Return a letter that the usual font lacks and another of matplotlib's has."""
    usual = {*get_font(findfont(FontProperties())).get_charmap()}
    other = next(font for font in fontManager.ttflist if font.name == "STIXGeneral")
    codes = {*get_font(other.fname).get_charmap()} - usual
    return chr(min(code for code in codes if chr(code).isprintable()))


def test_letters_are_taken_from_a_font_that_has_them(tmp_path: Path) -> None:
    letter = letter_of_another_font()
    families = fonts_for(frozenset(f"a{letter}"))
    assert len(families) == 2
    other = findfont(FontProperties(family=[families[1]]))
    assert ord(letter) in get_font(other).get_charmap()
    figure = confusion_matrix([[1, 2], [3, 4]], ["cat", letter])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png(figure, tmp_path / "a.png")
    labels = {text.get_text(): text for text in figure.axes[0].get_yticklabels()}
    assert labels[letter].get_fontfamily() == list(families)
    assert labels["cat"].get_fontfamily() == ["sans-serif"]


def test_letters_that_no_font_has_are_no_warning(tmp_path: Path) -> None:
    figure = titled("\U0010fffd", 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_a_figure_that_fails_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with may_fail("the picture"):
        raise KeyError
    assert caplog.messages == ["trimtab: the picture could not be drawn: KeyError"]
