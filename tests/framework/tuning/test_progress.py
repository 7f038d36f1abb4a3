"""What a person sees of a search."""

from __future__ import annotations

from io import StringIO

from framework.tuning.driver import Driver
from framework.tuning.progress import Progress, in_words
from framework.tuning.study import StudyFolder, pruner_of, sampler_of
from framework.utilities.console import PlainConsole
from tests.helpers.studies import BASE, SPACE, FakeChild, FakeFits, study_settings


def shown(folder, is_terminal: bool, **given) -> str:
    console = PlainConsole()
    console.file = StringIO()
    console._force_terminal = console.is_interactive = is_terminal
    console.width = 160
    settings = study_settings(folder, trials=3, **given)
    study = StudyFolder(settings, BASE, sampler_of, pruner_of)
    fits = FakeFits(before=lambda number, files: FakeChild(-9) if number == 1 else None)
    with Progress(settings, console) as progress:
        Driver(study, fits, progress=progress, poll=0.001).run()
    study.release()
    return console.file.getvalue()


def test_lines_where_there_is_no_terminal(tmp_path):
    lines = shown(tmp_path, is_terminal=False).splitlines()
    assert [line.split()[1] for line in lines] == ["0:", "1:", "2:"]
    assert lines[0].startswith("trial 0: val/loss ")
    assert "lr " in lines[0]
    assert "best " in lines[0]
    assert lines[1].startswith("trial 1: failed: ended by SIGKILL")


def test_the_best_value_of_several_fidelities_is_called_so(tmp_path):
    space = {**SPACE, "model.width": SPACE["model.width"] | {"fidelity": True}}
    lines = shown(tmp_path, is_terminal=False, space=space, sampler="mf_kg").splitlines()
    assert "| best at any fidelity " in lines[0]


def test_a_table_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = shown(tmp_path, is_terminal=True)
    for words in ("3 trial(s) in this search", "complete", "fail", "val/loss", "best "):
        assert words in text
    assert "trial 1 failed: ended by SIGKILL" in text
    # each table takes the place of the one before
    assert "\x1b[1A" in text


def test_names_are_as_short_as_they_can_be():
    assert in_words({"a.b.lr": 0.5, "a.c.lr": 1}) == "b.lr 0.5, c.lr 1"
    assert in_words({"a.lr": 0.5, "b.lr": 1, "c.act": None}) == "a.lr 0.5, b.lr 1, act None"
