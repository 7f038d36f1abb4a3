"""Predicted embeddings as one array."""

import csv
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from callbacks import EmbeddingWriter, PredictionWriter, embedding_writer
from framework.data.datasets import ArrayDataset, Batch
from tests.helpers.ranks import TwoRanks
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Embedder(TinyModule):
    embedding_column = "embedding"

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        return {"embedding": batch["image"] * 2}


class Named(ArrayDataset):
    names = ("a.png", "sub/ü, b.png", "two\nlines.png", *(f"{k}.png" for k in range(3, 10)))


def predict(folder: Path, data: TinyData | None = None, module: Any = None, **options: Any) -> None:
    callbacks = [PredictionWriter(), EmbeddingWriter(**options)]
    trainer = tiny_trainer(folder, callbacks, False)
    trainer.predict(module or Embedder(), data or TinyData(), return_predictions=False)


def ids(folder: Path) -> list[list[str]]:
    with (folder / "embeddings.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def expected(rows: int = 10) -> np.ndarray:
    return (TinyData(rows).predict_set.fields["image"] * 2).numpy()


def test_an_array_and_which_sample_each_row_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # rows are read two at a time
    monkeypatch.setattr(embedding_writer, "BLOCK_BYTES", 40)
    predict(tmp_path)
    found = np.load(tmp_path / "embeddings.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected())
    assert ids(tmp_path) == [["index"], *([str(k)] for k in range(10))]
    # no table has columns for it
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings.npy", "embeddings.csv"}
    assert capfd.readouterr().out == "embeddings: 10 rows of 5 numbers in embeddings.npy\n"


def named() -> TinyData:
    data = TinyData()
    assert data.predict_set is not None
    data.predict_set = Named(**data.predict_set.fields)
    return data


def test_names_of_samples_and_other_columns(tmp_path: Path) -> None:
    class WithNorm(Embedder):
        def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
            embedding = (batch["image"] * 2).bfloat16()
            return {"embedding": embedding, "norm": batch["image"].norm(dim=1)}

    predict(tmp_path, named(), WithNorm())
    assert ids(tmp_path)[:4] == [
        ["index", "file"], ["0", "a.png"], ["1", "sub/ü, b.png"], ["2", "two lines.png"]
    ]  # fmt: skip
    halves = torch.from_numpy(expected()).bfloat16().float().numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), halves)
    assert (tmp_path / "predictions.csv").read_text().startswith("index,file,norm\n0,a.png,")


def test_parquet_has_a_list_of_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_writer, "BLOCK_BYTES", 60)
    predict(tmp_path, named(), format="parquet")
    table = parquet.read_table(tmp_path / "embeddings.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("index", "int64"), ("file", "string"), ("embedding", "fixed_size_list<element: float>[5]")
    ]  # fmt: skip
    assert table["index"].to_pylist() == list(range(10))
    assert table["file"].to_pylist()[:2] == ["a.png", "sub/ü, b.png"]
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), "f4"), expected())
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.parquet"]


def predict_on_this_rank(folder: Path, rows: int) -> None:
    trainer = tiny_trainer(folder, [EmbeddingWriter()], False, strategy="ddp", devices=2)
    trainer.predict(Embedder(), TinyData(rows), return_predictions=False)


@pytest.mark.parametrize("rows", [1, 11])
def test_two_ranks_write_one_array(tmp_path: Path, two_ranks: TwoRanks, rows: int) -> None:
    two_ranks(predict_on_this_rank, tmp_path, rows)
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), expected(rows))
    assert ids(tmp_path)[1:] == [[str(k)] for k in range(rows)]
    assert len(list(tmp_path.iterdir())) == 2


def part(folder: Path, index: list[int], has_index: bool = True) -> Any:
    records = np.zeros(len(index), embedding_writer._record(2))
    records["index"] = index
    records["embedding"] = np.array(index)[:, None] + [0, 0.5] if index else 0
    path = folder / f"part{len(list(folder.iterdir()))}"
    path.write_bytes(records.tobytes())
    return embedding_writer._Part(str(path), len(index), 2 if index else 0, has_index)


def join(parts: list[Any], folder: Path) -> None:
    EmbeddingWriter(str(folder / "all.npy")).join(parts, tiny_trainer(folder, [], False))


def test_each_sample_stands_once_in_order(tmp_path: Path) -> None:
    parts = [part(tmp_path, index) for index in ([7, 0, 3], [], [3, 12, 1])]
    join(parts, tmp_path)
    found = np.load(tmp_path / "all.npy")
    assert found.tolist() == [[k, k + 0.5] for k in (0, 1, 3, 7, 12)]
    assert (tmp_path / "all.csv").read_text() == "index\n0\n1\n3\n7\n12\n"
    assert {path.name for path in tmp_path.iterdir()} == {"all.npy", "all.csv"}


def test_without_samples_and_without_index(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    join([part(tmp_path, [])], tmp_path)
    assert "there were no samples" in capfd.readouterr().out
    parts = [part(tmp_path, [0, 1], has_index=False) for _ in range(2)]
    with pytest.raises(ValueError, match="have an `index`"):
        join(parts, tmp_path)
    assert not any(tmp_path.iterdir())

    class Bare(Embedder):
        def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
            return self.predict_columns(batch)

    predict(tmp_path, module=Bare())
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), expected())


def test_other_modules_are_left_alone(tmp_path: Path) -> None:
    predict(tmp_path, module=TinyModule())
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"embedding": torch.zeros(2)}, r"'embedding' is \(2,\), not a tensor \(B, d\)"),
        ({"other": torch.zeros(2, 3)}, "'embedding' is NoneType"),
    ],
)
def test_what_is_no_array_is_refused_and_leaves_nothing(
    tmp_path: Path, outputs: Any, said: str
) -> None:
    class Odd(Embedder):
        def predict_step(self, batch: Batch, batch_idx: int) -> Any:
            return outputs

    trainer = tiny_trainer(tmp_path, [EmbeddingWriter()], False)
    with pytest.raises(ValueError, match=said):
        trainer.predict(Odd(), TinyData(), return_predictions=False)
    assert not any(tmp_path.iterdir())


def test_wrong_arguments_and_a_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("out.parquet", "out", ".bashrc", "out.npy/.profile"):
        with pytest.raises(
            ValueError, match=rf"written as npy, but to {re.escape(path)}: the path must end"
        ):
            EmbeddingWriter(path=path)
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'trimtab\[parquet\]'"):
        predict(tmp_path, format="parquet")
    predict(tmp_path, module=TinyModule(), format="parquet")


def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path) -> None:
    place = small_disk / "embeddings.npy"
    place.write_text("old")
    free = os.statvfs(small_disk)
    (small_disk / "other").write_bytes(bytes(free.f_bavail * free.f_frsize))
    trainer = tiny_trainer(small_disk, [EmbeddingWriter(str(place))], False)
    with pytest.raises(OSError, match=r"embeddings\.npy could not be written: no space left"):
        trainer.predict(Embedder(), TinyData(), return_predictions=False)
    assert place.read_text() == "old"
    assert {path.name for path in small_disk.iterdir()} == {place.name, "other"}
