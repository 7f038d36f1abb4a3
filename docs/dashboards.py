"""Writes docs/dashboards.md, the panels of every domain, from W&B runs that it reads back.

    python -m docs.dashboards

Each domain's config is run for two epochs with the small sizes of the tests, recorded on this
machine by ``with/wandb``; what is listed is what the record holds.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trimtab
from framework.runs.panels import Layout, Panel
from tests.conftest import write_small_data
from tests.helpers.configs import DOMAINS, arguments, module_class
from tests.helpers.wandb_file import axes, config, history, summary

PAGE = Path(__file__).with_suffix(".md")
START = "<!-- Written by `python -m docs.dashboards`; do not edit below. -->\n"


def record(system: str, folder: Path, *overlays: str) -> None:
    """Run a config with ``with/wandb``, recorded on this machine."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    with TemporaryDirectory() as data:
        write_small_data(Path(data))
        args = arguments(system, *overlays, "with/wandb", data=Path(data))
        trimtab.main(["fit", *args, f"--run_folder={folder}"])


def section(system: str, folder: Path) -> str:
    """Return what the record of a run holds, in Markdown.

    Args:
        system: Name of the config.
        folder: Run folder.
    """
    logged = {name for row in history(folder) for name in row}
    given = config(folder)
    layout = Layout([_panel(**panel) for panel in given["panels"].values()])
    drawn, best = axes(folder), summary(folder)
    kinds = media(folder)
    scalars = sorted(name for name in logged & set(drawn) if name not in kinds)
    lines = [
        f"### {given['model']['class_path'].split('.')[-1]} (`{system}`)\n",
        "| Panel | Metrics | Against | Unit | Best in the summary |",
        "| --- | --- | --- | --- | --- |",
    ]
    for panel, names in layout.by_panel(scalars).items():
        against = sorted({drawn[name] for name in names})
        rated = [f"`best/{name}`" for name in names if f"best/{name}" in best]
        cells = (panel.title, _code(names), _code(against), panel.unit, ", ".join(rated))
        lines.append(f"| {' | '.join(cells)} |")
    pictures = [name for name, kind in kinds.items() if kind.startswith("images")]
    lines.append(f"\nPictures: {_code(sorted(pictures))}.")
    tables = sorted(set(kinds) - set(pictures))
    lines.append(f"Tables: {_code(tables)}.\n" if tables else "Tables: none.\n")
    return "\n".join(lines)


def media(folder: Path) -> dict[str, str]:
    """Return the names of pictures and tables in a record, and of which kind they are."""
    found = {}
    for row in history(folder):
        for name, value in row.items():
            key, _, last = name.rpartition("/")
            if last == "_type":
                found[key] = value
    return found


def _panel(title: str, metrics: list[str], **others: Any) -> Panel:
    return Panel(title, tuple(metrics), **others)


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Write the page anew below its mark."""
    sections = {}
    for system in DOMAINS:
        with TemporaryDirectory() as folder:
            record(system, Path(folder))
            sections[module_class(system)] = section(system, Path(folder))
    said = PAGE.read_text().partition(START)[0]
    PAGE.write_text(said + START + "\n" + "\n".join(sections[name] for name in sorted(sections)))


if __name__ == "__main__":
    main()
