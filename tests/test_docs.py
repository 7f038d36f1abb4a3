"""The pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from docs import losses
from tests.helpers.configs import OVERLAYS
from tests.helpers.runs import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_losses_is_that_of_the_classes() -> None:
    assert losses.PAGE.read_text() == losses.page(), "run `python -m docs.losses`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    inner = [target for target in targets if "://" not in target]
    assert [target for target in inner if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_readme_names_every_overlay(overlay: str) -> None:
    stem = overlay.removeprefix("with/")
    assert re.search(rf"`(with/)?{stem}`", (ROOT / "README.md").read_text())


@pytest.mark.parametrize(
    "name", ["fewshot_slk", "gns", "graphs", "isogclr", "meco", "pamc", "rss", "sso"]
)
def test_the_code_of_a_page_runs(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    torch.manual_seed(0)
    exec(compile(code, f"docs/{name}.md", "exec"), {})
