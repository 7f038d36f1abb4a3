"""Categories, missing values, statistics of any size, and tables that come after the training."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import Tabular
from datamodules.table_encoding import moments
from datamodules.table_reader import read_table
from framework.data.facts import facts_of


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def plain(source: str, **options: Any) -> Tabular:
    """Return a table that is not split, in the units of its file."""
    data = Tabular(
        source, val_size=0, test_size=0, standardize_inputs=False, standardize_target=False,
        **options,
    )  # fmt: skip
    data.setup("fit")
    return data


def inputs(data: Tabular) -> list[list[float]]:
    return data.train_set.dataset.fields["input"].tolist()


COLORS = "color,size,price\nred,1,10\nblue,2,20\nred,3,30\n"


def test_text_is_refused_unless_a_coding_is_chosen(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", COLORS)
    with pytest.raises(ValueError, match=r"line 2, column 'color' .*; `categories` takes text"):
        plain(source)
    data = plain(source, categories="one_hot")
    assert data.feature_names == ["color=blue", "color=red", "size"]
    assert inputs(data) == [[0, 1, 1], [1, 0, 2], [0, 1, 3]]
    assert inputs(plain(source, categories="ordinal")) == [[1, 1], [0, 2], [1, 3]]


def test_categories_are_those_of_the_training_rows(tmp_path: Path) -> None:
    rows = "".join(f"{'ab'[k % 2]},{k}\n" for k in range(12))
    data = Tabular(write(tmp_path / "a.csv", "x,y\n" + rows), categories="one_hot", val_size=2)
    data.setup("fit")
    text = "x,z\nb,0\nnew,0\n,0\na,0\n"
    for coding, expected in (
        ("one_hot", [[0, 1], [0, 0], [0, 0], [1, 0]]),
        ("ordinal", [[1], [-1], [-1], [0]]),
    ):
        later = Tabular(
            write(tmp_path / "b.csv", text), categories=coding, standardize_inputs=False
        )
        later.use_facts(facts_of(data))
        with pytest.warns(UserWarning, match="1 of 4 rows have a category of 'x' .* 'new'"):
            later.setup("predict")
        assert later.predict_set.dataset.fields["input"].tolist() == expected


def test_a_column_that_names_the_rows_is_said_to_do_so(tmp_path: Path) -> None:
    rows = "".join(f"h{k},{k},{k}\n" for k in range(40))
    source = write(tmp_path / "a.csv", "id,x,y\n" + rows)
    with pytest.warns(UserWarning, match="column 'id' has 40 different texts .* row_names"):
        plain(source, categories="one_hot")
    assert plain(source, categories="one_hot", row_names="id").feature_names == ["x"]


HOLES = "x,w,y\n1,1,1\n,2,2\n4,3,3\n7,NA,4\n9,5,?\n"


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("mean", [[1, 1], [4, 2], [4, 3], [7, 2]]),
        ("median", [[1, 1], [4, 2], [4, 3], [7, 2]]),
        ("drop", [[1, 1], [4, 3]]),
    ],
)
def test_missing_values_by_choice(
    tmp_path: Path, missing: str, expected: list[list[float]]
) -> None:
    source = write(tmp_path / "a.csv", HOLES)
    with pytest.raises(ValueError, match=r"line 6, column 'y' holds '\?', .*; `missing` says"):
        plain(source)
    with pytest.warns(UserWarning, match=r"of 5 rows are left out, as a value is missing in"):
        data = plain(source, missing=missing)
    rows = data.train_set.dataset.batch(data.train_set.indices)
    assert rows["input"].tolist() == expected
    assert data.train_set.indices == ([0, 2] if missing == "drop" else [0, 1, 2, 3])


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e308, 1e30, 1.0])
def test_a_column_of_any_size_is_standardized(size: float) -> None:
    values = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64) * (size / 4)
    mean, std = moments(values)
    torch.testing.assert_close(
        ((values - mean) / std).T,
        torch.tensor([[-1.0690, -0.2673, 1.3363]], dtype=torch.float64),
        atol=1e-4,
        rtol=0,
    )


def test_the_first_line_is_data_where_it_has_no_names(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", "1,,3\n4,5,6\n"))
    assert (len(table), table.names) == (2, ["0", "1", "2"])
    assert table.missing(1).tolist() == [True, False]


def test_the_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", ",x,y\n0,5,1\n1,6,2\n2,8,3\n")
    with pytest.warns(
        UserWarning, match=r"the column '' numbers the rows, as pandas writes"
    ) as said:
        assert plain(source, missing="drop").feature_names == ["x"]
    assert len(said) == 1
    assert plain(source, features=[0, "x"]).input_size == 2


def test_decimal_commas_and_separators(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "x;y\n1,5;2\n2,5;3\n")
    with pytest.raises(ValueError, match=r"column 'x' holds '1,5', .*; set decimal to ','"):
        plain(source)
    assert inputs(plain(source, decimal=",")) == [[1.5], [2.5]]
    assert inputs(plain(write(tmp_path / "b.csv", "x|y\n1|2\n3|4\n"), separator="|")) == [[1], [3]]
    with pytest.raises(ValueError, match=r"column 'x' holds '1\.5'"):
        plain(write(tmp_path / "c.csv", "x;y\n1.5;2\n"), decimal=",")


def test_compressed_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x,y\n1,2\n3,4\n"))
    assert inputs(plain(str(path))) == [[1], [3]]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.csv\.gz is no complete compressed file"):
        read_table(path)


def test_every_row_of_another_table_is_predicted_as_in_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(5, 3, (40, 3))
    lines = [",".join(map(str, row)) for row in values.tolist()]
    data = Tabular(write(tmp_path / "a.csv", "\n".join(["a,b,y", *lines])), test_size=0)
    data.setup("fit")
    known = data.train_set.dataset.fields["input"]
    # other columns in another order, no target, names of the rows
    text = "\n".join(["id,b,a", *(f"r{k},{b},{a}" for k, (a, b, _) in enumerate(values))])
    later = Tabular(write(tmp_path / "b.csv", text), row_names="id", val_size=999)
    later.use_facts(facts_of(data))
    later.setup("predict")
    assert torch.equal(later.predict_set.dataset.fields["input"], known)
    assert later.predict_set.dataset.names[:2] == ["r0", "r1"]
    assert later.predict_set.dataset.names_title == "id"
    assert len(later.predict_set) == 40
    # without names by position
    bare = "\n".join(f"{a},{b}" for a, b, _ in values)
    later = Tabular(write(tmp_path / "c.csv", bare))
    later.use_facts(facts_of(data))
    later.setup("predict")
    assert torch.equal(later.predict_set.dataset.fields["input"], known)
    other = Tabular(write(tmp_path / "d.csv", "a,c\n1,2\n"))
    other.use_facts(facts_of(data))
    with pytest.raises(ValueError, match=r"lacks the column b, of those .* trained on: a, b"):
        other.setup("predict")
    torch.testing.assert_close(other.as_batch(values[:, :2])["input"], known)


def test_targets_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "x,y\n1,1e200\n2,2e200\n3,5e200\n")
    with pytest.raises(ValueError, match=r"the target 'y' varies by 1\.7e\+200, beyond the range"):
        Tabular(source, val_size=0, test_size=0).setup("fit")
