from __future__ import annotations

import os
from pathlib import Path

import pytest

import trimtab
from framework.reports.comparison_page import comparison_page
from framework.reports.run_result import RunResult
from tests.helpers.pages import Page, in_chromium, make_run

ATTACK = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, lr in enumerate((0.1, 0.2, 0.2)):
        rows = [{"epoch": e, "val/accuracy": 0.1 * e + 0.2 * number} for e in range(3)]
        config = {"model": {"class_path": "modules.Classifier", "init_args": {"lr": lr}}}
        config["trainer"] = {"callbacks": [{"class_path": "callbacks.SAF"}] * (number == 2)}
        make_run(Path("runs", "digits", "abc"[number]), rows, config)
    return tmp_path / "runs"


def test_the_command_writes_one_page_beside_the_runs(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trimtab.main(["report", "runs"])
    assert "report: runs/digits/report.html" in capfd.readouterr().out
    page = Page((runs / "digits" / "report.html").read_text())
    rows = [row for row in page.all("tr") if "data-run" in row]
    assert [row["data-text"] for row in rows] == [
        "lr=0.2 callbacks=SAF",
        "lr=0.2 callbacks=[]",
        "lr=0.1 callbacks=[]",
    ]
    assert [run["name"] for run in page.data["runs"]] == ["c", "b", "a"]
    (chart,) = page.data["charts"]
    assert chart["title"] == "validation: accuracy"
    assert [one["run"] for one in chart["series"]] == [0, 1, 2]


def test_the_page_of_a_run_is_led_to(runs: Path) -> None:
    trimtab.main(["report", "runs/digits/a"])
    trimtab.main(["report", "runs", "--output", "other/all.html"])
    page = Page(Path("other", "all.html").read_text())
    assert [link["href"] for link in page.all("a")] == ["../runs/digits/a/report.html"]


def test_a_foreign_file_stays_and_output_names_another(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = runs / "digits" / "report.html"
    mine.write_text("mine")
    trimtab.main(["report", "runs"])
    assert "is no report: remove it, or choose a place by trimtab" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        trimtab.main(["report", "runs", "--output", str(mine)])
    assert mine.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = runs / "digits" / "a"
    run.chmod(0o500)
    trimtab.main(["report", str(run)])
    assert "Choose a place by --output FILE." in capfd.readouterr().err


def test_texts_of_others_are_texts(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / f"{ATTACK.replace('/', '')}{k}", [{f"val/{ATTACK}": k}], {ATTACK: k})
        for k in range(2)
    ]
    page = Page(comparison_page([RunResult.read(path) for path in paths], tmp_path))
    assert not page.all("img")
    assert len(page.all("script")) == 2
    assert page.text.count("onerror=alert(1)") == 3


@pytest.mark.slow
def test_a_browser_shows_a_hundred_runs(tmp_path: Path) -> None:
    paths = [
        make_run(
            tmp_path / f"r{k}",
            [
                {"epoch": e // 10, "val/accuracy": e * k, "train/loss": 1.0 / (e + 1)}
                for e in range(40)
            ],
            {"lr": k / 100},
        )
        for k in range(100)
    ]
    content = comparison_page([RunResult.read(path) for path in paths], tmp_path)
    # a person types into the search and clicks on a row
    typed = (
        "search.value = 'lr=5e-1'; update(); rows.find((row) => !row.hidden).click();"
        "document.title = document.getElementById('count').textContent;"
    )
    content = content.replace("let waiting = 0;", f"{typed}\nlet waiting = 0;")
    place = tmp_path / "report.html"
    place.write_text(content.replace("Content-Security-Policy", "x-no-policy"))
    document = in_chromium(place, tmp_path / "profile")
    if document is None:
        pytest.skip("needs chromium")
    assert "<title>1 of 100 runs</title>" in document
    page = Page(document)
    assert [row["data-text"] for row in page.all("tr") if row.get("class") == "chosen"] == [
        "lr=0.5"
    ]
    assert len([g for g in page.all("g") if g.get("class") == "marked"]) == 2
