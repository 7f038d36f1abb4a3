import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from datamodules.table_reader import read_table


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "x,y\n1,2.5\n-3,4e2\n"),
        ("a.csv", "\ufeffx;y\r\n1;2.5\r\n\r\n-3;4e2"),
        ("a.csv", 'x\ty\n"1"\t 2.5\n-3\t4e2\n'),
        ("a.txt", "x  y\n\n 1 \t2.5 \n-3 4e2"),
    ],
)
def test_text_tables(write, name, text):
    table = read_table(write(name, text))
    assert table.names == ["x", "y"]
    assert len(table) == 2
    assert table.numbers("x").tolist() == table.numbers(-2).tolist() == [1, -3]
    assert table.numbers("y").tolist() == table.numbers(1).tolist() == [2.5, 400]


def test_columns_without_names_are_numbered(write):
    table = read_table(write("a.txt", "1 2\n3 4\n"))
    assert table.names == ["0", "1"]
    assert table.numbers("1").tolist() == [2, 4]


def test_a_name_goes_before_a_number(write):
    table = read_table(write("a.csv", "a,0\n7,8\n"))
    assert table.numbers("0").tolist() == [8]
    assert table.numbers(0).tolist() == [7]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "x,y\n1,2\n\n3,red\n", r"a\.csv, line 4, column 'y' holds 'red'"),
        ("a.csv", "x,y\n1,2\n3,\n", r"a\.csv, line 3, column 'y' is empty"),
        ("a.csv", "x,y\n1,inf\n", r"a\.csv, line 2, column 'y' holds 'inf'"),
        ("a.txt", "1 2\n3 nan\n", r"a\.txt, line 2, column '1' holds 'nan'"),
        ("a.txt", "1 2\n3\n", r"a\.txt, line 2 has 1 fields, and line 1 has 2"),
        ("a.csv", "x,y\n", r"a\.csv holds no rows"),
        ("a.csv", "", r"a\.csv holds no rows"),
        ("a.csv", b"\xff\xfe\x00", r"a\.csv is no table in UTF-8 text"),
        ("a.parquet", "PAR1", r"a\.parquet is no complete Parquet file"),
        ("a.xlsx", "", r"a\.xlsx: tables are \.csv, \.txt or \.parquet"),
    ],
)
def test_bad_files(write, name, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_table(write(name, text)).numbers(-1)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such table"):
        read_table(tmp_path / "a.csv")


def test_text_in_a_column_that_is_not_asked_for_does_no_harm(write):
    assert read_table(write("a.csv", "who,y\nann,1\nbob,2\n")).numbers("y").tolist() == [1, 2]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {
        "x": [1, 2],
        "y": pyarrow.array([0.5, -1], pyarrow.float32()),
        "flag": [True, False],
        "hole": [1.0, None],
        "who": ["ann", "bob"],
        "when": pyarrow.array([0, 1], pyarrow.timestamp("s")),
    }
    parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path)
    assert table.numbers("x").tolist() == [1, 2]
    assert table.numbers("y").tolist() == [0.5, -1]
    assert table.numbers("y").dtype == np.float64
    assert table.numbers("flag").tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"a\.parquet, row 2, column 'hole' "):
        table.numbers("hole")
    for name, cell in (("who", "'ann'"), ("when", "'1970-01-01")):
        with pytest.raises(ValueError, match=f"row 1, column '{name}' holds {cell}"):
            table.numbers(name)


def test_parquet_without_pyarrow_says_what_to_install(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'trimtab\[parquet\]'"):
        read_table(write("a.parquet", "PAR1"))
