"""Tokens of texts: their numbers, and what a vocabulary does not know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.language import vocabulary
from framework.language.vocabulary import Vocabulary, number_text

TEXT = "the cat and the dog\nthe end\n"


def words(size: int | None = None) -> Vocabulary:
    return Vocabulary.of(number_text([TEXT], "word", "a text"), "word", size)


def test_words_are_in_the_order_of_their_counts() -> None:
    assert words().tokens == ["<unk>", "the", "<eos>", "and", "cat", "dog", "end"]
    assert words(size=3).tokens == ["<unk>", "the", "<eos>"]
    assert words(size=3).encode("the cat\nthe").tolist() == [1, 0, 2, 1]


def test_characters_are_in_the_order_of_their_code_points() -> None:
    text = number_text(["bca", "ab\n"], "character", "a text")
    assert text.numbers.tolist() == [0, 1, 2, 2, 0, 3]
    known = Vocabulary.of(text, "character")
    assert known.tokens == ["<unk>", "\n", "a", "b", "c"]
    assert known.renumbered(text).tolist() == [3, 4, 2, 2, 3, 1]
    # of those that come as often the first
    assert Vocabulary.of(text, "character", size=3).tokens == ["<unk>", "a", "b"]


def test_the_unknown_word_of_a_set_is_the_unknown_token() -> None:
    text = number_text(["a <unk> a\n"], "word", "a text")
    known = Vocabulary.of(text, "word")
    assert known.tokens == ["<unk>", "a", "<eos>"]
    assert known.renumbered(text).tolist() == [1, 0, 1, 2]


@given(st.lists(st.text(alphabet="ab é\n\U0001f600", min_size=1), min_size=1))
def test_what_is_encoded_is_decoded(blocks: list[str]) -> None:
    text = number_text(blocks, "character", "a text")
    known = Vocabulary.of(text, "character")
    assert known.decode(known.renumbered(text).tolist()) == "".join(blocks)
    assert known.encode("".join(blocks)).tolist() == known.renumbered(text).tolist()


@given(st.lists(st.sampled_from(["a", "bc", "d", "\n"]), min_size=1))
def test_lines_of_words_are_decoded(parts: list[str]) -> None:
    known = Vocabulary(["<unk>", "<eos>", "a", "bc", "d"], "word")
    text = "\n".join(" ".join(line.split()) for line in " ".join(parts).split("\n"))
    assert known.decode(known.encode(text).tolist()) == text


@pytest.mark.parametrize("tokens", [[], ["<unk>"], ["a", "b"], ["<unk>", "a", "a"]])
def test_what_is_no_vocabulary_is_refused(tokens: list[str]) -> None:
    with pytest.raises(ValueError, match=r"must be <unk> and at least one other token"):
        Vocabulary(tokens, "word")


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of character, word, got 'line'"):
        Vocabulary(["<unk>", "a"], "line")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        words(size=1)
    with pytest.raises(ValueError, match="it has 1 that begin with"):
        Vocabulary.of(number_text(["<unk> <unk>"], "word", "a text"), "word")


def test_memory_is_counted_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "1e-6")  # 1,073 bytes
    number_text(["a" * 100] * 2, "character", "big.txt")
    with pytest.raises(ValueError, match=r"big\.txt: its tokens would take .* of memory"):
        number_text(["a" * 100] * 3, "character", "big.txt")
    with pytest.raises(ValueError, match=r"big\.txt: its tokens would take"):
        number_text(["a b c d", "e f"], "word", "big.txt")
    assert vocabulary.BYTES_PER_NAME * 6 > 1073
