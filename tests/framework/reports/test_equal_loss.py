"""Runs at equal training loss: which row is taken, who is averaged, and what is said in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import trimtab
from framework.reports.equal_loss import EqualLoss, Mean
from framework.reports.run_result import RunResult
from tests.helpers.pages import Page, make_run


def config(optimizer: str, seed: int, lr: float = 0.1, **more: float) -> dict:
    part = {"class_path": f"torch.optim.{optimizer}", "init_args": {"lr": lr, **more}}
    model = {"class_path": "modules.Classifier", "init_args": {"optimizer": part}}
    return {"seed_everything": seed, "model": model}


def make(folder: Path, losses, ranks, optimizer="SGD", seed=0, **options) -> RunResult:
    rows = [
        {"epoch": e, "train/loss_epoch": loss, "probe/effective_rank": rank}
        for e, (loss, rank) in enumerate(zip(losses, ranks, strict=True))
    ]
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    return RunResult.read(make_run(folder, rows, config(optimizer, seed, **options)))


@pytest.fixture
def runs(tmp_path: Path) -> list[RunResult]:
    folder = tmp_path / "runs"
    return [
        make(folder / "sgd0", [0.9, 0.5, 0.3], [4.0, 5.0, 6.0], seed=0),
        make(folder / "sgd1", [0.9, 0.4, 0.2], [4.0, 7.0, 8.0], seed=1),
        make(folder / "adam0", [0.3, 0.1, 0.05], [2.0, 1.5, 1.0], "AdamW", seed=0),
        make(folder / "adam1", [0.35, 0.25, 0.05], [2.5, 3.0, 1.0], "AdamW", seed=1),
    ]


def test_each_run_is_read_where_it_first_is_at_or_below_the_level(runs):
    found = EqualLoss(runs)
    assert found.level == 0.3
    assert found.reached == [3, 3, 1, 2]
    sgd, adam = found.groups
    assert (sgd.name, adam.name) == ("SGD", "AdamW")
    assert sgd.values["probe/effective_rank"] == Mean(7.0, pytest.approx(1.0), 2)
    assert str(adam.values["probe/effective_rank"]) == "2.5 ± 0.5"
    assert adam.values["train/loss_epoch"].mean == pytest.approx(0.275)
    assert str(sgd.steps) == "3 ± 0"
    assert found.notes == [
        "0.3 is the lowest loss that all runs reach; sgd0 comes no lower. Another is chosen by "
        "--at VALUE."
    ]


def test_a_run_that_never_reaches_the_level_is_named(runs):
    found = EqualLoss(runs, level=0.25)
    assert found.reached == [None, 3, 2, 2]
    assert found.groups[0].values["probe/effective_rank"] == Mean(8.0, None, 1)
    assert found.notes == [
        "sgd0 is left out: it never reaches 0.25, its lowest train/loss_epoch is 0.3.",
        "AdamW is at 0.175 there, far below 0.25: a loss is known once an epoch, and shorter "
        "epochs bring runs closer.",
        "One run only, and so no standard error: SGD. Runs that differ in seed_everything alone "
        "are replicates.",
    ]
    with pytest.raises(ValueError, match=r"No run reaches train/loss_epoch = 0\.01; the lowest is"):
        EqualLoss(runs, level=0.01)


def test_runs_are_grouped_by_all_settings_but_seeds(tmp_path):
    runs = [
        make(tmp_path / f"{name}{lr}", [0.5], [1.0], name, lr=lr)
        for name, lr in (("SGD", 0.1), ("SGD", 0.2), ("AdamW", 0.1))
    ]
    assert [g.name for g in EqualLoss(runs).groups] == ["SGD lr=0.1", "SGD lr=0.2", "AdamW lr=0.1"]
    more = {"eps": 1e-8}  # only this optimizer has it, and always alike
    assert [
        g.name
        for g in EqualLoss([*runs[:2], make(tmp_path / "m", [0.5], [1.0], "Adam", **more)]).groups
    ] == [
        "SGD lr=0.1",
        "SGD lr=0.2",
        "Adam lr=0.1",
    ]
    same = [make(tmp_path / f"s{k}", [0.5], [1.0], seed=k) for k in range(3)]
    (group,) = EqualLoss(same).groups
    assert (group.name, group.runs) == ("all runs", [0, 1, 2])


def test_rarer_measurements_are_those_that_follow(tmp_path):
    runs = [
        make(tmp_path / "a", [0.5, 0.4, 0.3], [9.0, None, 2.0]),
        make(tmp_path / "b", [0.4, 0.4, 0.4], [None, None, None], "AdamW"),
        make(tmp_path / "c", [math.nan, 0.4, 0.3], [1.0, math.nan, 3.0], "Adam"),
    ]
    a, b, c = EqualLoss(runs).groups
    assert a.values["probe/effective_rank"].mean == 2
    assert "probe/effective_rank" not in b.values
    assert c.values["probe/effective_rank"].mean == 3


def test_a_loss_far_below_the_level_is_said(tmp_path):
    runs = [
        make(tmp_path / "a", [0.5, 0.4], [9.0, 2.0]),
        make(tmp_path / "b", [0.2, 0.1], [1.0, 1.0], "AdamW"),
    ]
    said = "AdamW is at 0.2 there, far below 0.4: a loss is known once an epoch, and shorter"
    assert [note for note in EqualLoss(runs).notes if note.startswith(said)]
    assert not [note for note in EqualLoss(runs[:1] * 2).notes if "far below" in note]


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    with pytest.raises(ValueError, match="name two or more"):
        EqualLoss(runs[:1])
    with pytest.raises(ValueError, match="No run has logged train/los: name another loss"):
        EqualLoss(runs, "train/los")
    empty = RunResult.read(make_run(tmp_path / "none", [{"val/loss": 1.0}], config("SGD", 7)))
    found = EqualLoss([*runs, empty])
    assert found.notes[1] == "none is left out: it has logged no finite train/loss_epoch."


def test_the_command_prints_the_table_and_writes_the_page(runs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    trimtab.main(["report", "runs", "--equal"])
    out = capfd.readouterr().out
    assert "at train: loss, epoch mean of at most 0.3" in out
    assert "probe: effective rank" in out
    assert "7 ± 1" in out
    assert "2.5 ± 0.5" in out
    assert "sgd0 comes no lower" in out
    page = Page((tmp_path / "runs" / "report.html").read_text())
    assert "At equal training loss" in page.text
    assert "7 ± 1" in page.text
    assert "sgd0 comes no lower" in page.text
    trimtab.main(["report", "runs"])
    assert "At equal training loss" not in (tmp_path / "runs" / "report.html").read_text()


def test_wrong_input_is_one_line(runs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for args, message in (
        (["runs", "--at", "0.1"], "--at is the loss of --equal, which is not given"),
        (["runs", "--equal", "--at", "0.01"], "choose a larger --at"),
        (["runs/sgd0", "--equal"], "--equal compares runs: name two or more"),
    ):
        with pytest.raises(SystemExit):
            trimtab.main(["report", *args])
        assert message in capfd.readouterr().err
