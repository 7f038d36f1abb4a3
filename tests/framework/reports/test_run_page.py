from __future__ import annotations

import os
import tracemalloc
from base64 import b64decode
from pathlib import Path

import pytest
import yaml
from PIL import Image

from framework.reports import pictures
from framework.reports.executions import Execution, read_executions, write_execution
from framework.reports.pages import MARK, write_page
from framework.reports.run_page import run_page
from framework.runs.metric_curves import read_curves
from framework.utilities.limits import FileTooLargeError
from tests.helpers.pages import Page, in_chromium, make_run, without_data

ATTACK = "</script><img src=x onerror=alert(1)>"
ROWS = [
    {"epoch": 0, "train/loss_epoch": 2.0, "val/accuracy": 0.5},
    {"epoch": 1, "train/loss_epoch": 1.0, "val/accuracy": 0.75},
    {"epoch": 2, "train/loss_epoch": float("nan"), "val/accuracy": 0.625},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "one", ROWS, {"seed_everything": 7}, {"test/accuracy": 0.5})


def test_a_page_says_what_a_run_came_to(run: Path) -> None:
    page = Page(run_page(run))
    for words in (
        "runs / one",
        "best val/accuracy 0.75 largest, after 2 epochs",
        "last val/accuracy 0.625",
        "test/accuracy 0.5",
        "optimizer steps 3 3 epochs",
        "seed 7",
        "accuracy 0.625 0.75 0.5",
        "train/loss_epoch is not finite in 1 of 3 rows, first at step 3",
        "Scores, test.",
        "checkpoint mode max monitor val/accuracy",
    ):
        assert words in page.text, words
    assert [chart["title"] for chart in page.data["charts"]] == ["loss", "accuracy"]
    (image,) = page.all("img")
    kind, _, content = str(image["src"]).partition(",")
    assert kind == "data:image/png;base64"
    assert b64decode(content) == (run / "figures" / "test_scores.png").read_bytes()


def test_nothing_is_loaded_and_only_our_script_runs(run: Path) -> None:
    page = Page(run_page(run))
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    kinds = [script.get("type") for script in page.all("script")]
    assert kinds == ["application/json", None]
    assert not any("src" in script for script in page.all("script"))
    assert not page.all("link") + page.all("iframe")
    assert not any(name.startswith("on") for _, found in page.tags for name in found)


def hostile_run(folder: Path) -> Path:
    rows = [{"epoch": 0, f"val/{ATTACK}": 0.5, f"{ATTACK}": 1.0, "val/größe 漢字": 1.0}]
    config = {
        "model": {"class_path": f"a.{ATTACK}", "init_args": {ATTACK: ATTACK, "list": [ATTACK]}},
        "checkpoint": {"monitor": f"val/{ATTACK}", "mode": ATTACK},
        "seed_everything": ATTACK,
    }
    run = make_run(folder / ATTACK.replace("/", "") / "\u202e\udcff", rows, config)
    write_execution(run, "fit", Execution(state="failed", reason=ATTACK, job={ATTACK: ATTACK}))
    (run / "tables").mkdir()
    (run / "tables" / f"test_{ATTACK.replace('/', '')}.csv").write_text(f"{ATTACK},F1\n{ATTACK},1")
    (run / "figures" / f"{ATTACK.replace('/', '')}.png").write_bytes(b"\x89PNG" + ATTACK.encode())
    return run


def test_texts_of_others_are_texts(tmp_path: Path) -> None:
    page = Page(run_page(hostile_run(tmp_path)))
    assert [image["alt"] for image in page.all("img")] == ["Scores, test."]
    assert len(page.all("script")) == 2
    assert page.text.count("onerror=alert(1)") > 8
    assert "\u202e" not in page.text
    assert r"\u202e\udcff" in page.text
    assert [chart["title"] for chart in page.data["charts"]][-1] == "größe 漢字"


@pytest.mark.slow
def test_a_browser_runs_nothing_of_others(tmp_path: Path) -> None:
    # a page whose title would change if an attack ran, though the policy alone would stop it
    bare = run_page(hostile_run(tmp_path)).replace("Content-Security-Policy", "x-no-policy")
    bare = bare.replace(r"alert(1)", "document.title=1").replace("alert(1)", "document.title=1")
    for name, content in (
        ("bare.html", bare),
        ("page.html", run_page(hostile_run(tmp_path / "b"))),
    ):
        (tmp_path / name).write_text(content)
        document = in_chromium(tmp_path / name, tmp_path / "profile")
        if document is None:
            pytest.skip("needs chromium")
        page = Page(without_data(document))
        assert "<title>1</title>" not in document
        assert all(str(image["src"]).startswith("data:image/png") for image in page.all("img"))
        # the curves were drawn, in spite of all
        assert len([c for c in page.all("figure") if c["class"] == "chart"]) == 2
        assert page.all("svg")
        assert page.all("path")


def test_a_picture_must_be_one(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = run / "figures"
    (figures / "text.png").write_text("<svg onload=alert(1)>")
    (figures / "cut.png").write_bytes((figures / "test_scores.png").read_bytes()[:20])
    Image.new("L", (6000, 6000)).save(figures / "wide.png")
    Image.effect_noise((400, 400), 50).save(figures / "noise.png")
    os.mkfifo(figures / "pipe.png")
    monkeypatch.setattr(pictures, "LARGEST_OF_ALL", 100_000)
    found, left_out = pictures.read_pictures(run)
    assert [picture.name for picture in found] == ["test_scores"]
    reasons = {line.partition(":")[0].removeprefix("figures/"): line for line in left_out}
    assert "is no PNG" in reasons["text.png"]
    assert "cannot be decoded" in reasons["cut.png"]
    assert "6,000 x 6,000 pixels" in reasons["wide.png"]
    assert "all pictures would be larger" in reasons["noise.png"]
    assert "is no regular file" in reasons["pipe.png"]
    assert "Left out: figures/text.png: it is no PNG." in Page(run_page(run)).text


def test_a_link_out_of_the_folder_is_refused(run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (2, 2)).save(secret)
    (run / "figures" / "link.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"link\.png is a link"):
        run_page(run)


def test_a_caption_is_saved_with_a_picture(run: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("Description", "Rows are true classes.")
    Image.new("L", (2, 2)).save(run / "figures" / "val_confusion.png", pnginfo=said)
    captions = [picture.caption for picture in pictures.read_pictures(run)[0]]
    assert captions == [
        "Scores, test.",
        "Confusion, validation at the end of training. Rows are true classes.",
    ]
    said = PngInfo()
    said.add_text("Description", "Confusion matrix: 9 of 10 are right")
    Image.new("L", (2, 2)).save(run / "figures" / "val_confusion.png", pnginfo=said)
    assert pictures.read_pictures(run)[0][1].caption == (
        "Validation at the end of training. Confusion matrix: 9 of 10 are right."
    )


def test_what_a_table_says_is_not_drawn_as_well(run: Path) -> None:
    (run / "tables").mkdir()
    (run / "tables" / "test_scores.csv").write_text("class,F1\ncat,0.5")
    Image.new("L", (2, 2)).save(run / "figures" / "val_scores.png")
    page = Page(run_page(run))
    assert "Scores, test class F1 cat 0.5" in page.text
    assert [image["alt"] for image in page.all("img")] == [
        "Scores, validation at the end of training."
    ]


def test_a_chart_has_the_unit_of_its_metric(run: Path) -> None:
    write_execution(run, "fit", Execution(units={"val/accuracy": "share of the samples"}))
    charts = Page(run_page(run)).data["charts"]
    assert [chart["unit"] for chart in charts] == ["", "share of the samples"]


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    logger = {"class_path": "a.Logger", "init_args": {"api_key": "x7y", "token": 123457}}
    config = {"trainer": {"logger": [logger]}, "uri": "http://me:x7y@host/store"}
    page = run_page(make_run(tmp_path / "run", ROWS, config))
    assert "x7y" not in page
    assert "123457" not in page
    assert "http://me:***@host/store" in page


def test_an_older_run_and_one_without_metrics_have_pages(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 3}))
    page = Page(run_page(tmp_path))
    assert "No values were logged." in page.text
    assert "seed 3" in page.text
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.csv").write_text("epoch,step,val/loss\n0,1,0.5\n0,2,0.")
    assert [chart["title"] for chart in Page(run_page(tmp_path)).data["charts"]] == ["loss"]


def test_a_million_rows_are_a_small_page(tmp_path: Path) -> None:
    with (tmp_path / "metrics.csv").open("w") as file:
        file.write("epoch,step,train/loss,val/loss\n")
        file.writelines(f"{s // 1000},{s},{1 / (s + 1):.6f},\n" for s in range(100_000))
    tracemalloc.start()
    page = run_page(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(page) < 100_000
    assert peak < 30 * 2**20


def test_a_table_of_metrics_has_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,a\n5,x,1\n")
    curves = read_curves(path)
    assert curves["a"].steps.tolist() == [6]
    for content in ("a,b\n1,2\n", f"step,a\n{10**30},1\n", "a,step\n1\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match="holds no metrics of a run"):
            read_curves(path)
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "1e-7")
    path.write_text("step,a\n" * 20)
    with pytest.raises(FileTooLargeError):
        read_curves(path)


def test_the_state_of_a_run_is_told(run: Path) -> None:
    import platform

    def said() -> str:
        return Page(run_page(run)).text.partition("best val/accuracy")[0]

    assert said().endswith("step 3 ")
    execution = Execution("stopped", "SIGTERM", parts=2, seconds=90.0, step=3)
    write_execution(run, "fit", execution)
    assert "stopped after step 3: SIGTERM" in said()
    assert "time 2 min in 2 starts" in Page(run_page(run)).text
    write_execution(run, "fit", Execution("running", host=platform.node(), process=os.getpid()))
    assert "running at step 3 when this was written" in said()
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    write_execution(run, "fit", Execution("running", host=platform.node(), process=gone))
    assert "failed after step 3: its process is gone without a word" in said()


def test_what_is_of_another_kind_in_a_record_is_left_out(tmp_path: Path) -> None:
    content = '{"fit": {"state": "won", "step": "x", "seconds": 3, "job": {"a": [1]}}, "b": 1}'
    (tmp_path / ".executions.json").write_text(content)
    assert read_executions(tmp_path) == {"fit": Execution(seconds=3.0, job={"a": "[1]"})}
    (tmp_path / ".executions.json").write_text("[")
    assert read_executions(tmp_path) == {}


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    write_page(place, f"{MARK}one")
    write_page(place, f"{MARK}two")
    assert place.read_text() == f"{MARK}two"
    place.write_text("<!doctype html>\nmine")
    with pytest.raises(FileExistsError, match="is there, and is no report: remove it, or"):
        write_page(place, f"{MARK}three")
    assert place.read_text() == "<!doctype html>\nmine"
