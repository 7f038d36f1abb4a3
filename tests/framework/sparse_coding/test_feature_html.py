"""A page that shows tokens as they are, whatever is in them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from framework.sparse_coding.feature_html import (
    NEIGHBORS,
    Feature,
    Passage,
    render_page,
    token_texts,
)
from tests.helpers.language import tiny_tokenizer


class Text(HTMLParser):
    """Collects the text of each list item, what is marked, and which tags stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[str] = []
        self.marks: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "li":
            self.items.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "text" in self.open or "li" in self.open:
            self.items[-1] += data
        if self.open and self.open[-1] == "mark":
            self.marks.append(data)


def read(text: str) -> Text:
    parser = Text()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_tokens_are_shown_and_the_active_ones_marked() -> None:
    passage = Passage(["a ", "<b>", "&", " c"], [0.0, 2.0, 1.0, 0.0])
    html = render_page([Feature(3, 0.125, [passage])], "Features of <x>")
    found = read(html)
    assert found.items == ["2.00a <b>& c"]
    assert found.marks == ["<b>", "&"]
    assert "--share:1.000" in html
    assert "--share:0.500" in html
    assert "<b>" not in html
    assert "12.500% of the tokens; largest activation 2.00" in html
    assert "Features of &lt;x&gt;" in html
    assert re.findall(r'href="#(f\d+)"', html) == re.findall(r'section id="(f\d+)"', html) == ["f3"]


def test_a_long_context_is_cut_around_its_peak() -> None:
    pieces = [f"{k} " for k in range(200)]
    values = [0.0] * 200
    values[150] = values[160] = 1.0
    near = Passage(pieces, values).around_peak()
    assert near.pieces == pieces[150 - NEIGHBORS : 151 + NEIGHBORS]
    assert near.peak == NEIGHBORS
    values[2] = 3.0
    assert Passage(pieces, values).around_peak().pieces == pieces[: 3 + NEIGHBORS]


def test_the_peak_stands_between_brackets() -> None:
    assert Passage(["the", " quick", " fox"], [0, 1, 0.5]).marked() == "the [[quick]] fox"


def test_a_feature_without_contexts_has_an_empty_section() -> None:
    assert read(render_page([Feature(0, 0.0, [])], "x")).items == []


def test_pieces_add_up_to_the_text() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("the fox", add_special_tokens=False)["input_ids"]
    found = token_texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
