"""Writes docs/losses.md, the table of every loss, from the classes themselves.

    python -m docs.losses

A loss appears once it is exported by ``framework.losses``. Its docstring may say what it costs
(``Cost:``), when to use it (``Use it for:``) and where it comes from (``arXiv:``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import torch

import framework.losses
from framework.distributed.sample_state import SampleState
from framework.losses import ClassificationLoss, Loss, RegressionLoss

PAGE = Path(__file__).with_suffix(".md")
BASES = (Loss, ClassificationLoss, RegressionLoss)

HEADER = """# The losses

Written by `python -m docs.losses` from the classes; do not edit. Each is called as
`loss(predictions, targets)` and chosen by `--model.criterion NAME`. What it needs beyond that the
framework hands it; `batch` is the whole global batch at once. A loss whose value means nothing in
training cannot be monitored for early stopping. What each did in small experiments stands in
[experiments.md](experiments.md); what it costs in time and memory `python -m benchmarks.losses`
prints.

"""
COLUMNS = (
    "Loss",
    "For",
    "Needs",
    "Remembers per sample",
    "Soft targets",
    "Can be monitored",
    "Cost",
    "Use it for",
    "Paper",
)


def losses() -> list[type[Loss]]:
    """Return every loss that ``framework.losses`` exports."""
    exported = (getattr(framework.losses, name) for name in framework.losses.__all__)
    kinds = [e for e in exported if isinstance(e, type) and issubclass(e, Loss) and e not in BASES]
    return sorted(kinds, key=lambda kind: kind.__name__)


def section(kind: type[Loss], title: str) -> str:
    """Return what stands in a docstring after ``title:``, or nothing."""
    pattern = rf"^{title}: (.+?)(?=\n\n|\nUse it for: |\Z)"
    found = re.search(pattern, inspect.getdoc(kind) or "", re.M | re.S)
    text = found.group(1) if found else ""
    return " ".join(text.split()).replace("``", "`").rstrip(".")


def papers(kind: type[Loss]) -> str:
    """Return links to the papers that a docstring names."""
    numbers = dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{4,5})", inspect.getdoc(kind) or ""))
    return ", ".join(f"[{n}](https://arxiv.org/abs/{n})" for n in numbers)


def remembers(kind: type[Loss]) -> str:
    """Return the names of the tables that a loss keeps of every training sample."""
    loss = kind()
    loss.setup(num_samples=8, num_classes=3, device=torch.device("cpu"))
    return ", ".join(name for name, value in vars(loss).items() if isinstance(value, SampleState))


def row(kind: type[Loss]) -> str:
    """Return the line of a loss."""
    tasks = [
        task
        for base, task in ((ClassificationLoss, "classes"), (RegressionLoss, "numbers"))
        if issubclass(kind, base)
    ]
    needs = [f"`{need}`" for need in kind.needs] + (["batch"] if kind.batch_coupled else [])
    cells: Iterator[str] = iter(
        [
            f"`{kind.__name__}`",
            ", ".join(tasks),
            ", ".join(needs),
            remembers(kind),
            "yes" if getattr(kind, "soft_targets", False) else "",
            "yes" if kind.monitorable else "**no**",
            section(kind, "Cost"),
            section(kind, "Use it for"),
            papers(kind),
        ]
    )
    return "| " + " | ".join(cells) + " |\n"


def page() -> str:
    """Return the page."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS) + "\n"
    return HEADER + head + "".join(row(kind) for kind in losses())


if __name__ == "__main__":
    PAGE.write_text(page())
