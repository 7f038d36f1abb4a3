"""Texts from files, and contexts of equal length."""

from __future__ import annotations

import json

import pytest
import torch

from framework.language import text
from framework.language.text import pack_tokens, read_texts
from tests.helpers.language import tiny_tokenizer


def test_a_text_file_comes_in_blocks_of_whole_lines(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 10)
    path = tmp_path / "a.txt"
    content = "".join(f"line {k} and more\n" for k in range(7)) + "the end"
    path.write_text(content)
    blocks = list(read_texts(str(path)))
    assert "".join(blocks) == content
    assert len(blocks) == 8
    assert all(block.endswith("\n") for block in blocks[:-1])


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("third")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n\n{"text": "second", "id": 2}\n')
    (tmp_path / "b" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "b" / ".ipynb_checkpoints" / "1-checkpoint.txt").write_text("not read")
    expected = ["first", "second", "third"]
    with pytest.warns(UserWarning, match=r"Not all .* is read \(hidden files and folders: 1\)"):
        assert list(read_texts(str(tmp_path))) == expected
    (tmp_path / "c.csv").write_text("not a text")
    with pytest.warns(UserWarning, match=r"files ending in \.csv: 1"):
        assert list(read_texts(str(tmp_path))) == expected


def test_another_field_may_hold_the_text(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": 1, "chosen": "ä"}) + "\n")
    assert list(read_texts(str(path), field="chosen")) == ["ä"]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1 .* a text under 'text'"):
        list(read_texts(str(path)))


@pytest.mark.parametrize("line", ["{", "[]", '"text"', '{"other": "x"}', "3"])
def test_a_broken_line_is_named(tmp_path, line) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is no JSON object"):
        list(read_texts(str(path)))


def test_what_cannot_be_read_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such text file or folder"):
        list(read_texts(str(tmp_path / "none.txt")))
    with pytest.raises(FileNotFoundError, match=r"no file that ends in \.txt or \.jsonl"):
        list(read_texts(str(tmp_path)))
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.txt or \.jsonl"):
        list(read_texts(str(tmp_path / "a.pdf")))
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text"):
        list(read_texts(str(tmp_path / "a.txt")))


def test_contexts_hold_the_text_in_order_between_special_tokens() -> None:
    tokenizer = tiny_tokenizer(bert=True)
    texts = ["abcdefg", "", "hij", "klmnopq"]
    ids = tokenizer("".join(texts), add_special_tokens=False)["input_ids"]
    found = pack_tokens(texts, tokenizer, 6, prefix=[1], suffix=[2])
    assert found.dtype == torch.int32
    assert found.shape == (4, 6)
    assert found[:, 0].tolist() == [1] * 4
    assert found[:, -1].tolist() == [2] * 4
    assert found[:, 1:-1].flatten().tolist() == ids[:16]
    assert torch.equal(pack_tokens(texts, tokenizer, 6, [1], [2], max_tokens=9), found[:2])


def test_texts_are_read_only_as_far_as_needed() -> None:
    def stream():
        for _ in range(200):
            yield "abcdefgh"
        raise AssertionError("read too far")

    assert pack_tokens(stream(), tiny_tokenizer(), 5, [1], max_tokens=900).shape == (225, 5)


def test_text_that_looks_like_a_special_token_is_text() -> None:
    found = pack_tokens(["[SEP] [CLS]"], tiny_tokenizer(bert=True), 11)
    assert not {1, 2} & set(found.flatten().tolist())


def test_too_little_room_or_text_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="context_length=1 leaves no room beside the 1 special"):
        pack_tokens(["abc"], tokenizer, 1, prefix=[1])
    with pytest.raises(ValueError, match="has 3 tokens, not enough for one context of 4"):
        pack_tokens(["abc"], tokenizer, 4)
    with pytest.raises(ValueError, match="has 0 tokens"):
        pack_tokens([], tokenizer, 4)
