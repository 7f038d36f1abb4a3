"""Run folders to be shown, and the pages that are made of them, as a browser understands them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from framework.runs.csv_logger import RunLogger


class Page(HTMLParser):
    """The texts and elements of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: str | None = None
        self.scripts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, text: str) -> None:
        if self._inside == "script":
            self.scripts.append(text)
        elif self._inside != "style" and text.strip():
            self.texts.append(" ".join(text.split()))

    @property
    def data(self) -> Any:
        """What the scripts read."""
        return json.loads(self.scripts[0])

    @property
    def text(self) -> str:
        """All that a person reads."""
        return " ".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def make_run(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | None = None,
    test: Mapping[str, float] | None = None,
) -> Path:
    """Write a run folder with metrics, a config and a picture."""
    tables = {"metrics.csv": rows, "metrics_test.csv": [test] if test else []}
    for name, table in tables.items():
        logger = RunLogger(str(folder))
        logger.file_name = name
        for step, row in enumerate(table):
            logger.log_metrics(row, step)
        logger.finalize("success")
    chosen = {"checkpoint": {"monitor": "val/accuracy", "mode": "max"}, **(config or {})}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(chosen))
    (folder / "figures").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "figures" / "test_scores.png")
    return folder


def in_chromium(page: Path, folder: Path, *options: str) -> str | None:
    """Return the document that headless Chromium makes of a page, or None where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return None
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    command = [program, *quiet, "--virtual-time-budget=2000", *options, "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True)
    return done.stdout


def without_data(document: str) -> str:
    """Return a document without its data, its script and its style."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", document, flags=re.DOTALL)
