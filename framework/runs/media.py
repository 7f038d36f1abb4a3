"""Pictures and tables, handed to every logger that takes some."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from framework.figures.score_table import Table
from framework.figures.style import may_fail
from framework.runs.mlflow_logger import RunMLFlowLogger

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&])")
"""What means something in Markdown, which TensorBoard shows texts as."""


def log_figure(trainer: Trainer, name: str, path: Path, caption: str = "") -> None:
    """Hand a picture to the loggers of a run; one that fails is named in a warning.

    Args:
        trainer: Trainer of the run.
        name: Name on the dashboard, such as ``figures/val_confusion_matrix``.
        path: File of the picture.
        caption: What it shows.
    """
    step = _step(trainer)
    for logger in trainer.loggers:
        send = next((f for kinds, f in FIGURES if isinstance(logger, kinds)), None)
        if send is not None:
            with may_fail(f"{name}{path.suffix}", f"sent to {type(logger).__name__}"):
                send(logger, name, path, one_line(caption), step)


def log_table(trainer: Trainer, name: str, table: Table) -> None:
    """Hand a table to the loggers of a run; one that fails is named in a warning.

    Args:
        trainer: Trainer of the run.
        name: Name on the dashboard, such as ``tables/val_class_scores``.
        table: The table.
    """
    step = _step(trainer)
    for logger in trainer.loggers:
        send = next((f for kinds, f in TABLES if isinstance(logger, kinds)), None)
        if send is not None:
            with may_fail(f"the table {name}", f"sent to {type(logger).__name__}"):
                send(logger, name, table, step)


def as_csv(table: Table) -> str:
    """Return a table as CSV with a line of column names."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
    return text.getvalue()


def as_markdown(table: Table) -> str:
    r"""Return a table in Markdown, in which texts mean nothing but themselves.

    Example:
        >>> print(as_markdown(Table("", ("class", "F1"), [("<b>a|b", 0.5)])))
        | class | F1 |
        | --- | --- |
        | \<b\>a\|b | 0\.5 |
    """
    cells = [[escape(_shown(cell)) for cell in row] for row in (table.columns, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{' --- |' * len(table.columns)}", *lines[1:]])


def escape(text: str) -> str:
    """Return a text for Markdown in one line, in which it means nothing but itself."""
    return MARKDOWN.sub(r"\\\1", one_line(text))


def one_line(text: str) -> str:
    """Return a text in one line of printable letters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _shown(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _step(trainer: Trainer) -> int:
    # the number that Lightning gives to the values of this step
    return max(trainer.global_step - 1, 0)


def _figure_to_wandb(logger: WandbLogger, name: str, path: Path, caption: str, step: int) -> None:
    logger.log_image(name, [str(path)], step=step, caption=[caption])


def _figure_to_tensorboard(
    logger: TensorBoardLogger, name: str, path: Path, caption: str, step: int
) -> None:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    if caption:
        logger.experiment.add_text(f"{name}/caption", escape(caption), step)


def _figure_to_mlflow(
    logger: MLFlowLogger | RunMLFlowLogger, name: str, path: Path, caption: str, step: int
) -> None:
    logger.experiment.log_artifact(logger.run_id, str(path), "figures")
    if caption:
        logger.experiment.log_text(logger.run_id, caption, f"figures/{path.stem}.txt")


def _table_to_wandb(logger: WandbLogger, name: str, table: Table, step: int) -> None:
    rows = [[one_line(cell) if isinstance(cell, str) else cell for cell in r] for r in table.rows]
    logger.log_table(name, columns=list(table.columns), data=rows, step=step)


def _table_to_tensorboard(logger: TensorBoardLogger, name: str, table: Table, step: int) -> None:
    text = f"{escape(table.caption)}\n\n{as_markdown(table)}"
    logger.experiment.add_text(name, text, step)


def _table_to_mlflow(
    logger: MLFlowLogger | RunMLFlowLogger, name: str, table: Table, step: int
) -> None:
    logger.experiment.log_text(logger.run_id, as_csv(table), f"{name}.csv")


Kinds = tuple[type[Logger], ...]
MLFLOW: Kinds = (MLFlowLogger, RunMLFlowLogger)
FIGURES: list[tuple[Kinds, Callable]] = [
    ((WandbLogger,), _figure_to_wandb),
    ((TensorBoardLogger,), _figure_to_tensorboard),
    (MLFLOW, _figure_to_mlflow),
]
TABLES: list[tuple[Kinds, Callable]] = [
    ((WandbLogger,), _table_to_wandb),
    ((TensorBoardLogger,), _table_to_tensorboard),
    (MLFLOW, _table_to_mlflow),
]
