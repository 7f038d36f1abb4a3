"""A page that shows what the features of a language model stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

NEIGHBORS = 24
"""Tokens shown on either side of the one with the largest activation."""


@dataclass(frozen=True)
class Passage:
    """Tokens of a context, and how active a feature is on each.

    Args:
        pieces: Text of every token.
        values: Activation of every token.
    """

    pieces: Sequence[str]
    values: Sequence[float]

    @property
    def peak(self) -> int:
        """The token with the largest activation, the first of several."""
        return max(range(len(self.values)), key=lambda k: (self.values[k], -k))

    def around_peak(self) -> Passage:
        """Return the tokens near the largest activation."""
        start, stop = max(0, self.peak - NEIGHBORS), self.peak + NEIGHBORS + 1
        return Passage(self.pieces[start:stop], self.values[start:stop])

    def marked(self) -> str:
        """Return the text with the largest activation between brackets."""
        k = self.peak
        before, after = "".join(self.pieces[:k]), "".join(self.pieces[k + 1 :])
        piece = self.pieces[k]
        space = piece[: len(piece) - len(piece.lstrip())]
        return f"{before}{space}[[{piece.lstrip()}]]{after}"


@dataclass(frozen=True)
class Feature:
    """A feature of a sparse code, with the passages that activate it most.

    Args:
        number: Number of the feature.
        density: Share of tokens on which it is active.
        passages: Passages with its largest activations, the largest first.
    """

    number: int
    density: float
    passages: Sequence[Passage]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds to that of the tokens before it."""
    found: list[str] = []
    before = ""
    for k in range(len(ids)):
        text = tokenizer.decode(ids[: k + 1], clean_up_tokenization_spaces=False)
        # a token that is a part of a character changes what was there
        added = text[len(before) :] if text.startswith(before) else tokenizer.decode([ids[k]])
        found.append(added)
        before = text
    return found


def render_page(features: Sequence[Feature], title: str) -> str:
    """Return a page in HTML that needs nothing else, with a section for every feature.

    Args:
        features: Features in the order in which they are shown.
        title: Title of the page.
    """
    links = " ".join(f'<a href="#f{f.number}">{f.number}</a>' for f in features)
    sections = "\n".join(_section(feature) for feature in features)
    return _PAGE.format(title=escape(title), style=_STYLE, links=links, sections=sections)


def _section(feature: Feature) -> str:
    lines = "\n".join(_line(passage.around_peak()) for passage in feature.passages)
    largest = max((max(p.values) for p in feature.passages), default=0.0)
    return (
        f'<section id="f{feature.number}">\n<h2>Feature {feature.number}</h2>\n'
        f"<p>active on {feature.density:.3%} of the tokens; largest activation {largest:.2f}</p>\n"
        f"<ol>\n{lines}\n</ol>\n</section>"
    )


def _line(passage: Passage) -> str:
    top = max(passage.values)
    spans = "".join(
        _span(piece, value, value / top if top > 0 else 0.0)
        for piece, value in zip(passage.pieces, passage.values, strict=True)
    )
    return f'<li><span class="value">{top:.2f}</span><span class="text">{spans}</span></li>'


def _span(piece: str, value: float, share: float) -> str:
    text = escape(piece.replace("\n", "↵"))
    if value <= 0:
        return text
    return f'<mark style="--share:{share:.3f}" title="{value:.3f}">{text}</mark>'


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; }
p { color: #666; margin: 0 0 .4rem; } nav a { margin-right: .5rem; color: #0072B2; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: flex; gap: .8rem; padding: .25rem 0; border-top: 1px solid #eee; }
.value { flex: 0 0 3.2rem; text-align: right; color: #888; font-variant-numeric: tabular-nums; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
mark { color: inherit; border-radius: 2px;
  background: rgb(213 94 0 / calc(.08 + .62 * var(--share))); }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>For each feature the contexts of the held-out text with its largest activations. The darker a
token, the more active the feature is on it; point at a token to see its activation.</p>
<nav>{links}</nav>
{sections}
</body>
</html>
"""
