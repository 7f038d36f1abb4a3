"""Readers of tables, texts and the files of a run."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.container_mutations import (
    change_packed,
)
from tests.hostile.image_readers import image
from tests.hostile.mutations import BYTES, change_json
from tests.hostile.registry import (
    JSON,
    NUMBERS,
    TEXTS,
    YAML,
    packed,
    reader,
)

# ---- tables and text -----------------------------------------------------------------------------

TABLE = "".join(f"{a},{b},{'xyz'[k % 3]}\n" for k, (a, b, *_) in enumerate(NUMBERS)).encode()
TABLE = b"a,b,c\n" + TABLE


def _table(name: str, content: Callable[[], bytes]) -> None:
    kind = name.rpartition(".")[2]
    packing = kind in ("gz", "bz2", "xz")
    changes = [*[change_packed(kind, TEXTS)] * 3, *BYTES[:4]] if packing else TEXTS
    functions = [f"datamodules.table_reader:{place}" for place in ("", "_opened", "_split")]
    if kind == "parquet":
        functions, changes = ["datamodules.table_reader:_read_parquet"], BYTES

    @reader(f"table-{name}", lambda: {f"table.{name}": content()}, functions, changes)
    def _(folder: Path) -> Any:
        from datamodules import Tabular

        data = Tabular(
            str(folder / f"table.{name}"), target="b", categories="one_hot", val_size=0, test_size=0
        )
        data.setup("fit")


def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns = {"a": NUMBERS[:, 0], "b": NUMBERS[:, 1], "c": ["x", "y", "z"] * 4}
    return packed(lambda file: parquet.write_table(pyarrow.table(columns), file))


_table("csv", lambda: TABLE)
_table("txt", lambda: TABLE.replace(b",", b" "))
_table("csv.gz", lambda: gzip.compress(TABLE))
_table("csv.bz2", lambda: bz2.compress(TABLE))
_table("csv.xz", lambda: lzma.compress(TABLE))
_table("parquet", _parquet)


@reader(
    "text",
    lambda: {"a.txt": b"A text.\nOf two lines.\n", "b.jsonl": b'{"text": "x"}\n' * 3},
    ["framework.language.text:_opened", "framework.language.text:_objects"],
    (*TEXTS, change_json),
)
def _(folder: Path) -> Any:
    from framework.language.text import read_texts

    return sum(len(text) for text in read_texts(str(folder)))


@reader(
    "text-windows",
    lambda: {
        "a.train.txt": b"A text.\nOf two lines.\n" * 3,
        "a.valid.txt": b"Another text of one line.",
    },
    ["framework.language.text:_opened"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from datamodules import TextWindows

    for level in ("character", "word"):
        data = TextWindows(str(folder), level=level, window=4)
        data.setup("fit")
        data.train_set[0]


METRICS = (
    b"epoch,step,train/loss_epoch,val/loss,val/accuracy\n0,5,0.5,,\n0,5,,0.25,0.5\n1,9,1,2,3\n"
)


@reader(
    "metrics",
    lambda: {"metrics.csv": METRICS, "metrics_test.csv": b"epoch,step,test/loss\n0,0,0.5\n"},
    ["framework.runs.csv_logger:read_metrics"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from framework.command.report import table
    from framework.figures.curves import learning_curves  # noqa: F401
    from framework.reports.summary import by_stage
    from framework.runs.csv_logger import read_metrics

    latest: dict[str, Any] = {}
    for name in ("metrics.csv", "metrics_test.csv"):
        for row in read_metrics(folder / name)[1]:
            latest |= {key: value for key, value in row.items() if value not in ("", None)}
    by_stage(latest)
    table(latest)


@reader(
    "gradient-norms",
    lambda: {
        "gradient_norms.csv": (
            b"# Trimtab gradient norms, version 1\n# optimizer: SGD\n# total_steps: 4\n"
            b"step,l2,l1\n0,1.5,3\n1,2,4.25\n2,nan,inf\n3,0.5,1\n"
        )
    },
    [
        "framework.schedules.gradient_norms:holds_gradient_norms",
        "framework.schedules.gradient_norms:read_gradient_norms",
    ],
    TEXTS,
)
def _(folder: Path) -> Any:
    from framework.schedules import read_gradient_norms
    from framework.schedules.gradient_norms import holds_gradient_norms

    holds_gradient_norms(folder / "gradient_norms.csv")
    return read_gradient_norms(folder).norms


RUN = {
    "seed_everything": 0,
    "model": {"class_path": "modules.Classifier", "init_args": {"num_classes": 3}},
    "data": {"class_path": "datamodules.Digits"},
    "trainer": {"max_epochs": 2, "callbacks": [{"class_path": "callbacks.SAF"}]},
    "checkpoint": {"monitor": "val/accuracy", "mode": "max"},
}


REPORT = [
    "framework.reports.class_tables:read_tables",
    "framework.reports.executions:read_executions",
    "framework.reports.pages:write_page",
    "framework.reports.pictures:_content",
    "framework.reports.run_result:RunResult.read",
    "framework.runs.metric_curves:read_curves",
]


@reader(
    "report",
    lambda: {
        "a/metrics.csv": METRICS,
        "a/config.yaml": yaml.safe_dump(RUN).encode(),
        "b/metrics.csv": METRICS,
        "b/metrics_test.csv": b"epoch,step,test/accuracy\n0,0,0.5\n",
        "b/config.yaml": yaml.safe_dump({**RUN, "seed_everything": 1}).encode(),
    },
    REPORT,
    YAML,
)
def _(folder: Path) -> Any:
    from framework.command import report

    report.main([str(folder)])


@reader(
    "run-page",
    lambda: {
        "metrics.csv": METRICS,
        "config.yaml": yaml.safe_dump(RUN).encode(),
        ".executions.json": json.dumps({"fit": {"state": "finished", "seconds": 1.5}}).encode(),
        "tables/test_scores.csv": b"class,F1\ncat,0.5\ndog,1\n",
        "figures/test_scores.png": image("PNG"),
    },
    REPORT,
    (*JSON, *YAML),
)
def _(folder: Path) -> Any:
    from framework.reports.run_page import run_page

    return run_page(folder)


@reader(
    "wandb-id",
    lambda: {"wandb_run_id": b"0a1b2c3d\n"},
    ["framework.runs.wandb_logger:_run_id"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from framework.runs.wandb_logger import _run_id

    return _run_id(folder / "wandb_run_id")


@reader(
    "mlflow-id",
    lambda: {"mlflow_run_id": b"0a1b2c3d" * 4 + b"\n"},
    ["framework.runs.mlflow_logger:_known_run_id"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from framework.runs.mlflow_logger import _known_run_id

    return _known_run_id(folder / "mlflow_run_id")
