"""Reads back what an offline W&B run recorded."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record


def records(folder: Path, patience: float = 30.0) -> Iterator[Record]:
    """Yield what the runs in a run folder would send, in order of time.

    W&B's own process may still be writing when a run has finished, so this waits for the record of
    its end.
    """
    deadline = time.monotonic() + patience
    while True:
        found = list(_written(folder))
        ends = sum(record.HasField("exit") for record in found)
        if ends == len(list(_files(folder))) or time.monotonic() > deadline:
            yield from found
            return
        time.sleep(0.1)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def _written(folder: Path) -> Iterator[Record]:
    """Yield the records that are in the files by now.

    The file is a LevelDB log: after 7 bytes of header, blocks of 32 KiB of chunks, each with its
    checksum (4 bytes), length (2) and type (1 whole, 2 first, 3 middle, 4 last).
    """
    for path in _files(folder):
        data, place, parts = path.read_bytes(), 7, b""
        while place < len(data):
            left = 32768 - place % 32768
            if left < 7:
                place += left
                continue
            if place + 7 > len(data):
                break
            length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
            if place + 7 + length > len(data):
                break
            parts += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                yield Record.FromString(parts)
                parts = b""


def history(folder: Path) -> list[dict[str, Any]]:
    """Return every logged row, in order."""
    rows = [record.history.item for record in records(folder) if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row}
        for row in rows
    ]


def config(folder: Path) -> dict[str, Any]:
    """Return the run's config."""
    found: dict[str, Any] = {}
    for record in records(folder):
        update = record.config if record.HasField("config") else record.run.config
        found |= {item.key: json.loads(item.value_json) for item in update.update}
    return found


def axes(folder: Path) -> dict[str, str]:
    """Return the metric that each metric is drawn against."""
    found: dict[str, str] = {}
    for record in records(folder):
        if record.HasField("metric") and record.metric.name and record.metric.step_metric:
            found[record.metric.name] = record.metric.step_metric
    return found


def summary(folder: Path) -> dict[str, Any]:
    """Return the run's summary, of what was logged last and what was set."""
    found: dict[str, Any] = {}
    for record in records(folder):
        if record.HasField("summary"):
            for item in record.summary.update:
                found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found


def first_run(folder: Path) -> Any:
    """Return the record with which the run began."""
    return next(record.run for record in records(folder) if record.HasField("run"))
