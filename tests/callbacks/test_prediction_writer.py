import csv
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import Subset

from callbacks import PredictionWriter
from callbacks.prediction_writer import _columns
from framework.data.datasets import ArrayDataset, Batch
from tests.helpers.ranks import TwoRanks
from tests.helpers.tiny import CLASSES, TinyData, TinyModule, tiny_trainer

COLUMNS = ["index", "prediction", "probability_0", "probability_1", "probability_2"]


def predict(
    folder: Path, module: TinyModule, data: TinyData, **kwargs: Any
) -> list[dict[str, str]]:
    trainer = tiny_trainer(folder, [PredictionWriter(**kwargs)], False)
    trainer.predict(module, data, return_predictions=False)
    return read(folder / "predictions.csv") if not kwargs else []


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected(module: TinyModule, data: TinyData) -> Tensor:
    # in batches of the same size, as another size may round otherwise
    with torch.no_grad():
        batches = data.predict_set.fields["image"].split(data.eval_batch_size)
        return torch.cat([module(image).softmax(-1) for image in batches])


def test_one_row_per_sample_with_exact_values(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, data = TinyModule(), TinyData()
    rows = predict(tmp_path, module, data)
    probability = expected(module, data)
    assert list(rows[0]) == COLUMNS
    assert [row["index"] for row in rows] == [str(k) for k in range(10)]
    assert [int(row["prediction"]) for row in rows] == probability.argmax(1).tolist()
    written = [[np.float32(row[f"probability_{k}"]) for k in range(3)] for row in rows]
    assert torch.equal(torch.tensor(np.array(written)), probability)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert capfd.readouterr().out == "predictions: 10 rows in predictions.csv\n"


def test_parquet_has_the_types_and_values_of_the_tensors(tmp_path: Path) -> None:
    class Special(TinyModule):
        def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
            rows = len(batch["image"])
            value = torch.tensor([0.1, math.nan, math.inf, -1e-45])[:rows]
            return {
                "value": value,
                "double": value.double() / 3,
                "half": value.bfloat16(),
                "sure": value > 0,
                "label": torch.arange(rows, dtype=torch.int32),
            }

    predict(tmp_path, Special(), TinyData(predict_rows=4), format="parquet")
    table = parquet.read_table(tmp_path / "predictions.parquet")
    assert [str(field.type) for field in table.schema] == [
        "int64",
        "float",
        "double",
        "float",
        "bool",
        "int32",
    ]
    value = np.array([0.1, math.nan, math.inf, -1e-45], dtype=np.float32)
    np.testing.assert_array_equal(table["value"].to_numpy(), value)
    np.testing.assert_array_equal(table["double"].to_numpy(), value.astype(np.float64) / 3)
    half = torch.tensor(value).bfloat16().float().numpy()
    np.testing.assert_array_equal(table["half"].to_numpy(), half)
    assert table["sure"].to_pylist() == [True, False, True, False]
    assert table["value"].null_count == 0
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]


def predict_on_this_rank(folder: Path, rows: int, **kwargs: Any) -> None:
    torch.manual_seed(0)
    trainer = tiny_trainer(folder, [PredictionWriter()], False, **kwargs)
    trainer.predict(TinyModule(), TinyData(rows), return_predictions=False)


@pytest.mark.parametrize("rows", [1, 9, 11])
def test_two_ranks_write_what_one_does(tmp_path: Path, two_ranks: TwoRanks, rows: int) -> None:
    """The last global batch of 4 has 1 or 3 rows: slices are uneven, or empty on one rank."""
    one, two = tmp_path / "one", tmp_path / "two"
    predict_on_this_rank(one, rows)
    two_ranks(predict_on_this_rank, two, rows, strategy="ddp", devices=2)
    ours, theirs = read(two / "predictions.csv"), read(one / "predictions.csv")
    assert [row["index"] for row in ours] == [str(k) for k in range(rows)]
    for our, their in zip(ours, theirs, strict=True):
        assert our["prediction"] == their["prediction"]
        for name in COLUMNS[2:]:
            assert float(our[name]) == pytest.approx(float(their[name]), abs=1e-7)
    assert [path.name for path in two.iterdir()] == ["predictions.csv"]


def join(parts: list[Path], writer: PredictionWriter | None = None) -> None:
    """Join parts to ``all.csv`` beside them."""
    folder = parts[0].parent
    writer = writer or PredictionWriter(str(folder / "all.csv"))
    writer.join([str(part) for part in parts], tiny_trainer(folder, [], False))


def test_parts_are_joined_by_index_and_each_sample_once(tmp_path: Path) -> None:
    parts = [tmp_path / f"part{rank}" for rank in range(4)]
    writer = PredictionWriter(str(tmp_path / "all.csv"))
    writer._types = {"index": np.dtype(np.int64), "a": np.dtype(object)}
    parts[0].write_text("index,a\n7,seven\n0,zero\n3,three\n")
    parts[1].write_text("")
    parts[2].write_text("index,a\n")
    parts[3].write_text("index,a\n3,three\n12,twelve\n1,one\n")
    join(parts, writer)
    assert (tmp_path / "all.csv").read_text() == (
        "index,a\n0,zero\n1,one\n3,three\n7,seven\n12,twelve\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    class Failing(TinyModule):
        def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
            if int(batch["index"][0]) == 8:
                raise RuntimeError("broken sample")
            return super().predict_columns(batch)

    (tmp_path / "predictions.csv").write_text("old")
    with pytest.raises(RuntimeError, match="broken sample"):
        predict(tmp_path, Failing(), TinyData())
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert (tmp_path / "predictions.csv").read_text() == "old"


def test_nothing_to_predict_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    join([_empty(tmp_path / "part0")])
    assert "there were no samples" in capfd.readouterr().out
    assert not any(tmp_path.iterdir())


def _empty(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"box": torch.zeros(2, 3, 4)}, r"'box' is \(2, 3, 4\), not a tensor"),
        ({"name": ["a", "b"]}, "'name' is list, not a tensor"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, "differ in length"),
        (torch.zeros(2), "must return a dict"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, outputs: Any, message: str) -> None:
    class Odd(TinyModule):
        def predict_step(self, batch: Batch, batch_idx: int) -> Any:
            return outputs

    with pytest.raises(ValueError, match=message):
        predict(tmp_path, Odd(), TinyData())
    assert not any(tmp_path.iterdir())


def test_without_index_the_order_is_kept_on_one_rank_only(tmp_path: Path) -> None:
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for part in parts:
        part.write_text("a\n2\n1\n")
    with pytest.raises(ValueError, match="have an `index`"):
        join(parts)
    assert not any(tmp_path.iterdir())
    parts[0].write_text("a\n2\n1\n")
    join(parts[:1])
    assert (tmp_path / "all.csv").read_text() == "a\n2\n1\n"


def test_wrong_arguments_and_a_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("out.parquet", "out", ".bashrc", "out.csv/.profile"):
        with pytest.raises(
            ValueError, match=rf"written as csv, but to {re.escape(path)}: the path"
        ):
            PredictionWriter(path=path)
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'trimtab\[parquet\]'"):
        predict(tmp_path, TinyModule(), TinyData(), format="parquet")


class Named(ArrayDataset):
    names = ("a.png", "sub/ü, b.png", "two\nlines.png", *(f"{k}.png" for k in range(3, 10)))


class NamedModule(TinyModule):
    column_names = {"prediction": CLASSES, "probability": CLASSES}  # noqa: RUF012


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_files_and_classes_are_named(tmp_path: Path, format: str) -> None:  # noqa: A002
    data = TinyData()
    assert data.predict_set is not None
    data.predict_set = Subset(Named(**data.predict_set.fields), [2, 0, 1, *range(3, 10)])
    module = NamedModule()
    trainer = tiny_trainer(tmp_path, [PredictionWriter(format=format)], False)
    trainer.predict(module, data, return_predictions=False)
    path = tmp_path / f"predictions.{format}"
    rows = read(path) if format == "csv" else parquet.read_table(path).to_pylist()
    assert list(rows[0]) == ["index", "file", "prediction", *(f"probability_{n}" for n in CLASSES)]
    assert [row["file"] for row in rows][:3] == ["a.png", "sub/ü, b.png", "two lines.png"]
    for row in rows:
        best = max(CLASSES, key=lambda name: float(row[f"probability_{name}"]))
        assert row["prediction"] == best


def test_targets_are_named() -> None:
    found = _columns({"prediction": torch.zeros(4, 2)}, {"prediction": ["width", "height"]})
    assert list(found) == ["prediction_width", "prediction_height"]
    # of another number, as of another model
    assert list(_columns({"p": torch.zeros(4, 2)}, {"p": ["width"]})) == ["p_0", "p_1"]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path, format: str) -> None:  # noqa: A002
    place = small_disk / f"predictions.{format}"
    place.write_text("old")
    free = os.statvfs(small_disk)
    (small_disk / "other").write_bytes(bytes(free.f_bavail * free.f_frsize))
    trainer = tiny_trainer(small_disk, [PredictionWriter(str(place), format)], False)
    with pytest.raises(
        OSError, match=rf"predictions\.{format} could not be written: no space left"
    ):
        trainer.predict(TinyModule(), TinyData(), return_predictions=False)
    assert place.read_text() == "old"
    assert {path.name for path in small_disk.iterdir()} == {place.name, "other"}


def test_two_predictions_at_once_keep_apart(tmp_path: Path) -> None:
    class Twice(TinyModule):
        again = True

        def on_predict_batch_end(self, *args: Any) -> None:
            if self.again:
                self.again = False
                predict(tmp_path, TinyModule(), TinyData(predict_rows=7))

    rows = predict(tmp_path, Twice(), TinyData())
    assert [row["index"] for row in rows] == [str(k) for k in range(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
