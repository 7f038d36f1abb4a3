"""The table of results on data nobody tuned on: runs are kept, and never repeated."""

from __future__ import annotations

import pytest

from benchmarks import transfer
from benchmarks.experiment import PICK
from benchmarks.transfer import System

ARMS = {"squared error": ["--config=regressor"], "CS-IB": ["--config=csib"]}
EVERYTHING = {
    "Regression": System("val/rmse", {"yacht": ["--rows=1"], "energy": []}, ARMS, "lowest"),
}


@pytest.fixture
def runs(monkeypatch) -> list[tuple[list[str], int, list[str]]]:
    """Take note of every run in place of running it."""
    noted: list[tuple[list[str], int, list[str]]] = []

    def run_arm(args, seed, metrics):
        noted.append((args, seed, metrics))
        return [2.0 + seed, 1.0]

    monkeypatch.setattr(transfer, "run_arm", run_arm)
    return noted


def test_runs_are_kept_and_not_repeated(runs, tmp_path) -> None:
    path = tmp_path / "results.jsonl"
    transfer.run(EVERYTHING, path, seeds=1, words=["CS-IB"])
    assert [args[0] for args, _, _ in runs] == ["--config=csib"] * 2
    assert runs[0] == (["--config=csib", "--rows=1"], 0, ["val/rmse", "lowest:val/rmse"])
    transfer.run(EVERYTHING, path, seeds=2, words=[""])
    assert len(runs) == 2 * 2 * 2
    transfer.run(EVERYTHING, path, seeds=2, words=[""])
    assert len(runs) == 2 * 2 * 2


def test_the_table(runs, tmp_path, capsys) -> None:
    path = tmp_path / "results.jsonl"
    transfer.run(EVERYTHING, path, seeds=3, words=["squared"])
    transfer.run(EVERYTHING, path, seeds=1, words=["CS-IB"])
    transfer.print_tables(transfer.read(path), EVERYTHING)
    lines = capsys.readouterr().out.splitlines()
    assert "| | yacht | energy |" in lines
    assert "| squared error | 3.000 ± 1.000 / 1.000 | 3.000 ± 1.000 / 1.000 |" in lines
    one = "2.000 ± 0.000 / 1.000 (one seed)"
    assert f"| CS-IB | {one} | {one} |" in lines


def test_the_best_of_a_column() -> None:
    column = [3.0, 1.0, 2.0]
    assert [PICK[kind](column) for kind in ("", "best", "lowest")] == [2.0, 3.0, 1.0]
