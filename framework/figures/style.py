"""Palette, sizes, heading and file format of every figure."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.utilities.error_reason import reason_of
from framework.utilities.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

# Okabe and Ito's palette, which is told apart without seeing red or green
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelcolor": "0.25",
    "axes.edgecolor": "0.6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "xtick.color": "0.25",
    "ytick.color": "0.25",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
}
WIDTH = 8.0
"""Inches; at 100 pixels per inch the text is still easily read."""


def titled(
    title: str,
    height: float,
    width: float = WIDTH,
    layout: Any = "constrained",
    y: float | None = None,
) -> Figure:
    """Return an empty figure under a heading; height and width are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, fontsize=12, x=0.01, y=y, ha="left")
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, with what it says it shows as ``Description``.

    Letters that the usual font lacks, such as Chinese ones, are taken from other fonts that are
    installed.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context(STYLE), warnings.catch_warnings():
        # where no font has them they are boxes
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        _choose_fonts(figure)
        figure.set_dpi(STYLE["savefig.dpi"])
        # savefig would draw twice, for a layout that one drawing makes too
        said = {"Description": caption_of(figure)}
        draw = FigureCanvasAgg(figure).print_png
        write_atomically(path, lambda file: draw(file, metadata=said))


def caption_of(figure: Figure) -> str:
    """Return what a figure says it shows: its heading and the titles of its parts.

    Example:
        >>> figure = titled("Confusion matrix", height=2)
        >>> _ = figure.add_subplot().set_title("9 of 10 samples are classified correctly")
        >>> caption_of(figure)
        'Confusion matrix: 9 of 10 samples are classified correctly'
    """
    titles = [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center", "right")]
    parts = "; ".join(dict.fromkeys(title for title in titles if title))
    return ": ".join(part for part in (figure.get_suptitle(), parts) if part)


def _choose_fonts(figure: Figure) -> None:
    """Give each text that needs them the fonts of its letters."""
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, NullFormatter, ScalarFormatter

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        # labels of ticks are made when they are asked for, which numbers need not be
        numbers = (LogFormatter, NullFormatter, ScalarFormatter)
        if not isinstance(axis.get_major_formatter(), numbers):
            axis.get_ticklabels()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_text().isascii():
            text.set_fontfamily(list(fonts_for(frozenset(text.get_text()))))


@cache
def fonts_for(letters: frozenset[str]) -> tuple[str, ...]:
    """Return the families of fonts that have some letters, the usual one first.

    Example:
        >>> fonts_for(frozenset("abc"))
        ('DejaVu Sans',)
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    usual = get_font(findfont(FontProperties()))
    families, missing = [usual.family_name], {*map(ord, letters)} - {*usual.get_charmap()}
    for font in sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.name)):
        if not missing:
            break
        # the last resort of matplotlib has a box for every letter
        if font.name in families or font.name.startswith("Last Resort"):
            continue
        if found := missing & {*get_font(font.fname).get_charmap()}:
            families.append(font.name)
            missing -= found
    return tuple(families)


@contextmanager
def may_fail(what: str, done: str = "drawn") -> Iterator[None]:
    """Turn an exception inside the block into a one-line warning: no run ends by a figure.

    Args:
        what: What is drawn, for the warning.
        done: What is done with it, for the warning.

    Example:
        >>> with may_fail("the figure of a test"):
        ...     pass
    """
    try:
        yield
    except Exception as error:
        reason = reason_of(error)
        log.warning("trimtab: %s could not be %s: %s", what, done, reason)
