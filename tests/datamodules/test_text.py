"""Windows of texts: which tokens they hold, which part they are of, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import TextWindows
from datamodules.text import Windows
from framework.data.facts import facts_of
from tests.helpers.data import shared_data

TEXT = "abcdefghij" * 20


@pytest.fixture
def ready(tmp_path: Path) -> Any:
    def make(text: str = TEXT, name: str = "a.txt", **options: Any) -> TextWindows:
        (tmp_path / name).write_text(text)
        data = TextWindows(str(tmp_path / name), **{"window": 7, **options})
        data.setup("fit")
        return data

    return make


def test_windows_follow_one_another_and_share_no_prediction() -> None:
    windows = Windows(torch.arange(24, dtype=torch.int32), window=7)
    assert len(windows) == 3
    batch = windows.batch(torch.arange(3))
    assert batch["token"].flatten().tolist() == [*range(21)]
    assert batch["next_token"].flatten().tolist() == [*range(1, 22)]
    assert batch["token"].dtype == torch.int64
    assert {name: tuple(v.shape) for name, v in windows.batch([]).items()} == {
        "token": (0, 7),
        "next_token": (0, 7),
    }
    assert [len(Windows(torch.zeros(n), window=7)) for n in (0, 1, 7, 8, 14, 15)] == [
        0, 0, 0, 1, 1, 2,
    ]  # fmt: skip


def test_the_parts_follow_one_another(ready: Any) -> None:
    data = ready(val_share=0.1, test_share=0.25)
    sizes = [len(part.tokens) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [130, 20, 50]
    tokens = torch.cat([data.train_set.tokens, data.val_set.tokens, data.test_set.tokens])
    assert "".join(data.vocabulary[t] for t in tokens.tolist()) == TEXT
    assert data.vocabulary_size == 11
    assert data.predict_set is data.test_set
    assert data.num_samples == len(data.train_set) == 18
    whole = ready(val_share=0, test_share=0)
    assert (whole.val_set, whole.test_set, len(whole.train_set.tokens)) == (None, None, 200)


def test_batches_have_the_stable_index(ready: Any) -> None:
    data = ready(batch_size=5)
    batches = list(data.train_dataloader())
    index = torch.cat([batch["index"] for batch in batches])
    assert sorted(index.tolist()) == list(range(len(data.train_set)))
    for batch in batches:
        for row, token in zip(batch["index"].tolist(), batch["token"], strict=True):
            assert torch.equal(token, data.train_set[row]["token"])


def test_the_vocabulary_is_that_of_training(ready: Any) -> None:
    data = ready("aabb" * 20 + "abc" * 6 + "x", val_share=0.1, test_share=0.1)
    assert data.vocabulary == ["<unk>", "a", "b"]
    assert int((data.test_set.tokens == 0).sum()) == 4
    few = ready("aab" * 40, max_vocabulary=2)
    assert few.vocabulary == ["<unk>", "a"]


def test_words(ready: Any) -> None:
    data = ready("one two\n" * 40, level="word")
    assert data.vocabulary == ["<unk>", "<eos>", "one", "two"]
    assert data.train_set[0]["token"].tolist() == [2, 3, 1, 2, 3, 1, 2]


def test_a_folder_is_divided_as_its_files_are(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").write_text("ab" * 20)
    (tmp_path / "README.txt").write_text("not read")
    data = TextWindows(str(tmp_path), window=7, val_share=0.25)
    data.setup("fit")
    assert [len(data.train_set.tokens), len(data.val_set.tokens)] == [30, 10]
    assert data.test_set is None
    (tmp_path / "ptb.valid.txt").write_text("ba" * 10)
    (tmp_path / "ptb.test.txt").write_text("ca" * 4)
    data = TextWindows(str(tmp_path), window=7)
    data.setup("fit")
    assert [len(part.tokens) for part in (data.train_set, data.val_set, data.test_set)] == [
        40, 20, 8,
    ]  # fmt: skip
    assert data.test_set.tokens[:2].tolist() == [0, 1]
    (tmp_path / "ptb.char.valid.txt").write_text("ba" * 10)
    with pytest.raises(ValueError, match="are both the val part"):
        TextWindows(str(tmp_path), window=7).setup("fit")


def test_other_folders_are_one_text(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name * 20)
    data = TextWindows(str(tmp_path), window=7, val_share=0, test_share=0)
    data.setup("fit")
    assert data.train_set.tokens.tolist() == [1] * 20 + [2] * 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", r"the train part has 0 tokens, and a window of 7 .* needs 8: give a longer text"),
        (b"abcdefgh", r"the train part has 6 tokens"),
        (b"ab" * 12, r"the \w+ part has 2 tokens"),
        (b"\xff\xfe" * 50, r"a\.txt is not UTF-8 text"),
    ],
)
def test_what_makes_no_windows_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises(ValueError, match=said):
        TextWindows(str(tmp_path / "a.txt"), window=7).setup("fit")


def test_missing_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such text file or folder"):
        TextWindows(str(tmp_path / "a.txt")).setup("fit")
    (tmp_path / "valid.txt").write_text(TEXT)
    with pytest.raises(FileNotFoundError, match=r"has valid\.txt, but no text called train"):
        TextWindows(str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "line"}, "level must be one of character, word"),
        ({"window": 0}, "window must be at least 1"),
        ({"max_vocabulary": 1}, "max_vocabulary must be at least 2"),
        ({"val_share": -0.1}, r"val_share must lie in \[0, 1\)"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TextWindows("a.txt", **options)


def test_another_text_is_read_by_the_vocabulary_of_training(ready: Any, tmp_path: Path) -> None:
    trained = facts_of(ready())
    (tmp_path / "other.txt").write_text("jaz" * 10)
    other = TextWindows(str(tmp_path / "other.txt"), window=7, level="word")
    other.use_facts(trained)
    other.setup("predict")
    assert len(other.predict_set) == 4
    assert other.predict_set[0]["token"].tolist() == [10, 1, 0, 10, 1, 0, 10]
    batch = other.as_batch(["abc", "zzj"])
    assert batch["token"].tolist() == [[1, 2], [0, 0]]
    assert batch["next_token"].tolist() == [[2, 3], [0, 10]]
    with pytest.raises(ValueError, match="same number of tokens, two at least; these have 1, 2"):
        other.as_batch(["a", "bc"])
    with pytest.raises(ValueError, match="made of a text"):
        other.as_batch([3])


def test_tiny_shakespeare() -> None:
    path = shared_data("text", "tinyshakespeare", "input.txt")
    data = TextWindows(str(path), window=70)
    data.setup("fit")
    assert data.vocabulary_size == 66
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [
        12747, 1593, 1593,
    ]  # fmt: skip
